// Sums over the input rows of a changed layer. With z = [h̃ Δ] they are all parts of one symmetric matrix, Σ s z zᵀ. With
// A = DᵀD, B = DᵀW* and C = W*ᵀW* the gradient for a row is 2 s [(A + B)ᵀ h̃ + (B + C)ᵀ Δ], without what belongs to the
// 1 in h̃.
#include <ATen/ATen.h>

#include <algorithm>

#include "common/buffer_pool.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "output_reg/output_reg.h"
#include "tiles/tile_kernels.h"

namespace hnetfast {

using at::Tensor;

namespace {

constexpr int64_t kBlockBytes = 80 << 10;        // of rows z
constexpr int64_t kPanel = 32;                   // rows of the symmetric matrix computed from the diagonal on
constexpr int64_t kMostSums = int64_t(1) << 22;  // elements

struct RowSizes {
  int64_t conditions, chunks, width, columns;  // columns of h̃: width, or one more
  int64_t pitch, grad_pitch;                   // of rows z, and of their gradients
  int64_t joint() const { return columns + width; }
};

template <typename T>
struct Rows {
  const T *now, *change, *scaling;
  int64_t now_stride, change_stride;
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
          const T *now = rows.now + row_of(r) * rows.now_stride, *change = rows.change + row_of(r) * rows.change_stride;
          T* row = z + r * n.pitch;
          std::copy(now, now + n.width, row);
          if (n.columns > n.width) row[n.width] = T(1);
          std::copy(change, change + n.width, row + n.columns);
          std::fill(row + n.joint(), row + n.pitch, T(0));
          const T s = rows.scaling[(from + r) / count];
          for (int64_t k = 0; k < n.pitch; ++k) scaled[r * n.pitch + k] = s * row[k];
        }
        for (int64_t m = 0; m < n.joint(); m += kPanel) {
          const MatrixView<const T> panel{scaled + m, height, std::min(kPanel, n.joint() - m), n.pitch};
          kernels.gemm(panel.t(), {z + m, height, n.pitch - m, n.pitch},
                       {sums + slab * size + m * n.pitch + m, panel.cols, n.pitch - m, n.pitch}, nullptr, true);
        }
        if (!rows.grad) continue;
        kernels.gemm({scaled, height, n.joint(), n.pitch}, {of_z, n.joint(), n.grad_pitch, n.grad_pitch},
                     {grad, height, n.grad_pitch, n.grad_pitch}, nullptr, false);
        for (int64_t r = 0; r < height; ++r) {
          std::copy(grad + r * n.grad_pitch, grad + r * n.grad_pitch + n.width, rows.grad + row_of(r) * n.width);
        }
      }
    }
  });
  for (int64_t slab = 1; slab < slabs; ++slab) kernels.add(sums, sums + slab * size, size);
  return result;  // in its first part
}

template <typename T>
RowSums run(const RowSizes& n, const Tensor& now, const Tensor& change, const Tensor& scaling,
            const std::array<Tensor, 3>& matrices, bool gradients) {
  // Plain loops, as calls on matrices this small would cost more than what they compute.
  const int64_t C = n.columns, K = n.width;
  RowSums result;
  if (gradients) result.rows = empty_pooled(now.sizes(), now.options());
  const Rows<T> rows{
      now.const_data_ptr<T>(), change.const_data_ptr<T>(), scaling.const_data_ptr<T>(),
      now.stride(0),           change.stride(0),           gradients ? result.rows.mutable_data_ptr<T>() : nullptr};
  const T *a = matrices[0].const_data_ptr<T>(), *b = matrices[1].const_data_ptr<T>(), *c = matrices[2].const_data_ptr<T>();
  const Tensor of_z = at::zeros({2, n.joint(), n.grad_pitch}, now.options());
  T* const of_z_data = of_z.mutable_data_ptr<T>();
  for (int64_t part = 0; part < 2; ++part) {  // rows of the last chunk meet the first part, others both
    T* const to = of_z_data + part * n.joint() * n.grad_pitch;
    for (int64_t i = 0; i <= part; ++i) {
      const T *a_part = a + i * C * C, *b_part = b + i * C * K, *c_part = c + i * K * K;
      for (int64_t row = 0; row < C; ++row) {
        for (int64_t k = 0; k < K; ++k) to[row * n.grad_pitch + k] += 2 * (a_part[row * C + k] + b_part[row * K + k]);
      }
      for (int64_t row = 0; row < K; ++row) {
        for (int64_t k = 0; k < K; ++k) to[(C + row) * n.grad_pitch + k] += 2 * (b_part[k * K + row] + c_part[row * K + k]);
      }
    }
  }
  const Tensor last = sum_of_rows<T>(n, rows, n.chunks - 1, 1, of_z[0]),
               others = sum_of_rows<T>(n, rows, 0, n.chunks - 1, of_z[1]);
  const T *last_data = last.const_data_ptr<T>(), *others_data = others.const_data_ptr<T>();
  result.changes = at::empty({2, C, C}, now.options());
  result.mixed = at::empty({2, C, K}, now.options());
  T *changes = result.changes.mutable_data_ptr<T>(), *mixed = result.mixed.mutable_data_ptr<T>();
  double loss = 0;
  for (int64_t part = 0; part < 2; ++part) {  // of the layer: all rows meet the first part, those of other chunks the second
    for (int64_t row = 0; row < n.joint(); ++row) {
      for (int64_t column = 0; column < n.joint(); ++column) {
        const int64_t upper = std::min(row, column) * n.pitch + std::max(row, column);
        const T sum = part == 0 ? last_data[upper] + others_data[upper] : others_data[upper];
        if (row < C && column < C) {
          loss += static_cast<double>(*a++) * sum;
          *changes++ = sum;
        } else if (row < C) {
          loss += static_cast<double>(*b++) * (2 * sum);
          *mixed++ = 2 * sum;
        } else if (column >= C) {
          loss += static_cast<double>(*c++) * sum;
        }
      }
    }
  }
  result.loss = loss;
  return result;
}

}  // namespace

RowSums change_of_rows(const Tensor& now, const Tensor& change, const Tensor& scaling, int64_t chunks,
                       const std::array<Tensor, 3>& matrices, bool has_bias, bool gradients) {
  const bool single = now.scalar_type() == at::kFloat;
  const int64_t K = now.size(1), C = K + (has_bias ? 1 : 0),
                lanes = single ? tile_kernels<float>().lanes : tile_kernels<double>().lanes;
  const RowSizes sizes{now.size(0) / chunks, chunks, K, C, round_up(C + K, lanes), round_up(K, lanes)};
  return single ? run<float>(sizes, now, change, scaling, matrices, gradients)
                : run<double>(sizes, now, change, scaling, matrices, gradients);
}

}  // namespace hnetfast
