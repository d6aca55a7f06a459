// hnetfast::elman_states: the states of an Elman layer, h_t = act(z_t + h_{t-1}·Wᵀ), and their gradient.
//
// A loop over time of two library calls a step: what it saves is the cost of a step in Python.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>

#include "common/buffer_pool.h"
#include "common/checks.h"
#include "common/parallel.h"
#include "mlp/activation.h"

namespace hnetfast {
namespace {

using at::Tensor;

constexpr const char *kOp = "elman_states", *kBackwardOp = "elman_states_backward";

// out = start + a·b, for one set of weights or a batch of them.
void multiply_add(Tensor out, const Tensor& start, const Tensor& a, const Tensor& b) {
  if (a.dim() == 2) {
    at::addmm_out(out, start, a, b);
  } else {
    at::baddbmm_out(out, start, a, b);
  }
}

// Whether a step, from states `h`, is not worth a second thread.
bool is_small(const Tensor& h) { return h.numel() * std::max<int64_t>(h.size(-1), 32) < kSerialWork; }

bool is_tanh(const char* op, c10::string_view activation) {
  return parse_activation(op, activation, {Activation::tanh, Activation::relu}) == Activation::tanh;
}

// The library would spread what does not fit over several rows, and give results other sizes.
void check(const char* op, const char* name, const Tensor& sequence, const Tensor& weight) {
  check_dense(op, name, sequence);
  check_dense(op, "weight", weight);
  TORCH_CHECK_VALUE(
      (weight.dim() == 2 || weight.dim() == 3) && sequence.dim() == weight.dim() + 1 && sequence.size(0) > 0 &&
          weight.size(-1) == weight.size(-2) && sequence.size(-1) == weight.size(-1) &&
          (weight.dim() == 2 || sequence.size(1) == weight.size(0)),
      op, ": ", name, " has shape ", sequence.sizes(), ", weight ", weight.sizes(),
      ", expected at least one step of [steps, batch, width] and [width, width], or [steps, sets, batch, width] and ",
      "[sets, width, width]");
  TORCH_CHECK_VALUE(at::isFloatingType(weight.scalar_type()), op, ": weight is ", weight.scalar_type(),
                    ", expected floating point");
  check_tensor(op, name, sequence, weight.scalar_type(), sequence.sizes());
}

Tensor elman_states(const Tensor& z, const Tensor& weight, const Tensor& h_0, c10::string_view activation) {
  check(kOp, "z", z, weight);
  check_tensor(kOp, "h_0", h_0, z.scalar_type(), z.sizes().slice(1));
  const bool tanh = is_tanh(kOp, activation);
  const Tensor states = empty_pooled(z.sizes(), z.options());
  const Tensor transposed = weight.mT().contiguous();
  std::optional<SerialLibrary> serial;
  if (is_small(h_0)) serial.emplace();
  Tensor h = h_0;
  for (int64_t t = 0; t < z.size(0); ++t) {
    Tensor next = states.select(0, t);
    multiply_add(next, z.select(0, t), h, transposed);
    tanh ? next.tanh_() : next.relu_();
    h = next;
  }
  return states;
}

// The gradient before the activation, of all steps.
Tensor before_activation(const Tensor& grad, const Tensor& states, const Tensor& weight, bool tanh) {
  const Tensor grad_z = empty_pooled(states.sizes(), states.options());
  const Tensor matrix = weight.contiguous();
  for (int64_t t = states.size(0) - 1; t >= 0; --t) {
    Tensor out = grad_z.select(0, t);
    if (t + 1 == states.size(0)) {
      out.copy_(grad.select(0, t));
    } else {
      multiply_add(out, grad.select(0, t), grad_z.select(0, t + 1), matrix);
    }
    const Tensor state = states.select(0, t);
    if (tanh) {
      at::tanh_backward_out(out, out, state);
    } else {
      at::threshold_backward_out(out, out, state, 0);
    }
  }
  return grad_z;
}

// Steps and samples are the terms of one sum: [..., T·batch, H].
Tensor rows(const Tensor& steps) { return steps.movedim(0, -3).flatten(-3, -2); }

std::vector<Tensor> elman_states_backward(const Tensor& grad, const Tensor& states, const Tensor& weight, const Tensor& h_0,
                                          c10::string_view activation, c10::List<bool> needs) {
  check(kBackwardOp, "grad_states", grad, weight);
  check_tensor(kBackwardOp, "states", states, grad.scalar_type(), grad.sizes());
  check_tensor(kBackwardOp, "h_0", h_0, grad.scalar_type(), grad.sizes().slice(1));
  TORCH_CHECK_VALUE(needs.size() == 3, kBackwardOp, ": ", needs.size(), " needs for 3 tensors");
  const bool tanh = is_tanh(kBackwardOp, activation);
  std::optional<SerialLibrary> serial;
  if (is_small(h_0)) serial.emplace();
  const Tensor grad_z = before_activation(grad, states, weight, tanh), none = at::empty({0}, weight.options());
  Tensor grad_weight = none;
  if (needs[1]) {
    grad_weight = grad_z[0].mT().matmul(h_0);
    const int64_t steps = states.size(0);
    if (steps > 1) grad_weight += rows(grad_z.slice(0, 1)).mT().matmul(rows(states.slice(0, 0, steps - 1)));
  }
  return {needs[0] ? grad_z : none, grad_weight, needs[2] ? grad_z[0].matmul(weight) : none};
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("elman_states", &elman_states);
  m.impl("elman_states_backward", &elman_states_backward);
}

}  // namespace
}  // namespace hnetfast
