// hnetfast::chunked_mlp on the CPU. Notation as in hnetfast/ops/chunked_mlp.py: B conditions, N chunks, S chunk
// size, R = B·N rows, n outputs a condition.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "buffer_pool.h"
#include "mlp_layers.h"

namespace hnetfast {
namespace {

using at::Tensor;
using at::TensorList;

constexpr const char* kOp = "chunked_mlp";

Sizes check_arguments(const Mlp& mlp, int64_t outputs) {
  Sizes sizes = check_network(mlp);
  TORCH_CHECK_VALUE(outputs >= 0 && outputs <= sizes.outputs, kOp, ": num_outputs is ", outputs, ", accepted is 0 to ",
                    sizes.chunks, " chunks × ", sizes.chunk_size);
  sizes.outputs = outputs;
  return sizes;
}

std::tuple<Tensor, Tensor> forward(TensorList inputs, TensorList weights, TensorList biases, std::string_view activation,
                                   int64_t num_outputs, bool save_hidden) {
  const Mlp mlp{kOp, inputs, weights, biases, activation};
  const Sizes sizes = check_arguments(mlp, num_outputs);
  const Tensor out = empty_pooled({sizes.conditions, sizes.outputs}, weights[0].options());
  const Tensor none = at::empty({0}, out.options());
  const Tensor hidden = weights.size() > 1 ? hidden_layers(mlp, sizes, save_hidden) : none;
  output_forward(mlp, hidden, sizes, {}, out);
  return {out, save_hidden ? hidden : none};
}

std::vector<Tensor> backward(const Tensor& grad_out, const Tensor& hidden, TensorList inputs, TensorList weights,
                             TensorList biases, std::string_view activation, c10::List<bool> needs) {
  TORCH_CHECK_VALUE(grad_out.dim() == 2, kOp, "_backward: grad_out has shape ", grad_out.sizes(), ", expected [conditions, outputs]");
  const Mlp mlp{kOp, inputs, weights, biases, activation};
  const Sizes sizes = check_arguments(mlp, grad_out.size(1));
  TORCH_CHECK_VALUE(grad_out.size(0) == sizes.conditions && grad_out.scalar_type() == weights[0].scalar_type(), kOp,
                    "_backward: grad_out is ", grad_out.scalar_type(), " ", grad_out.sizes(), ", expected ",
                    weights[0].scalar_type(), " [", sizes.conditions, ", outputs]");
  TORCH_CHECK_VALUE(weights.size() == 1 || (hidden.dim() == 2 && hidden.size(0) == sizes.rows()), kOp,
                    "_backward: hidden has shape ", hidden.sizes(), ", expected [", sizes.rows(), ", widths]");
  TORCH_CHECK_VALUE(needs.size() == mlp.tensors(), "chunked_mlp_backward: ", needs.size(), " needs for ", mlp.tensors(), " tensors");
  const auto need = [&](size_t i) { return static_cast<bool>(needs.get(i)); };
  return mlp_backward(mlp, grad_out.contiguous(), hidden, sizes, {}, need);
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("chunked_mlp", &forward);
  m.impl("chunked_mlp_backward", &backward);
}

}  // namespace
}  // namespace hnetfast
