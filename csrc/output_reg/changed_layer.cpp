// Matrices of what changed in a linear layer. D is never stored: blocks of rows of it are made in the caches.
#include <ATen/ATen.h>

#include <algorithm>

#include "common/buffer_pool.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "output_reg/output_reg.h"
#include "tiles/tile_kernels.h"
#include "tiles/tile_types.h"

namespace hnetfast {

using at::Tensor;

namespace {

constexpr int64_t kBlockBytes = 96 << 10;  // of rows of D, and as much of W*
constexpr int64_t kSlabs = 8;              // sums of as many parts are added in order, whoever computed them

// Rows [begin, end) of D, [rows, pitch], and of W*, [rows, previous_pitch], both ending in zeros.
template <typename T>
void make_block(const ChangedLayer& layer, int64_t begin, int64_t end, int64_t pitch, int64_t previous_pitch, T* change,
                T* previous) {
  const int64_t K = layer.width();
  const T *w = layer.weight.const_data_ptr<T>(), *p = layer.previous_weight.const_data_ptr<T>();
  const T* b = layer.has_bias() ? layer.bias.const_data_ptr<T>() : nullptr;
  const T* pb = layer.has_bias() ? layer.previous_bias.const_data_ptr<T>() : nullptr;
  for (int64_t row = begin; row < end; ++row, change += pitch, previous += previous_pitch) {
    for (int64_t k = 0; k < K; ++k) change[k] = w[row * K + k] - p[row * K + k];
    std::copy(p + row * K, p + (row + 1) * K, previous);
    int64_t k = K;
    if (b) change[k++] = b[row] - pb[row];
    std::fill(change + k, change + pitch, T(0));
    std::fill(previous + K, previous + previous_pitch, T(0));
  }
}

template <typename T>
int64_t rows_of_block(int64_t pitch) {
  return std::clamp<int64_t>(kBlockBytes / (pitch * static_cast<int64_t>(sizeof(T))), 16, 1024);
}

// [M, pitch] to [M, columns].
template <typename T>
void cut(const T* from, int64_t M, int64_t pitch, int64_t columns, T* to) {
  for (int64_t m = 0; m < M; ++m) std::copy(from + m * pitch, from + m * pitch + columns, to + m * columns);
}

// The matrices of outputs [begin, end), to `results`.
template <typename T>
void matrices_of_rows(const ChangedLayer& layer, int64_t begin, int64_t end, const std::array<T*, 3>& results) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t K = layer.width(), C = layer.columns(), pitch = round_up(C, kernels.lanes),
                previous_pitch = round_up(K, kernels.lanes);
  const int64_t size = C * pitch + C * previous_pitch + K * previous_pitch;
  const int64_t block = rows_of_block<T>(pitch), blocks = (end - begin + block - 1) / block;
  // Wide layers have few sums of rows, shared out by rows of the result.
  const int64_t slabs = std::clamp<int64_t>(std::min(kSlabs, (int64_t(1) << 20) / size), 1, std::max<int64_t>(blocks, 1));
  const int64_t panels = std::clamp<int64_t>(C / 128, 1, 8);
  const Tensor sums = empty_pooled({slabs, size}, layer.weight.options()).zero_();
  T* const all = sums.mutable_data_ptr<T>();
  parallel(slabs * panels, 3 * (end - begin) * C * C, [&](int64_t first_task, int64_t last_task) {
    T* change = scratch<T>(block * (pitch + previous_pitch));
    T* previous = change + block * pitch;
    for (int64_t task = first_task; task < last_task; ++task) {
      const int64_t slab = task / panels, panel = task % panels;
      const int64_t m0 = C * panel / panels, m1 = C * (panel + 1) / panels, k0 = std::min(m0, K), k1 = std::min(m1, K);
      T *changes = all + slab * size, *mixed = changes + C * pitch, *unchanged = mixed + C * previous_pitch;
      for (int64_t i = blocks * slab / slabs; i < blocks * (slab + 1) / slabs; ++i) {
        const int64_t from = begin + i * block, to = std::min(from + block, end);
        make_block(layer, from, to, pitch, previous_pitch, change, previous);
        const MatrixView<const T> d{change, to - from, pitch, pitch}, w{previous, to - from, previous_pitch, previous_pitch};
        const MatrixView<const T> some_d{change + m0, to - from, m1 - m0, pitch};
        const MatrixView<const T> some_w{previous + k0, to - from, k1 - k0, previous_pitch};
        kernels.gemm(some_d.t(), d, {changes + m0 * pitch, m1 - m0, pitch, pitch}, nullptr, true);
        kernels.gemm(some_d.t(), w, {mixed + m0 * w.stride, m1 - m0, w.cols, w.stride}, nullptr, true);
        kernels.gemm(some_w.t(), w, {unchanged + k0 * w.stride, k1 - k0, w.cols, w.stride}, nullptr, true);
      }
    }
  });
  for (int64_t slab = 1; slab < slabs; ++slab) kernels.add(all, all + slab * size, size);
  cut(all, C, pitch, C, results[0]);
  cut(all + C * pitch, C, previous_pitch, K, results[1]);
  cut(all + C * (pitch + previous_pitch), K, previous_pitch, K, results[2]);
}

// grad_A = D (Q + Qᵀ) + W* Rᵀ for gradients Q of DᵀD, [2, C, C], and R of DᵀW*, [2, C, K].
template <typename T>
void backward_rows(const ChangedLayer& layer, const Tensor& q, const Tensor& r, int64_t begin, int64_t end, T* grad_weight,
                   T* grad_bias) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t K = layer.width(), C = layer.columns(), pitch = round_up(C, kernels.lanes),
                previous_pitch = round_up(K, kernels.lanes);
  const int64_t block = rows_of_block<T>(pitch), blocks = (end - begin + block - 1) / block;
  const Tensor changes = at::constant_pad_nd(q + q.t(), {0, pitch - C}).contiguous();  // [C, pitch]
  const Tensor mixed = at::constant_pad_nd(r.t(), {0, pitch - C}).contiguous();        // [K, pitch]
  parallel(blocks, 2 * (end - begin) * C * C, [&](int64_t first, int64_t last) {
    T* change = scratch<T>(block * (2 * pitch + previous_pitch));
    T *previous = change + block * pitch, *result = previous + block * previous_pitch;
    for (int64_t i = first; i < last; ++i) {
      const int64_t from = begin + i * block, to = std::min(from + block, end);
      make_block(layer, from, to, pitch, previous_pitch, change, previous);
      const MatrixView<T> grad{result, to - from, pitch, pitch};
      kernels.gemm({change, to - from, C, pitch}, view_of<T>(changes), grad, nullptr, false);
      kernels.gemm({previous, to - from, K, previous_pitch}, view_of<T>(mixed), grad, nullptr, true);
      for (int64_t row = from; row < to; ++row) {
        const T* values = result + (row - from) * pitch;
        std::copy(values, values + K, grad_weight + row * K);
        if (grad_bias) grad_bias[row] = values[K];
      }
    }
  });
}

}  // namespace

std::array<Tensor, 3> layer_matrices(const ChangedLayer& layer) {
  const int64_t C = layer.columns(), K = layer.width();
  const auto empty = [&](int64_t rows, int64_t columns) { return at::empty({2, rows, columns}, layer.weight.options()); };
  const std::array<Tensor, 3> matrices{empty(C, C), empty(C, K), empty(K, K)};
  with_tile_type(layer.weight.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    T *a = matrices[0].mutable_data_ptr<T>(), *b = matrices[1].mutable_data_ptr<T>(), *c = matrices[2].mutable_data_ptr<T>();
    matrices_of_rows<T>(layer, 0, layer.split, {a, b, c});
    matrices_of_rows<T>(layer, layer.split, layer.outputs(), {a + C * C, b + C * K, c + K * K});
  });
  return matrices;
}

std::array<Tensor, 2> layer_gradients(const ChangedLayer& layer, const Tensor& grad_changes, const Tensor& grad_mixed) {
  const Tensor weight = empty_pooled(layer.weight.sizes(), layer.weight.options());
  const Tensor bias = at::empty({layer.has_bias() ? layer.outputs() : 0}, layer.weight.options());
  with_tile_type(layer.weight.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    T *w = weight.mutable_data_ptr<T>(), *b = layer.has_bias() ? bias.mutable_data_ptr<T>() : nullptr;
    backward_rows<T>(layer, grad_changes[0], grad_mixed[0], 0, layer.split, w, b);
    backward_rows<T>(layer, grad_changes[1], grad_mixed[1], layer.split, layer.outputs(), w, b);
  });
  return {weight, bias};
}

}  // namespace hnetfast
