// Sums over the input rows of a changed layer. With z = [h̃ Δ] they are all parts of one symmetric matrix, Σ s z zᵀ. With
// A = DᵀD, B = DᵀW* and C = W*ᵀW* the gradient for a row is 2 s [(A + B)ᵀ h̃ + (B + C)ᵀ Δ], without what belongs to the
// 1 in h̃.
#include <ATen/ATen.h>

#include <algorithm>

#include "buffer_pool.h"
#include "output_reg.h"
#include "tasks.h"
#include "tile_kernels.h"

namespace hnetfast {

using at::Tensor;

namespace {

constexpr int64_t kBlockBytes = 80 << 10;      // of rows z
constexpr int64_t kPanel = 32;                 // rows of the symmetric matrix computed from the diagonal on
constexpr int64_t kMostSums = int64_t(1) << 22;  // elements

struct RowSizes {
  int64_t conditions, chunks, width, columns;  // columns of h̃: width, or one more
  int64_t pitch, grad_pitch;                   // of rows z, and of their gradients
  int64_t joint() const { return columns + width; }
};

template <typename T>
struct Rows {
  const T *now, *then, *scaling;
  int64_t now_stride, then_stride;
  T* grad;  // null if not needed
};

// Σ s z zᵀ, its upper half, over `count` rows of every condition beginning with `first`; writes the gradients of these
// rows, which are s z times `gradients`.
template <typename T>
Tensor sum_of_rows(const RowSizes& n, const Rows<T>& rows, int64_t first, int64_t count, const Tensor& gradients) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t all = n.conditions * count, size = n.joint() * n.pitch;
  const int64_t block = std::clamp<int64_t>(kBlockBytes / (n.pitch * static_cast<int64_t>(sizeof(T))), 16, 256);
  const int64_t blocks = (all + block - 1) / block;
  // Sums of as many parts of the rows are added in order, whoever computed them.
  const int64_t slabs = std::clamp<int64_t>(std::min(kMostSums / size, blocks), 1, 8);
  const Tensor result = empty_pooled({slabs, n.joint(), n.pitch}, gradients.options()).zero_();
  T* const sums = result.mutable_data_ptr<T>();
  const T* const of_z = gradients.const_data_ptr<T>();
  parallel(slabs, 2 * all * n.joint() * n.joint(), [&](int64_t begin, int64_t end) {
    T* const z = scratch<T>(block * (2 * n.pitch + n.grad_pitch));
    T *const scaled = z + block * n.pitch, *const grad = scaled + block * n.pitch;
    for (int64_t slab = begin; slab < end; ++slab) {
      for (int64_t i = blocks * slab / slabs; i < blocks * (slab + 1) / slabs; ++i) {
        const int64_t from = i * block, height = std::min(block, all - from);
        const auto row_of = [&](int64_t r) { return (from + r) / count * n.chunks + first + (from + r) % count; };
        for (int64_t r = 0; r < height; ++r) {
          const T *now = rows.now + row_of(r) * rows.now_stride, *then = rows.then + row_of(r) * rows.then_stride;
          T *row = z + r * n.pitch, *change = row + n.columns;
          std::copy(now, now + n.width, row);
          if (n.columns > n.width) row[n.width] = T(1);
          for (int64_t k = 0; k < n.width; ++k) change[k] = now[k] - then[k];
          std::fill(row + n.joint(), row + n.pitch, T(0));
          const T s = rows.scaling[(from + r) / count];
          for (int64_t k = 0; k < n.pitch; ++k) scaled[r * n.pitch + k] = s * row[k];
        }
        for (int64_t m = 0; m < n.joint(); m += kPanel) {
          kernels.gemm(std::min(kPanel, n.joint() - m), n.pitch - m, height, scaled + m, 1, n.pitch, z + m, n.pitch,
                       sums + slab * size + m * n.pitch + m, n.pitch, nullptr, true);
        }
        if (!rows.grad) continue;
        kernels.gemm(height, n.grad_pitch, n.joint(), scaled, n.pitch, 1, of_z, n.grad_pitch, grad, n.grad_pitch, nullptr, false);
        for (int64_t r = 0; r < height; ++r) {
          std::copy(grad + r * n.grad_pitch, grad + r * n.grad_pitch + n.width, rows.grad + row_of(r) * n.width);
        }
      }
    }
  });
  for (int64_t slab = 1; slab < slabs; ++slab) kernels.add(sums, sums + slab * size, size);
  return result[0].narrow(1, 0, n.joint());
}

Tensor inner_product(const Tensor& a, const Tensor& b) { return (a.to(at::kDouble) * b.to(at::kDouble)).sum(); }

template <typename T>
RowSums run(const RowSizes& n, const Tensor& now, const Tensor& then, const Tensor& scaling, const std::array<Tensor, 3>& matrices,
            bool gradients) {
  RowSums result;
  if (gradients) result.rows = empty_pooled(now.sizes(), now.options());
  const Rows<T> rows{now.const_data_ptr<T>(), then.const_data_ptr<T>(), scaling.const_data_ptr<T>(), now.stride(0), then.stride(0),
                     gradients ? result.rows.mutable_data_ptr<T>() : nullptr};
  std::array<Tensor, 2> sums;  // over rows of the last chunk, and over the others
  for (const int64_t part : {0, 1}) {
    const auto matrix = [&](int i) { return part == 0 ? matrices[i][0] : matrices[i].sum(0); };
    const Tensor a = matrix(0), b = matrix(1), c = matrix(2);
    const Tensor of_h = a.narrow(1, 0, n.width) + b, of_change = b.narrow(0, 0, n.width).t() + c;
    const Tensor of_z = at::constant_pad_nd(at::cat({of_h, of_change}) * 2, {0, n.grad_pitch - n.width}).contiguous();
    const Tensor upper = part == 0 ? sum_of_rows<T>(n, rows, n.chunks - 1, 1, of_z) : sum_of_rows<T>(n, rows, 0, n.chunks - 1, of_z);
    sums[part] = upper.triu() + upper.triu(1).t();
  }
  // All rows meet the first part of the layer, those of the last chunk only that.
  const Tensor both = at::stack({sums[0] + sums[1], sums[1]});
  result.changes = both.narrow(1, 0, n.columns).narrow(2, 0, n.columns).contiguous();
  result.mixed = both.narrow(1, 0, n.columns).narrow(2, n.columns, n.width) * 2;
  result.loss = inner_product(matrices[0], result.changes) + inner_product(matrices[1], result.mixed) +
                inner_product(matrices[2], both.narrow(1, n.columns, n.width).narrow(2, n.columns, n.width));
  return result;
}

}  // namespace

RowSums change_of_rows(const Tensor& now, const Tensor& then, const Tensor& scaling, int64_t chunks,
                       const std::array<Tensor, 3>& matrices, bool has_bias, bool gradients) {
  const bool single = now.scalar_type() == at::kFloat;
  const int64_t K = now.size(1), C = K + (has_bias ? 1 : 0), lanes = single ? tile_kernels<float>().lanes : tile_kernels<double>().lanes;
  const RowSizes sizes{now.size(0) / chunks, chunks, K, C, round_up(C + K, lanes), round_up(K, lanes)};
  return single ? run<float>(sizes, now, then, scaling, matrices, gradients) : run<double>(sizes, now, then, scaling, matrices, gradients);
}

}  // namespace hnetfast
