// The hidden layers of an MLP applied to every pair of a condition and a chunk, forward and backward.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "mlp/network.h"

namespace hnetfast {

// The first layer before its activation, one product for each part, [conditions or 1, chunks or 1, out]; the bias is with
// the first. A row of the layer is the sum of one row of each.
std::vector<at::Tensor> first_layer_terms(at::TensorList inputs, const at::Tensor& weight, const at::Tensor& bias);
at::Tensor sum_of_terms(const std::vector<at::Tensor>& terms, const Sizes& sizes);  // [R, out]

// Whether the hidden layers are narrow, and of a kind that tiles know.
bool suits_tiles(const Mlp& mlp);

// Multiply-adds of all hidden layers.
int64_t hidden_work(const Mlp& mlp, const Sizes& sizes);

// Results of all hidden layers side by side, [R, Σ widths], or without `save` at least those of the last, as the last
// columns. Rows go through all layers in blocks: what lies between the layers stays in the caches.
at::Tensor hidden_layers(const Mlp& mlp, const Sizes& sizes, bool save);

// The last layer's input rows, of what hidden_layers returns.
at::Tensor last_hidden(const at::Tensor& hidden, const Mlp& mlp);

// Gradients of what lies below the last layer of several, those that `need` asks for, from the gradient of its input rows,
// [R, K], which may be overwritten. `hidden` as hidden_layers saves them.
void hidden_backward(const Mlp& mlp, const at::Tensor& grad, const at::Tensor& hidden, const Sizes& sizes, const Need& need,
                     std::vector<at::Tensor>& results);

}  // namespace hnetfast
