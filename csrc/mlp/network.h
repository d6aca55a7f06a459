// An MLP applied to every pair of a condition and a chunk: its arguments and their sizes.
// Notation as in hnetfast/ops/chunked_mlp.py: B conditions, N chunks, S chunk size, R = B·N rows, n outputs a condition.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "mlp/activation.h"

namespace hnetfast {

constexpr int64_t kWideLayer = 192;  // from this width on a plain matrix product is as fast as tiles

struct Sizes {
  int64_t conditions, chunks, chunk_size, outputs;
  int64_t rows() const { return conditions * chunks; }
};

// The arguments of one network, and the op that they were given to. Its tensors are numbered: inputs, weights, biases.
struct Mlp {
  const char* op;
  at::TensorList inputs, weights, biases;
  Activation activation;

  size_t tensors() const { return inputs.size() + weights.size() + biases.size(); }
  size_t first_weight() const { return inputs.size(); }
  size_t first_bias() const { return inputs.size() + weights.size(); }
  at::TensorList hidden_weights() const { return weights.slice(0, weights.size() - 1); }
  int64_t hidden_width() const;
  at::Tensor bias(size_t layer) const { return biases.empty() ? at::Tensor() : biases[layer]; }
};

// Whether the gradient of a tensor is asked for, by its number.
using Need = std::function<bool(size_t)>;

// Where the outputs of a chunk go, in pieces: columns bounds[s] to bounds[s + 1] of chunk i are stored from
// places[i·pieces + s] of a condition's outputs on, nowhere if that is negative. Without pieces chunks follow one another.
struct Placement {
  const int64_t *bounds = nullptr, *places = nullptr;
  int64_t pieces = 0;
};

// Checks all but the number of outputs, of which there are as many as the chunks have.
Sizes check_network(const Mlp& mlp);

// Refuses more elements than 64 bits can count: tensors that are expanded, or have a size of 0, may have any others.
void check_countable(const Mlp& mlp, const Sizes& sizes);

// Always of one layout, as products of others may add up in another order.
at::Tensor as_matrix(const at::Tensor& part);

// The parts of `count` conditions from `first` on.
std::vector<at::Tensor> of_conditions(at::TensorList inputs, int64_t first, int64_t count);

// What goes into a network, [R, width], and the gradients of its parts from that of it.
at::Tensor joined(at::TensorList inputs, const Sizes& sizes);
void joined_backward(at::TensorList inputs, const at::Tensor& grad, const Sizes& sizes, std::vector<at::Tensor>& results);

}  // namespace hnetfast
