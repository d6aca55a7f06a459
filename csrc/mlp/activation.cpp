#include "mlp/activation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "common/parallel.h"
#include "common/rounding.h"

namespace hnetfast {

using at::Tensor;

namespace {

constexpr double kSlope = 0.01;   // of leaky_relu
constexpr int64_t kVectors = 64;  // elements: whole vectors, of any type, and what the library unrolls them by

const char* name_of(Activation activation) {
  switch (activation) {
    case Activation::identity: return "identity";
    case Activation::relu: return "relu";
    case Activation::sigmoid: return "sigmoid";
    case Activation::tanh: return "tanh";
    case Activation::elu: return "elu";
    case Activation::leaky_relu: return "leaky_relu";
    case Activation::sine: return "sine";
  }
  __builtin_unreachable();
}

void activate_(Tensor h, Activation activation) {
  switch (activation) {
    case Activation::identity: return;
    case Activation::relu: at::relu_(h); return;
    case Activation::sigmoid: at::sigmoid_(h); return;
    case Activation::tanh: at::tanh_(h); return;
    case Activation::elu: at::elu_(h); return;
    case Activation::leaky_relu: at::leaky_relu_(h, kSlope); return;
    case Activation::sine: break;
  }
  TORCH_INTERNAL_ASSERT(false);
}

// Gradient before the activation, from its result h; `grad` may be overwritten.
Tensor activation_grad(Tensor& grad, const Tensor& h, Activation activation) {
  switch (activation) {
    case Activation::identity: return grad;
    case Activation::relu: return at::threshold_backward_out(grad, grad, h, 0);
    case Activation::sigmoid: return at::sigmoid_backward(grad, h);
    case Activation::tanh: return at::tanh_backward(grad, h);
    case Activation::elu: return at::elu_backward(grad, 1, 1, 1, /*is_result=*/true, h);
    case Activation::leaky_relu: return at::leaky_relu_backward(grad, h, kSlope, /*self_is_result=*/true);
    case Activation::sine: break;
  }
  TORCH_INTERNAL_ASSERT(false);
}

// The result for `after`, and by how much it differs from that for after − change.
Activated activate(const Tensor& after, const Tensor& change, Activation activation) {
  if (activation == Activation::identity) return {after, change};
  const Tensor before = after - change;
  Tensor now, then, exact, applies = change.abs() < 1;  // where the change has a formula without cancellation
  const auto leaky = [&](double slope) {
    now = at::leaky_relu(after, slope);
    then = at::leaky_relu(before, slope);
    exact = at::where(after > 0, change, slope * change);
    applies = (after > 0) == (before > 0);
  };
  switch (activation) {
    case Activation::identity: break;
    case Activation::sine: TORCH_INTERNAL_ASSERT(false);
    case Activation::relu: leaky(0); break;
    case Activation::leaky_relu: leaky(kSlope); break;
    case Activation::tanh:
      now = at::tanh(after);
      then = at::tanh(before);
      exact = at::tanh(change) * (1 - now * then);
      break;
    case Activation::sigmoid:
      now = at::sigmoid(after);
      then = at::sigmoid(before);
      exact = -at::expm1(-change) * now * (1 - then);
      break;
    case Activation::elu:
      now = at::elu(after);
      then = at::elu(before);
      exact = at::where(after > 0, change, at::exp(before.clamp_max(0)) * at::expm1(change));
      applies = applies.logical_and((after > 0) == (before > 0));
      break;
  }
  return {now, at::where(applies, exact, now - then)};
}

}  // namespace

Activation parse_activation(const char* op, std::string_view name, std::initializer_list<Activation> accepted) {
  const auto found = std::find_if(accepted.begin(), accepted.end(), [&](Activation a) { return name == name_of(a); });
  if (found != accepted.end()) return *found;
  std::string names;
  for (const Activation activation : accepted) names += (names.empty() ? "" : ", ") + std::string(name_of(activation));
  C10_THROW_ERROR(ValueError, c10::str(op, ": activation is '", name, "', accepted are ", names));
}

bool is_simple(Activation activation) { return activation == Activation::relu || activation == Activation::identity; }

Tensor padded_rows(const Tensor& like, int64_t rows, int64_t width, Activation activation) {
  return is_simple(activation) ? at::empty({rows, width}, like.options())
                               : at::zeros({rows, round_up(width, kVectors)}, like.options());
}

void activate_rows_(const Tensor& padded, Activation activation) {
  if (is_simple(activation)) return activate_(padded, activation);
  for_each_row_block(padded.size(0), padded.size(1),
                     [&](int64_t begin, int64_t end) { activate_(padded.narrow(0, begin, end - begin), activation); });
}

Tensor activation_grad_of_rows(Tensor& grad, const Tensor& h, Activation activation) {
  if (is_simple(activation)) return activation_grad(grad, h, activation);
  const Tensor result = at::empty_like(grad);
  const int64_t width = grad.size(1);
  for_each_row_block(grad.size(0), width, [&](int64_t begin, int64_t end) {
    Tensor g = padded_rows(grad, end - begin, width, activation);
    const Tensor of_rows = padded_rows(grad, end - begin, width, activation);
    g.narrow(1, 0, width).copy_(grad.narrow(0, begin, end - begin));
    of_rows.narrow(1, 0, width).copy_(h.narrow(0, begin, end - begin));
    result.narrow(0, begin, end - begin).copy_(activation_grad(g, of_rows, activation).narrow(1, 0, width));
  });
  return result;
}

Activated activate_rows(const Tensor& after, const Tensor& change, Activation activation) {
  const Activated result{at::empty_like(after), at::empty_like(change)};
  for_each_row_block(after.size(0), after.size(1), [&](int64_t begin, int64_t end) {
    const Activated block = activate(after.narrow(0, begin, end - begin), change.narrow(0, begin, end - begin), activation);
    result.now.narrow(0, begin, end - begin).copy_(block.now);
    result.change.narrow(0, begin, end - begin).copy_(block.change);
  });
  return result;
}

}  // namespace hnetfast
