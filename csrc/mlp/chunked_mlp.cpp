// hnetfast::chunked_mlp on the CPU. Notation as in hnetfast/ops/chunked_mlp.py: B conditions, N chunks, S chunk
// size, R = B·N rows, n outputs a condition.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "common/buffer_pool.h"
#include "common/checks.h"
#include "mlp/backward.h"
#include "mlp/hidden_layers.h"
#include "mlp/output_layer.h"

namespace hnetfast {
namespace {

using at::Tensor;
using at::TensorList;

constexpr const char *kOp = "chunked_mlp", *kBackwardOp = "chunked_mlp_backward";

Sizes check_arguments(const Mlp& mlp, const char* name, int64_t outputs) {
  Sizes sizes = check_network(mlp);
  TORCH_CHECK_VALUE(outputs >= 0 && outputs <= sizes.outputs, mlp.op, ": ", name, " is ", outputs, ", accepted is 0 to ",
                    sizes.chunks, " chunks × ", sizes.chunk_size);
  sizes.outputs = outputs;
  return sizes;
}

std::tuple<Tensor, Tensor> forward(TensorList inputs, TensorList weights, TensorList biases, std::string_view activation,
                                   int64_t num_outputs, bool save_hidden) {
  const Mlp mlp{kOp, inputs, weights, biases, parse_activation(kOp, activation)};
  const Sizes sizes = check_arguments(mlp, "num_outputs", num_outputs);
  const Tensor out = empty_pooled({sizes.conditions, sizes.outputs}, weights[0].options());
  const Tensor none = at::empty({0}, out.options());
  const Tensor hidden = weights.size() > 1 ? hidden_layers(mlp, sizes, save_hidden) : none;
  output_forward(mlp, hidden, sizes, {}, out);
  return {out, save_hidden ? hidden : none};
}

std::vector<Tensor> backward(const Tensor& grad_out, const Tensor& hidden, TensorList inputs, TensorList weights,
                             TensorList biases, std::string_view activation, c10::List<bool> needs) {
  check_dense(kBackwardOp, "grad_out", grad_out);
  TORCH_CHECK_VALUE(grad_out.dim() == 2, kBackwardOp, ": grad_out has shape ", grad_out.sizes(),
                    ", expected [conditions, outputs]");
  const Mlp mlp{kBackwardOp, inputs, weights, biases, parse_activation(kBackwardOp, activation)};
  const Sizes sizes = check_arguments(mlp, "grad_out.shape[1]", grad_out.size(1));
  const at::ScalarType type = weights[0].scalar_type();
  check_tensor(kBackwardOp, "grad_out", grad_out, type, {sizes.conditions, sizes.outputs});
  const std::vector<int64_t> saved = weights.size() > 1 ? std::vector{sizes.rows(), mlp.hidden_width()} : std::vector<int64_t>{0};
  check_tensor(kBackwardOp, "hidden", hidden, type, saved);
  TORCH_CHECK_VALUE(needs.size() == mlp.tensors(), kBackwardOp, ": ", needs.size(), " needs for ", mlp.tensors(), " tensors");
  const auto need = [&](size_t i) { return static_cast<bool>(needs.get(i)); };
  return mlp_backward(mlp, grad_out.contiguous(), hidden, sizes, {}, need);
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("chunked_mlp", &forward);
  m.impl("chunked_mlp_backward", &backward);
}

}  // namespace
}  // namespace hnetfast
