// Sums over the input rows of a changed layer. With A = DᵀD, B = DᵀW* and C = W*ᵀW* the gradient for a row is
// 2 s [(A + B)ᵀ h̃ + (B + C)ᵀ Δ], without what belongs to the 1 in h̃.
#include <ATen/ATen.h>

#include <algorithm>

#include "buffer_pool.h"
#include "output_reg.h"
#include "tasks.h"
#include "tile_kernels.h"

namespace hnetfast {

using at::Tensor;

namespace {

constexpr int64_t kBlockBytes = 48 << 10;  // of rows of h̃

struct RowSizes {
  int64_t conditions, chunks, width, columns, pitch, inner_pitch;
  int64_t sums() const { return columns * pitch + columns * inner_pitch + width * inner_pitch; }
};

template <typename T>
struct Rows {
  const T *now, *then, *scaling;
  int64_t now_stride, then_stride;
  T* grad;  // null if not needed
};

// [columns, width] to [columns, pitch], twice it, ending in zeros.
Tensor padded_twice(const Tensor& matrix, int64_t pitch) {
  return at::constant_pad_nd(matrix * 2, {0, pitch - matrix.size(1)}).contiguous();
}

// Sums over `count` rows of every condition beginning with `first`; writes the gradients of these rows.
template <typename T>
Tensor sums_of_rows(const RowSizes& n, const Rows<T>& rows, int64_t first, int64_t count, const T* of_h, const T* of_change,
                    const at::TensorOptions& options) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t all = n.conditions * count, inner = n.inner_pitch;
  const int64_t block = std::clamp<int64_t>(kBlockBytes / (n.pitch * static_cast<int64_t>(sizeof(T))), 16, 256);
  const int64_t blocks = (all + block - 1) / block;
  // Sums of as many parts of the rows are added in order, whoever computed them.
  const int64_t slabs = std::clamp<int64_t>(std::min((int64_t(1) << 22) / n.sums(), blocks), 1, 8);
  const Tensor result = empty_pooled({slabs, n.sums()}, options).zero_();
  T* const sums = result.mutable_data_ptr<T>();
  parallel(slabs, 4 * all * n.columns * n.columns, [&](int64_t begin, int64_t end) {
    T* const h = scratch<T>(block * (2 * n.pitch + 3 * n.inner_pitch));
    T *const scaled = h + block * n.pitch, *const change = scaled + block * n.pitch;
    T *const scaled_change = change + block * n.inner_pitch, *const grad = scaled_change + block * n.inner_pitch;
    for (int64_t slab = begin; slab < end; ++slab) {
      T *hh = sums + slab * n.sums(), *hd = hh + n.columns * n.pitch, *dd = hd + n.columns * n.inner_pitch;
      for (int64_t i = blocks * slab / slabs; i < blocks * (slab + 1) / slabs; ++i) {
        const int64_t from = i * block, height = std::min(block, all - from);
        for (int64_t r = 0; r < height; ++r) {
          const int64_t condition = (from + r) / count, row = condition * n.chunks + first + (from + r) % count;
          const T *now = rows.now + row * rows.now_stride, *then = rows.then + row * rows.then_stride, s = rows.scaling[condition];
          T *h_row = h + r * n.pitch, *scaled_row = scaled + r * n.pitch;
          T *change_row = change + r * n.inner_pitch, *scaled_change_row = scaled_change + r * n.inner_pitch;
          for (int64_t k = 0; k < n.width; ++k) {
            h_row[k] = now[k];
            scaled_row[k] = s * now[k];
            change_row[k] = now[k] - then[k];
            scaled_change_row[k] = s * change_row[k];
          }
          for (int64_t k = n.width; k < n.pitch; ++k) {
            h_row[k] = k < n.columns ? T(1) : T(0);
            scaled_row[k] = k < n.columns ? s : T(0);
          }
          std::fill(change_row + n.width, change_row + n.inner_pitch, T(0));
          std::fill(scaled_change_row + n.width, scaled_change_row + n.inner_pitch, T(0));
        }
        kernels.gemm(n.columns, n.pitch, height, scaled, 1, n.pitch, h, n.pitch, hh, n.pitch, nullptr, true);
        kernels.gemm(n.columns, inner, height, scaled, 1, n.pitch, change, inner, hd, inner, nullptr, true);
        kernels.gemm(n.width, inner, height, scaled_change, 1, inner, change, inner, dd, inner, nullptr, true);
        if (!rows.grad) continue;
        kernels.gemm(height, inner, n.columns, scaled, n.pitch, 1, of_h, inner, grad, inner, nullptr, false);
        kernels.gemm(height, inner, n.width, scaled_change, inner, 1, of_change, inner, grad, inner, nullptr, true);
        for (int64_t r = 0; r < height; ++r) {
          const int64_t condition = (from + r) / count, row = condition * n.chunks + first + (from + r) % count;
          std::copy(grad + r * n.inner_pitch, grad + r * n.inner_pitch + n.width, rows.grad + row * n.width);
        }
      }
    }
  });
  for (int64_t slab = 1; slab < slabs; ++slab) kernels.add(sums, sums + slab * n.sums(), n.sums());
  return result[0];
}

Tensor inner_product(const Tensor& a, const Tensor& b) { return (a.to(at::kDouble) * b.to(at::kDouble)).sum(); }

template <typename T>
RowSums run(const RowSizes& n, const Tensor& now, const Tensor& then, const Tensor& scaling, const std::array<Tensor, 3>& matrices,
            bool gradients) {
  RowSums result;
  if (gradients) result.rows = empty_pooled(now.sizes(), now.options());
  const Rows<T> rows{now.const_data_ptr<T>(), then.const_data_ptr<T>(), scaling.const_data_ptr<T>(), now.stride(0), then.stride(0),
                     gradients ? result.rows.mutable_data_ptr<T>() : nullptr};
  std::array<Tensor, 2> hh, hd, dd;  // sums over rows of the last chunk, and over the others
  for (const int64_t part : {0, 1}) {
    const int64_t first = part == 0 ? n.chunks - 1 : 0, count = part == 0 ? 1 : n.chunks - 1;
    const auto matrix = [&](int i) { return part == 0 ? matrices[i][0] : matrices[i].sum(0); };
    const Tensor a = matrix(0), b = matrix(1), c = matrix(2);
    const Tensor of_h = padded_twice(a.narrow(1, 0, n.width) + b, n.inner_pitch);
    const Tensor of_change = padded_twice(b.narrow(0, 0, n.width).t() + c, n.inner_pitch);
    const Tensor sums = sums_of_rows<T>(n, rows, first, count, of_h.const_data_ptr<T>(), of_change.const_data_ptr<T>(), now.options());
    const auto cut = [&](int64_t start, int64_t height, int64_t pitch, int64_t width) {
      return sums.narrow(0, start, height * pitch).view({height, pitch}).narrow(1, 0, width);
    };
    hh[part] = cut(0, n.columns, n.pitch, n.columns);
    hd[part] = cut(n.columns * n.pitch, n.columns, n.inner_pitch, n.width);
    dd[part] = cut(n.columns * (n.pitch + n.inner_pitch), n.width, n.inner_pitch, n.width);
  }
  // All rows meet the first part of the layer, those of the last chunk only that.
  const auto of_parts = [](const std::array<Tensor, 2>& sums) { return at::stack({sums[0] + sums[1], sums[1]}); };
  result.changes = of_parts(hh);
  result.mixed = of_parts(hd) * 2;
  result.loss = inner_product(matrices[0], result.changes) + inner_product(matrices[1], result.mixed) +
                inner_product(matrices[2], of_parts(dd));
  return result;
}

}  // namespace

RowSums change_of_rows(const Tensor& now, const Tensor& then, const Tensor& scaling, int64_t chunks,
                       const std::array<Tensor, 3>& matrices, bool has_bias, bool gradients) {
  const bool single = now.scalar_type() == at::kFloat;
  const int64_t K = now.size(1), C = K + (has_bias ? 1 : 0), lanes = single ? tile_kernels<float>().lanes : tile_kernels<double>().lanes;
  const RowSizes sizes{now.size(0) / chunks, chunks, K, C, round_up(C, lanes), round_up(K, lanes)};
  return single ? run<float>(sizes, now, then, scaling, matrices, gradients) : run<double>(sizes, now, then, scaling, matrices, gradients);
}

}  // namespace hnetfast
