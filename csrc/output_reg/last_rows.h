// What the last layer of a network reads, and by how much that and the layer have changed.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "mlp/network.h"

namespace hnetfast {

// K: width of the layer, C: columns of D, K + 1 if there is a bias, else K.
struct ChangedLayer {
  at::Tensor weight, bias, previous_weight, previous_bias;
  int64_t split;  // the last chunk has as many outputs, rows of A, that count; the other chunks have all
  int64_t outputs() const { return weight.size(0); }
  int64_t width() const { return weight.size(1); }
  bool has_bias() const { return bias.defined(); }
  int64_t columns() const { return width() + (has_bias() ? 1 : 0); }
};

ChangedLayer changed_layer(const Mlp& now, const Mlp& then, const Sizes& sizes);

// Float or double.
void check_kernel_type(const Mlp& mlp);

// Checks a network, and that what it was has the same sizes and dtype.
Sizes check_change(const Mlp& now, const Mlp& then, int64_t num_outputs);

// Input rows of the last layer and their changes, for some conditions, and what made them.
struct LastRows {
  std::vector<at::Tensor> inputs, previous_inputs;
  Sizes sizes;
  at::Tensor hidden, now, change;  // `hidden` as hidden_layers returns it, undefined if there is none
};

LastRows last_rows(const Mlp& mlp, const Mlp& previous, const Sizes& sizes, int64_t begin, int64_t count, bool save_hidden);

}  // namespace hnetfast
