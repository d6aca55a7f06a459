// hnetfast::output_reg on the CPU: the squared change of what a network generates, and all its gradients but those of
// the last layer, without generating anything.
#include <ATen/ATen.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include "mlp_layers.h"
#include "output_reg.h"

#include <algorithm>
#include <vector>

namespace hnetfast {
namespace {

using at::Tensor;
using at::TensorList;

constexpr const char* kOp = "output_reg";
constexpr int64_t kRowsAtOnce = 8192;  // rows of the hidden layers in memory

Tensor last_or_none(TensorList biases) { return biases.empty() ? Tensor() : biases.back().contiguous(); }

ChangedLayer changed_layer(TensorList weights, TensorList biases, TensorList old_weights, TensorList old_biases, int64_t split) {
  return {weights.back().contiguous(), last_or_none(biases), old_weights.back().contiguous(), last_or_none(old_biases), split};
}

std::vector<Tensor> of_conditions(TensorList inputs, int64_t begin, int64_t count) {
  std::vector<Tensor> parts;
  for (const Tensor& part : inputs) parts.push_back(part.size(0) == 1 ? part : part.narrow(0, begin, count));
  return parts;
}

// Input rows of the last layer: the last columns of what the hidden layers give, or what goes into the network.
Tensor input_rows(const Mlp& mlp, const Tensor& hidden, const Sizes& sizes) {
  if (mlp.weights.size() == 1) {
    std::vector<Tensor> parts;
    for (const Tensor& part : mlp.inputs) parts.push_back(part.expand({sizes.conditions, sizes.chunks, part.size(2)}));
    return at::cat(parts, 2).flatten(0, 1);
  }
  const int64_t width = mlp.weights.back().size(1);
  return hidden.narrow(1, hidden.size(1) - width, width);
}

// Gradients of the inputs of a network without hidden layers, from that of its rows.
void inputs_backward(const Mlp& mlp, const Tensor& rows, const Sizes& sizes, std::vector<Tensor>& results) {
  int64_t column = 0;
  for (size_t i = 0; i < mlp.inputs.size(); ++i) {
    const Tensor& part = mlp.inputs[i];
    const Tensor grad = rows.view({sizes.conditions, sizes.chunks, rows.size(1)}).narrow(2, column, part.size(2));
    results[i] = grad.sum_to_size(part.sizes()).contiguous();
    column += part.size(2);
  }
}

void check(const Mlp& now, const Mlp& then, const Sizes& sizes, const Sizes& old_sizes, int64_t num_outputs, const Tensor& scaling) {
  const at::ScalarType type = now.weights[0].scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble, kOp, ": weights[0] is ", type, ", accepted are Float, Double");
  TORCH_CHECK_VALUE(now.weights.size() == then.weights.size() && now.biases.size() == then.biases.size() &&
                        sizes.conditions == old_sizes.conditions && sizes.chunks == old_sizes.chunks &&
                        now.weights.back().sizes() == then.weights.back().sizes() && type == then.weights[0].scalar_type(),
                    kOp, ": the network and what it was differ in layers, biases, conditions, chunks, the last layer or dtype");
  const int64_t most = sizes.chunks * sizes.chunk_size;
  TORCH_CHECK_VALUE(num_outputs <= most && num_outputs > most - sizes.chunk_size, kOp, ": num_outputs is ", num_outputs,
                    ", accepted is ", most - sizes.chunk_size + 1, " to ", most);
  TORCH_CHECK_VALUE(scaling.sizes() == at::IntArrayRef({sizes.conditions}) && scaling.scalar_type() == type, kOp, ": scaling is ",
                    scaling.scalar_type(), " ", scaling.sizes(), ", expected ", type, " [", sizes.conditions, "]");
}

// The loss; its gradients for DᵀD and DᵀW*; and for inputs, hidden weights and hidden biases.
std::vector<Tensor> forward(TensorList inputs, TensorList weights, TensorList biases, TensorList old_inputs, TensorList old_weights,
                            TensorList old_biases, std::string_view activation, int64_t num_outputs, const Tensor& scaling,
                            bool gradients) {
  const Mlp all{kOp, inputs, weights, biases, activation}, old_all{kOp, old_inputs, old_weights, old_biases, activation};
  const Sizes sizes = check_network(all);
  check(all, old_all, sizes, check_network(old_all), num_outputs, scaling);
  const int64_t split = num_outputs - (sizes.chunks - 1) * sizes.chunk_size;
  const auto matrices = layer_matrices(changed_layer(weights, biases, old_weights, old_biases, split));

  const size_t last_weight = inputs.size() + weights.size() - 1, last_bias = inputs.size() + weights.size() + biases.size() - 1;
  const auto is_last = [&](size_t i) { return i == last_weight || (!biases.empty() && i == last_bias); };
  const int64_t step = std::max<int64_t>(kRowsAtOnce / sizes.chunks, 1);
  const Tensor factors = scaling.contiguous();
  double loss = 0;
  Tensor changes, mixed;
  std::vector<Tensor> grads(gradients ? all.tensors() : 0);
  for (int64_t begin = 0; begin < sizes.conditions; begin += step) {
    const int64_t count = std::min(step, sizes.conditions - begin);
    const auto parts = of_conditions(inputs, begin, count), old_parts = of_conditions(old_inputs, begin, count);
    const Mlp now{kOp, parts, weights, biases, activation}, then{kOp, old_parts, old_weights, old_biases, activation};
    const Sizes block{count, sizes.chunks, sizes.chunk_size, count * sizes.chunks * sizes.chunk_size};
    const bool deep = weights.size() > 1;
    const Tensor hidden = deep ? hidden_layers(now, block, gradients) : Tensor();
    const Tensor old_hidden = deep ? hidden_layers(then, block, false) : Tensor();
    const RowSums sums = change_of_rows(input_rows(now, hidden, block), input_rows(then, old_hidden, block),
                                        factors.narrow(0, begin, count), sizes.chunks, matrices, !biases.empty(), gradients);
    loss += sums.loss;
    changes = begin == 0 ? sums.changes : changes + sums.changes;
    mixed = begin == 0 ? sums.mixed : mixed + sums.mixed;
    if (!gradients) continue;
    std::vector<Tensor> of_block(all.tensors());
    if (deep) hidden_backward(now, sums.rows, hidden, block, [&](size_t i) { return !is_last(i); }, of_block);
    else inputs_backward(now, sums.rows, block, of_block);
    for (size_t i = 0; i < of_block.size(); ++i) {
      if (is_last(i)) continue;
      const bool of_these = i < inputs.size() && inputs[i].size(0) != 1 && count < sizes.conditions;
      if (of_these && begin == 0) grads[i] = at::empty_like(inputs[i], at::MemoryFormat::Contiguous);
      if (of_these) grads[i].narrow(0, begin, count).copy_(of_block[i]);
      else if (begin == 0) grads[i] = of_block[i];
      else grads[i].add_(of_block[i]);
    }
  }
  if (sizes.conditions == 0) {
    changes = at::zeros_like(matrices[0]);
    mixed = at::zeros_like(matrices[1]);
    for (size_t i = 0; i < grads.size(); ++i) {
      const size_t w = i - inputs.size();
      grads[i] = at::zeros_like(i < inputs.size() ? inputs[i] : w < weights.size() ? weights[w] : biases[w - weights.size()]);
    }
  }
  std::vector<Tensor> result{at::scalar_tensor(loss, scaling.options()), changes, mixed};
  for (size_t i = 0; i < grads.size(); ++i) {
    if (!is_last(i)) result.push_back(grads[i]);
  }
  return result;
}

std::tuple<Tensor, Tensor> last_layer_backward(const Tensor& grad_changes, const Tensor& grad_mixed, const Tensor& weight,
                                               const std::optional<Tensor>& bias, const Tensor& old_weight,
                                               const std::optional<Tensor>& old_bias, int64_t split) {
  TORCH_CHECK_VALUE(weight.dim() == 2 && weight.sizes() == old_weight.sizes() && bias.has_value() == old_bias.has_value() &&
                        split >= 0 && split <= weight.size(0),
                    kOp, "_backward: the last layer has weights ", weight.sizes(), ", had ", old_weight.sizes(), ", split is ", split);
  const int64_t K = weight.size(1), C = K + (bias ? 1 : 0);
  TORCH_CHECK_VALUE(grad_changes.sizes() == at::IntArrayRef({2, C, C}) && grad_mixed.sizes() == at::IntArrayRef({2, C, K}), kOp,
                    "_backward: gradients have shapes ", grad_changes.sizes(), " and ", grad_mixed.sizes());
  for (const auto& t : {bias, old_bias}) {
    TORCH_CHECK_VALUE(!t || t->sizes() == at::IntArrayRef({weight.size(0)}), kOp, "_backward: a bias has a wrong shape");
  }
  for (const Tensor& t : {grad_changes, grad_mixed, weight, old_weight, bias.value_or(weight), old_bias.value_or(weight)}) {
    TORCH_CHECK_TYPE((t.scalar_type() == at::kFloat || t.scalar_type() == at::kDouble) && t.scalar_type() == weight.scalar_type(),
                     kOp, "_backward: expected tensors of one type, Float or Double, got ", t.scalar_type());
  }
  const ChangedLayer layer{weight.contiguous(), bias ? bias->contiguous() : Tensor(), old_weight.contiguous(),
                           old_bias ? old_bias->contiguous() : Tensor(), split};
  const auto [of_weight, of_bias] = layer_gradients(layer, grad_changes, grad_mixed);
  return {of_weight, of_bias};
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("output_reg", &forward);
  m.impl("output_reg_backward", &last_layer_backward);
}

}  // namespace
}  // namespace hnetfast
