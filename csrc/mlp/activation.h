// The activations of hidden layers: parsed once, where an op is called.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <string_view>

namespace hnetfast {

// All but sines, of which a result does not tell the derivative: batched_mlp alone has them, and computes them itself.
enum class Activation { identity, relu, sigmoid, tanh, elu, leaky_relu, sine };

// The activation of that name; raises ValueError where it is none of those that `op` accepts.
Activation parse_activation(const char* op, std::string_view name,
                            std::initializer_list<Activation> accepted = {Activation::identity, Activation::relu,
                                                                          Activation::sigmoid, Activation::tanh, Activation::elu,
                                                                          Activation::leaky_relu});

// Whether it is exact, so that it does not matter how elements are cut into vectors, and tile kernels know it.
bool is_simple(Activation activation);

// The library computes the last elements of a tensor, fewer than some vectors, one by one, and rounds them differently:
// rows that are to be activated end with whole vectors, so that their bits do not depend on how many there are.
at::Tensor padded_rows(const at::Tensor& like, int64_t rows, int64_t width, Activation activation);

void activate_rows_(const at::Tensor& padded, Activation activation);

// Gradient before the activation, from its result h; `grad` may be overwritten.
at::Tensor activation_grad_of_rows(at::Tensor& grad, const at::Tensor& h, Activation activation);

// The result for `after`, and by how much it differs from that for after − change.
struct Activated {
  at::Tensor now, change;
};
Activated activate_rows(const at::Tensor& after, const at::Tensor& change, Activation activation);

}  // namespace hnetfast
