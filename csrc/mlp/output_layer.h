// The last layer of an MLP applied to every pair of a condition and a chunk, by tiles or by products of matrices.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "mlp/network.h"

namespace hnetfast {

// From the results of the hidden layers, as hidden_layers returns them, into `out`, [B, n].
void output_forward(const Mlp& mlp, const at::Tensor& hidden, const Sizes& sizes, const Placement& placement,
                    const at::Tensor& out);

// Gradients of the last layer, and of the inputs where there are no hidden layers, to `results`; returns that of its input
// rows, [R, K], where hidden layers need it.
at::Tensor output_backward(const Mlp& mlp, const at::Tensor& grad, const at::Tensor& hidden, const Sizes& sizes,
                           const Placement& placement, const Need& need, std::vector<at::Tensor>& results);

}  // namespace hnetfast
