#include "mlp/network.h"

#include <ATen/ATen.h>

#include "common/checks.h"

namespace hnetfast {

using at::Tensor;
using at::TensorList;

int64_t Mlp::hidden_width() const {
  int64_t width = 0;
  for (const Tensor& weight : hidden_weights()) width += weight.size(0);
  return width;
}

namespace {

// The number of conditions and of chunks, and the width of all parts together.
int64_t check_inputs(const Mlp& mlp, Sizes& sizes) {
  const char* op = mlp.op;
  const TensorList inputs = mlp.inputs;
  int64_t width = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    check_tensor(op, "inputs", i, inputs[i], mlp.weights[0]);
    TORCH_CHECK_VALUE(inputs[i].dim() == 3, op, ": inputs[", i, "] has shape ", inputs[i].sizes(),
                      ", expected [conditions or 1, chunks or 1, width]");
    if (inputs[i].size(0) != 1) sizes.conditions = inputs[i].size(0);
    if (inputs[i].size(1) != 1) sizes.chunks = inputs[i].size(1);
    width += inputs[i].size(2);
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    TORCH_CHECK_VALUE((inputs[i].size(0) == 1 || inputs[i].size(0) == sizes.conditions) &&
                          (inputs[i].size(1) == 1 || inputs[i].size(1) == sizes.chunks),
                      op, ": inputs[", i, "] has shape ", inputs[i].sizes(), ", expected [", sizes.conditions, " or 1, ",
                      sizes.chunks, " or 1, width]");
  }
  return width;
}

}  // namespace

Sizes check_network(const Mlp& mlp) {
  const char* op = mlp.op;
  const TensorList inputs = mlp.inputs, weights = mlp.weights, biases = mlp.biases;
  TORCH_CHECK_VALUE(!inputs.empty() && !weights.empty(), op, ": inputs and weights must not be empty, got ", inputs.size(), ", ",
                    weights.size());
  check_dense(op, "weights", weights[0]);
  const at::ScalarType type = weights[0].scalar_type();
  TORCH_CHECK_VALUE(type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf, op,
                    ": weights[0] is ", type, ", accepted are Half, BFloat16, Float, Double");
  TORCH_CHECK_VALUE(biases.empty() || biases.size() == weights.size(), op, ": ", biases.size(), " biases for ", weights.size(),
                    " weights; give one each or none");
  Sizes sizes{1, 1, weights.back().dim() ? weights.back().size(0) : 0, 0};
  int64_t width = check_inputs(mlp, sizes);
  for (size_t i = 0; i < weights.size(); ++i) {
    check_tensor(op, "weights", i, weights[i], weights[0]);
    TORCH_CHECK_VALUE(weights[i].dim() == 2 && weights[i].size(1) == width, op, ": weights[", i, "] has shape ",
                      weights[i].sizes(), ", expected [out, ", width, "]");
    width = weights[i].size(0);
    if (biases.empty()) continue;
    check_tensor(op, "biases", i, biases[i], weights[0]);
    TORCH_CHECK_VALUE(biases[i].dim() == 1 && biases[i].size(0) == width, op, ": biases[", i, "] has shape ", biases[i].sizes(),
                      ", expected [", width, "]");
  }
  check_countable(mlp, sizes);
  sizes.outputs = sizes.chunks * sizes.chunk_size;
  return sizes;
}

void check_countable(const Mlp& mlp, const Sizes& sizes) {
  double widths = 1;  // real numbers do not overflow
  for (const Tensor& part : mlp.inputs) widths += part.size(2);
  for (const Tensor& weight : mlp.weights) widths += weight.size(0);
  TORCH_CHECK_VALUE(widths * sizes.conditions * sizes.chunks < 0x1p58, mlp.op, ": inputs are for ", sizes.conditions,
                    " conditions and ", sizes.chunks, " chunks, too many to be held in memory");
}

Tensor as_matrix(const Tensor& part) { return part.reshape({part.size(0) * part.size(1), part.size(2)}).contiguous(); }

std::vector<Tensor> of_conditions(TensorList inputs, int64_t first, int64_t count) {
  std::vector<Tensor> parts;
  for (const Tensor& part : inputs) parts.push_back(part.size(0) == 1 ? part : part.narrow(0, first, count));
  return parts;
}

Tensor joined(TensorList inputs, const Sizes& sizes) {
  std::vector<Tensor> parts;
  for (const Tensor& part : inputs) parts.push_back(part.expand({sizes.conditions, sizes.chunks, part.size(2)}));
  return at::cat(parts, 2).flatten(0, 1);
}

void joined_backward(TensorList inputs, const Tensor& grad, const Sizes& sizes, std::vector<Tensor>& results) {
  const Tensor rows = grad.view({sizes.conditions, sizes.chunks, grad.size(1)});
  int64_t column = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const int64_t width = inputs[i].size(2);
    results[i] = rows.narrow(2, column, width).sum_to_size(inputs[i].sizes()).contiguous();
    column += width;
  }
}

}  // namespace hnetfast
