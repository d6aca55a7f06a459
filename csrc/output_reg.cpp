// hnetfast::difference_grams on the CPU: matrices of what changed in a linear layer, for ops/output_reg.py.
//
// With A = [W b] the layer, A* = [W* b*] what it was and D = A − A*: DᵀD, DᵀW* and W*ᵀW*, each K × K however many
// outputs there are. D is never stored: blocks of rows of it are made in the caches. Rows before and after `split` have
// sums of their own, as the last chunk of what a hypernetwork generates has outputs that nobody sees.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <vector>

#include "buffer_pool.h"
#include "tasks.h"
#include "tile_kernels.h"

namespace hnetfast {
namespace {

using at::Tensor;

constexpr const char* kOp = "difference_grams";
constexpr int64_t kBlockBytes = 96 << 10;  // of rows of D, and as much of W*
constexpr int64_t kSlabs = 8;              // sums of as many parts are added in order, whoever computed them

struct Layer {
  Tensor weight, bias, previous_weight, previous_bias;
  int64_t outputs() const { return weight.size(0); }
  int64_t width() const { return weight.size(1); }
  bool has_bias() const { return bias.defined(); }
  int64_t columns() const { return width() + (has_bias() ? 1 : 0); }  // of D
};

Layer read_layer(const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& previous_weight,
                 const std::optional<Tensor>& previous_bias, int64_t split) {
  TORCH_CHECK_VALUE(weight.dim() == 2 && weight.sizes() == previous_weight.sizes(), kOp, ": weight has shape ", weight.sizes(),
                    " and previous_weight ", previous_weight.sizes(), ", expected [outputs, width] of both");
  TORCH_CHECK_VALUE(bias.has_value() == previous_bias.has_value(), kOp, ": bias and previous_bias: both are needed, or none");
  for (const auto& [name, t] : {std::pair("bias", bias), std::pair("previous_bias", previous_bias)}) {
    TORCH_CHECK_VALUE(!t || (t->dim() == 1 && t->size(0) == weight.size(0)), kOp, ": ", name, " has shape ", t ? t->sizes() : at::IntArrayRef(),
                      ", expected [", weight.size(0), "]");
  }
  TORCH_CHECK_VALUE(split >= 0 && split <= weight.size(0), kOp, ": split is ", split, ", accepted is 0 to ", weight.size(0));
  for (const Tensor& t : {weight, previous_weight, bias.value_or(weight), previous_bias.value_or(weight)}) {
    TORCH_CHECK_TYPE((t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble) && t.scalar_type() == weight.scalar_type(),
                     kOp, ": expected tensors of one type, Float or Double, got ", t.scalar_type());
  }
  return {weight.contiguous(), bias ? bias->contiguous() : Tensor(), previous_weight.contiguous(),
          previous_bias ? previous_bias->contiguous() : Tensor()};
}

// Rows [begin, end) of D, [rows, pitch], and of W*, [rows, previous_pitch], both ending in zeros.
template <typename T>
void make_block(const Layer& layer, int64_t begin, int64_t end, int64_t pitch, int64_t previous_pitch, T* change, T* previous) {
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
int64_t rows_of_block(int64_t pitch) { return std::clamp<int64_t>(kBlockBytes / (pitch * static_cast<int64_t>(sizeof(T))), 16, 1024); }

// [M, pitch] to [M, columns].
template <typename T>
Tensor cut(const T* from, int64_t M, int64_t pitch, int64_t columns, const at::TensorOptions& options) {
  const Tensor result = at::empty({M, columns}, options);
  T* to = result.mutable_data_ptr<T>();
  for (int64_t m = 0; m < M; ++m) std::copy(from + m * pitch, from + m * pitch + columns, to + m * columns);
  return result;
}

template <typename T>
std::array<Tensor, 3> grams_of_rows(const Layer& layer, int64_t begin, int64_t end) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t K = layer.width(), C = layer.columns(), pitch = round_up(C, kernels.lanes), previous_pitch = round_up(K, kernels.lanes);
  const int64_t size = C * pitch + C * previous_pitch + K * previous_pitch;
  const int64_t block = rows_of_block<T>(pitch), blocks = (end - begin + block - 1) / block;
  // Wide layers have few sums of rows, shared out by rows of the result.
  const int64_t slabs = std::clamp<int64_t>(std::min(kSlabs, (int64_t(1) << 20) / size), 1, std::max<int64_t>(blocks, 1));
  const int64_t panels = std::clamp<int64_t>(C / 128, 1, 8);
  Tensor sums = at::zeros({slabs, size}, layer.weight.options());
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
        kernels.gemm(m1 - m0, pitch, to - from, change + m0, 1, pitch, change, pitch, changes + m0 * pitch, pitch, nullptr, true);
        kernels.gemm(m1 - m0, previous_pitch, to - from, change + m0, 1, pitch, previous, previous_pitch, mixed + m0 * previous_pitch,
                     previous_pitch, nullptr, true);
        kernels.gemm(k1 - k0, previous_pitch, to - from, previous + k0, 1, previous_pitch, previous, previous_pitch,
                     unchanged + k0 * previous_pitch, previous_pitch, nullptr, true);
      }
    }
  });
  for (int64_t slab = 1; slab < slabs; ++slab) kernels.add(all, all + slab * size, size);
  return {cut(all, C, pitch, C, sums.options()), cut(all + C * pitch, C, previous_pitch, K, sums.options()),
          cut(all + C * (pitch + previous_pitch), K, previous_pitch, K, sums.options())};
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& previous_weight,
                                           const std::optional<Tensor>& previous_bias, int64_t split) {
  const Layer layer = read_layer(weight, bias, previous_weight, previous_bias, split);
  std::array<std::vector<Tensor>, 3> parts;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>(0, split), std::pair(split, layer.outputs())}) {
    const auto grams = weight.scalar_type() == at::kFloat ? grams_of_rows<float>(layer, begin, end) : grams_of_rows<double>(layer, begin, end);
    for (int i = 0; i < 3; ++i) parts[i].push_back(grams[i]);
  }
  return {at::stack(parts[0]), at::stack(parts[1]), at::stack(parts[2])};
}

// grad_A = D (Q + Qᵀ) + W* Rᵀ for gradients Q of DᵀD, [2, C, C], and R of DᵀW*, [2, C, K].
template <typename T>
void backward_rows(const Layer& layer, const Tensor& q, const Tensor& r, int64_t begin, int64_t end, T* grad_weight, T* grad_bias) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t K = layer.width(), C = layer.columns(), pitch = round_up(C, kernels.lanes), previous_pitch = round_up(K, kernels.lanes);
  const int64_t block = rows_of_block<T>(pitch), blocks = (end - begin + block - 1) / block;
  const Tensor changes = at::constant_pad_nd(q + q.t(), {0, pitch - C}).contiguous();  // [C, pitch]
  const Tensor mixed = at::constant_pad_nd(r.t(), {0, pitch - C}).contiguous();        // [K, pitch]
  parallel(blocks, 2 * (end - begin) * C * C, [&](int64_t first, int64_t last) {
    T* change = scratch<T>(block * (2 * pitch + previous_pitch));
    T *previous = change + block * pitch, *result = previous + block * previous_pitch;
    for (int64_t i = first; i < last; ++i) {
      const int64_t from = begin + i * block, to = std::min(from + block, end);
      make_block(layer, from, to, pitch, previous_pitch, change, previous);
      kernels.gemm(to - from, pitch, C, change, pitch, 1, changes.const_data_ptr<T>(), pitch, result, pitch, nullptr, false);
      kernels.gemm(to - from, pitch, K, previous, previous_pitch, 1, mixed.const_data_ptr<T>(), pitch, result, pitch, nullptr, true);
      for (int64_t row = from; row < to; ++row) {
        const T* values = result + (row - from) * pitch;
        std::copy(values, values + K, grad_weight + row * K);
        if (grad_bias) grad_bias[row] = values[K];
      }
    }
  });
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_changes, const Tensor& grad_mixed, const Tensor& weight,
                                    const std::optional<Tensor>& bias, const Tensor& previous_weight,
                                    const std::optional<Tensor>& previous_bias, int64_t split) {
  const Layer layer = read_layer(weight, bias, previous_weight, previous_bias, split);
  const int64_t K = layer.width(), C = layer.columns();
  TORCH_CHECK_VALUE(grad_changes.sizes() == at::IntArrayRef({2, C, C}) && grad_mixed.sizes() == at::IntArrayRef({2, C, K}) &&
                        grad_changes.scalar_type() == weight.scalar_type() && grad_mixed.scalar_type() == weight.scalar_type(),
                    kOp, "_backward: gradients have shapes ", grad_changes.sizes(), " and ", grad_mixed.sizes());
  const Tensor grad_weight = empty_pooled(layer.weight.sizes(), layer.weight.options());
  const Tensor grad_bias = at::empty({layer.has_bias() ? layer.outputs() : 0}, layer.weight.options());
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    T* of_bias = layer.has_bias() ? grad_bias.mutable_data_ptr<T>() : nullptr;
    backward_rows<T>(layer, grad_changes[0], grad_mixed[0], 0, split, grad_weight.mutable_data_ptr<T>(), of_bias);
    backward_rows<T>(layer, grad_changes[1], grad_mixed[1], split, layer.outputs(), grad_weight.mutable_data_ptr<T>(), of_bias);
  };
  if (weight.scalar_type() == at::kFloat) run(float());
  else run(double());
  return {grad_weight, grad_bias};
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("difference_grams", &forward);
  m.impl("difference_grams_backward", &backward);
}

}  // namespace
}  // namespace hnetfast
