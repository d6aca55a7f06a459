// hnetfast::output_reg on the CPU: the squared change of what a network generates, and all its gradients but those of
// the last layer, without generating anything.
#include <ATen/ATen.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/library.h>

#include "common/checks.h"
#include "mlp/hidden_layers.h"
#include "output_reg/hidden_change.h"
#include "output_reg/output_reg.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace hnetfast {
namespace {

using at::Tensor;
using at::TensorList;

constexpr const char *kOp = "output_reg", *kBackwardOp = "output_reg_backward";
constexpr int64_t kRowsAtOnce = 8192;    // rows of the hidden layers in memory
constexpr double kLargestChange = 0.25;  // of the last layer in single precision: ‖D‖² as a part of ‖W‖²

// Where the last layer has changed by much of what it is, products of D and W* nearly cancel, and their rounding is lost.
bool needs_double(const std::array<Tensor, 3>& matrices) {
  if (matrices[0].scalar_type() == at::kDouble) return false;
  const auto trace = [](const Tensor& m, int64_t size) {
    return m.narrow(1, 0, size).diagonal(0, 1, 2).sum(at::kDouble).item<double>();
  };
  const int64_t K = matrices[2].size(1);
  const double change = trace(matrices[0], K), weight = change + 2 * trace(matrices[1], K) + trace(matrices[2], K);
  return change > kLargestChange * weight && std::isfinite(change);
}

std::vector<Tensor> in_type(TensorList tensors, at::ScalarType type) {
  std::vector<Tensor> results;
  for (const Tensor& t : tensors) results.push_back(t.to(type));
  return results;
}

// The loss; its gradients for DᵀD and DᵀW*, from which output_reg_backward finds those of the last layer, in double precision
// where single is not enough; and the gradients of inputs, hidden weights and hidden biases.
std::vector<Tensor> forward(TensorList inputs, TensorList weights, TensorList biases, TensorList old_inputs,
                            TensorList old_weights, TensorList old_biases, std::string_view activation, int64_t num_outputs,
                            const Tensor& scaling, bool gradients) {
  const Activation parsed = parse_activation(kOp, activation);
  const Mlp mlp{kOp, inputs, weights, biases, parsed}, previous{kOp, old_inputs, old_weights, old_biases, parsed};
  const Sizes sizes = check_change(mlp, previous, num_outputs);
  check_tensor(kOp, "scaling", scaling, weights[0].scalar_type(), {sizes.conditions});
  const ChangedLayer layer = changed_layer(mlp, previous, sizes);
  const Tensor factors = scaling.contiguous();
  const size_t last_weight = mlp.first_bias() - 1, last_bias = mlp.tensors() - 1;
  const auto below = [&](size_t i) { return i != last_weight && (biases.empty() || i != last_bias); };
  std::vector<Tensor> grads(gradients ? mlp.tensors() : 0);
  double loss = 0;
  Tensor first, second;
  const auto add_gradients = [&](const LastRows& block, const Tensor& rows, int64_t begin) {
    std::vector<Tensor> of_block(mlp.tensors());
    if (weights.size() > 1) {
      hidden_backward({kOp, block.inputs, weights, biases, parsed}, rows, block.hidden, block.sizes, below, of_block);
    } else {
      joined_backward(block.inputs, rows, block.sizes, of_block);
    }
    const int64_t count = block.sizes.conditions;
    for (size_t i = 0; i < of_block.size(); ++i) {
      if (!below(i)) continue;
      const bool of_these = i < inputs.size() && inputs[i].size(0) != 1 && count < sizes.conditions;
      if (of_these && begin == 0) grads[i] = at::empty_like(inputs[i], at::MemoryFormat::Contiguous);
      if (of_these) {
        grads[i].narrow(0, begin, count).copy_(of_block[i]);
      } else if (begin == 0) {
        grads[i] = of_block[i];
      } else {
        grads[i].add_(of_block[i]);
      }
    }
  };

  if (sizes.conditions == 0) {
    first = at::zeros({2, layer.columns(), layer.columns()}, scaling.options());
    second = at::zeros({2, layer.columns(), layer.width()}, scaling.options());
    for (size_t i = 0; i < grads.size(); ++i) {
      const size_t w = i - inputs.size();
      grads[i] = at::zeros_like(i < inputs.size() ? inputs[i] : w < weights.size() ? weights[w] : biases[w - weights.size()]);
    }
  } else {
    const auto matrices = layer_matrices(layer);
    if (needs_double(matrices)) {
      const auto wide = [](TensorList tensors) { return in_type(tensors, at::kDouble); };
      std::vector<Tensor> result = forward(wide(inputs), wide(weights), wide(biases), wide(old_inputs), wide(old_weights),
                                           wide(old_biases), activation, num_outputs, scaling.to(at::kDouble), gradients);
      for (size_t i = 0; i < result.size(); ++i) {
        if (i == 0 || i > 2) result[i] = result[i].to(at::kFloat);
      }
      return result;
    }
    const int64_t step = std::max<int64_t>(kRowsAtOnce / sizes.chunks, 1);
    for (int64_t begin = 0; begin < sizes.conditions; begin += step) {
      const int64_t count = std::min(step, sizes.conditions - begin);
      const LastRows block = last_rows(mlp, previous, sizes, begin, count, gradients);
      const RowSums sums = change_of_rows(block.now, block.change, factors.narrow(0, begin, count), sizes.chunks, matrices,
                                          !biases.empty(), gradients);
      loss += sums.loss;
      first = begin == 0 ? sums.changes : first + sums.changes;
      second = begin == 0 ? sums.mixed : second + sums.mixed;
      if (gradients) add_gradients(block, sums.rows, begin);
    }
  }
  std::vector<Tensor> result{at::scalar_tensor(loss, scaling.options().dtype(at::kDouble)).to(scaling.scalar_type()), first,
                             second};
  for (size_t i = 0; i < grads.size(); ++i) {
    if (below(i)) result.push_back(grads[i]);
  }
  return result;
}

std::tuple<Tensor, Tensor> last_layer_backward(const Tensor& grad, const Tensor& first, const Tensor& second,
                                               const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& old_weight,
                                               const std::optional<Tensor>& old_bias, int64_t chunks, int64_t num_outputs) {
  check_dense(kBackwardOp, "weight", weight);
  check_dense(kBackwardOp, "second", second);
  const at::ScalarType type = weight.scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble, kBackwardOp, ": weight is ", type, ", accepted are Float, Double");
  TORCH_CHECK_VALUE(weight.dim() == 2 && weight.size(0) > 0 && weight.size(1) > 0, kBackwardOp, ": weight has shape ",
                    weight.sizes(), ", expected [outputs, width], at least 1 of each");
  const int64_t S = weight.size(0), K = weight.size(1), C = K + (bias ? 1 : 0);
  check_tensor(kBackwardOp, "previous_weight", old_weight, type, weight.sizes());
  TORCH_CHECK_VALUE(bias.has_value() == old_bias.has_value(), kBackwardOp,
                    ": expected both of bias and previous_bias, or neither");
  if (bias) {
    check_tensor(kBackwardOp, "bias", *bias, type, {S});
    check_tensor(kBackwardOp, "previous_bias", *old_bias, type, {S});
  }
  // By a division, as the product may be more than 64 bits hold.
  TORCH_CHECK_VALUE(chunks > 0 && num_outputs > 0 && (num_outputs - 1) / S == chunks - 1, kBackwardOp, ": num_outputs is ",
                    num_outputs, " for chunks of ", S, ", of which there are ", chunks);
  const int64_t split = num_outputs - (chunks - 1) * S;
  check_tensor(kBackwardOp, "grad", grad, type, {});
  const at::ScalarType sums = second.scalar_type() == at::kDouble ? at::kDouble : type;  // see kLargestChange
  check_tensor(kBackwardOp, "first", first, sums, {2, C, C});
  check_tensor(kBackwardOp, "second", second, sums, {2, C, K});
  const auto prepared = [&](const Tensor& t) { return t.to(sums).contiguous(); };
  const ChangedLayer layer{prepared(weight), bias ? prepared(*bias) : Tensor(), prepared(old_weight),
                           old_bias ? prepared(*old_bias) : Tensor(), split};
  const auto [of_weight, of_bias] = layer_gradients(layer, grad * first, grad * second);
  return {of_weight.to(weight.scalar_type()), of_bias.to(weight.scalar_type())};
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("output_reg", &forward);
  m.impl("output_reg_backward", &last_layer_backward);
}

}  // namespace
}  // namespace hnetfast
