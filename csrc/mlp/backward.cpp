#include "mlp/backward.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include <algorithm>

#include "mlp/hidden_layers.h"
#include "mlp/output_layer.h"

namespace hnetfast {

using at::Tensor;

namespace {

std::vector<Tensor> backward_of_all(const Mlp& mlp, const Tensor& grad, const Tensor& saved_hidden, const Sizes& sizes,
                                    const Placement& placement, const Need& need) {
  std::vector<Tensor> results(mlp.tensors());
  const Tensor hidden = saved_hidden.contiguous();  // hooks on saved tensors may bring it back in any layout
  const Tensor rows = output_backward(mlp, grad, hidden, sizes, placement, need, results);
  if (rows.defined()) hidden_backward(mlp, rows, hidden, sizes, need, results);
  for (size_t i = 0; i < results.size(); ++i) {
    if (!need(i) || !results[i].defined()) results[i] = at::empty({0}, grad.options());
  }
  return results;
}

template <typename T>
bool all_zero(const T* values, int64_t count) {
  constexpr int64_t kAtOnce = 1024;  // so many without a branch
  for (int64_t i = 0; i < count; i += kAtOnce) {
    bool other = false;
    for (int64_t k = i; k < std::min(count, i + kAtOnce); ++k) other |= values[k] != T(0);
    if (other) return false;
  }
  return true;
}

// Conditions whose outputs have a gradient that is not all zeros.
std::vector<int64_t> conditions_with_gradient(const Tensor& grad) {
  std::vector<int64_t> found;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, grad.scalar_type(), "conditions_with_gradient", [&] {
    for (int64_t b = 0; b < grad.size(0); ++b) {
      if (!all_zero(grad.const_data_ptr<scalar_t>() + b * grad.size(1), grad.size(1))) found.push_back(b);
    }
  });
  return found;
}

}  // namespace

std::vector<Tensor> mlp_backward(const Mlp& mlp, const Tensor& grad, const Tensor& saved_hidden, const Sizes& sizes,
                                 const Placement& placement, const Need& need) {
  if (sizes.conditions == 1 || grad.numel() == 0) return backward_of_all(mlp, grad, saved_hidden, sizes, placement, need);
  const std::vector<int64_t> active = conditions_with_gradient(grad);
  const int64_t count = active.size();
  if (count == 0 || count == sizes.conditions) return backward_of_all(mlp, grad, saved_hidden, sizes, placement, need);
  // The others add nothing: without them the bits are those of a call for the ones that count.
  const Tensor rows = at::tensor(active, at::kLong);
  std::vector<Tensor> inputs;
  for (const Tensor& part : mlp.inputs) inputs.push_back(part.size(0) == 1 ? part : part.index_select(0, rows));
  const int64_t width = mlp.hidden_width();
  const Tensor hidden = mlp.weights.size() == 1 ? saved_hidden
                                                : saved_hidden.reshape({sizes.conditions, sizes.chunks * width})
                                                      .index_select(0, rows)
                                                      .view({count * sizes.chunks, width});
  const Mlp some{mlp.op, inputs, mlp.weights, mlp.biases, mlp.activation};
  const Sizes fewer{count, sizes.chunks, sizes.chunk_size, sizes.outputs};
  std::vector<Tensor> results = backward_of_all(some, grad.index_select(0, rows), hidden, fewer, placement, need);
  for (size_t i = 0; i < mlp.inputs.size(); ++i) {
    if (need(i) && mlp.inputs[i].size(0) != 1) {
      results[i] = at::zeros(mlp.inputs[i].sizes(), mlp.inputs[i].options()).index_copy_(0, rows, results[i]);
    }
  }
  return results;
}

}  // namespace hnetfast
