// An MLP applied to every pair of a condition and a chunk, on the CPU: what the ops chunked_mlp and grouped_mlp share.
// Notation as in hnetfast/ops/chunked_mlp.py: B conditions, N chunks, S chunk size, R = B·N rows, n outputs a condition.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <functional>
#include <string_view>
#include <vector>

namespace hnetfast {

constexpr int64_t kWideLayer = 192;  // from this width on a plain matrix product is as fast as tiles

struct Sizes {
  int64_t conditions, chunks, chunk_size, outputs;
  int64_t rows() const { return conditions * chunks; }
};

// The arguments of one network, and the op that they were given to.
struct Mlp {
  const char* op;
  at::TensorList inputs, weights, biases;
  std::string_view activation;

  size_t tensors() const { return inputs.size() + weights.size() + biases.size(); }
  int64_t hidden_width() const;
};

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

// Results of all hidden layers side by side, [R, Σ widths], or without `save` at least those of the last, as the last
// columns. Rows go through all layers in blocks: what lies between the layers stays in the caches.
at::Tensor hidden_layers(const Mlp& mlp, const Sizes& sizes, bool save);

// Whether the hidden layers are narrow, and of a kind that tiles know.
bool suits_tiles(const Mlp& mlp);

// The same for a network and what it was, `then`, and by how much the results of the last hidden layer have changed, [R, K].
struct HiddenChange {
  at::Tensor hidden, change;
};
HiddenChange hidden_change(const Mlp& now, const Mlp& then, const Sizes& sizes, bool save);

// The last layer, from the results of the hidden ones, into `out`, [B, n].
void output_forward(const Mlp& mlp, const at::Tensor& hidden, const Sizes& sizes, const Placement& placement, const at::Tensor& out);

// Gradients of inputs, weights and biases, those that `need` asks for by their number, from that of all outputs, [B, n].
std::vector<at::Tensor> mlp_backward(const Mlp& mlp, const at::Tensor& grad, const at::Tensor& hidden, const Sizes& sizes,
                                     const Placement& placement, const std::function<bool(size_t)>& need);

// The same of what lies below the last layer of several, from the gradient of its input rows, [R, K], which may be
// overwritten. `hidden` as hidden_layers saves them.
void hidden_backward(const Mlp& mlp, const at::Tensor& grad, const at::Tensor& hidden, const Sizes& sizes,
                     const std::function<bool(size_t)>& need, std::vector<at::Tensor>& results);

}  // namespace hnetfast
