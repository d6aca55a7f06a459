// The last layer by products of matrices: wide layers, few rows, reduced precision.
#pragma once

#include <ATen/core/Tensor.h>

#include "mlp/network.h"

namespace hnetfast {

// Gradients of the last layer: matrix, bias, and what it reads, those of them that are asked for.
struct LastGrads {
  at::Tensor weight, bias, x, y;
};

// From input rows x, [R, K], to the outputs, [B, n], and back. With a placement all chunks are computed, then placed.
void products_forward(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, const Sizes& sizes,
                      const Placement& placement, const at::Tensor& out);
void products_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight, const Sizes& sizes,
                       const Placement& placement, LastGrads& grads);

}  // namespace hnetfast
