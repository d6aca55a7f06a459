// The backward pass of an MLP applied to every pair of a condition and a chunk.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "mlp/network.h"

namespace hnetfast {

// Gradients of inputs, weights and biases, those that `need` asks for, from that of all outputs, [B, n]. Conditions whose
// outputs have a gradient of zeros take no time.
std::vector<at::Tensor> mlp_backward(const Mlp& mlp, const at::Tensor& grad, const at::Tensor& hidden, const Sizes& sizes,
                                     const Placement& placement, const Need& need);

}  // namespace hnetfast
