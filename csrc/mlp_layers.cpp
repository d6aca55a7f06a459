#include "mlp_layers.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "buffer_pool.h"
#include "checks.h"
#include "output_layer.h"
#include "product.h"
#include "tasks.h"

namespace hnetfast {

using at::Tensor;
using at::TensorList;
using std::string_view;

namespace {

constexpr int64_t kWideLayer = 192;         // from this width on a plain matrix product is as fast
constexpr int64_t kBlockRows = 256;         // that go through the hidden layers together,
constexpr int64_t kTileRows = 96;           // or of narrow ones
constexpr size_t kManyBlocks = 16;          // products enough to keep all threads busy, one each
constexpr int64_t kSmallSums = 1 << 20;     // elements
constexpr int64_t kSmallNetwork = 1 << 14;  // multiply-adds of the hidden layers below which calls cost more
constexpr int64_t kFewRows = 4;             // below this many rows packing W costs more than it saves,
constexpr int64_t kNarrowMatrix = 8;        // but for matrices of so few columns

}  // namespace

Sizes check_network(const Mlp& mlp) {
  const char* op = mlp.op;
  const TensorList inputs = mlp.inputs, weights = mlp.weights, biases = mlp.biases;
  const string_view activation = mlp.activation;
  TORCH_CHECK_VALUE(!inputs.empty() && !weights.empty(), op, ": inputs and weights must not be empty, got ",
                    inputs.size(), ", ", weights.size());
  const at::ScalarType type = weights[0].scalar_type();
  TORCH_CHECK_VALUE(type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf, op,
                    ": weights[0] is ", type, ", accepted are Half, BFloat16, Float, Double");
  TORCH_CHECK_VALUE(activation == "identity" || activation == "relu" || activation == "sigmoid" || activation == "tanh" ||
                        activation == "elu" || activation == "leaky_relu",
                    op, ": activation is '", activation,
                    "', accepted are identity, relu, sigmoid, tanh, elu, leaky_relu");
  TORCH_CHECK_VALUE(biases.empty() || biases.size() == weights.size(), op, ": ", biases.size(), " biases for ",
                    weights.size(), " weights; give one each or none");
  Sizes sizes{1, 1, weights.back().dim() ? weights.back().size(0) : 0, 0};
  int64_t width = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    check_tensor(op, "inputs", i, inputs[i], weights[0]);
    TORCH_CHECK_VALUE(inputs[i].dim() == 3, op, ": inputs[", i, "] has shape ", inputs[i].sizes(),
                      ", expected [conditions or 1, chunks or 1, width]");
    if (inputs[i].size(0) != 1) sizes.conditions = inputs[i].size(0);
    if (inputs[i].size(1) != 1) sizes.chunks = inputs[i].size(1);
    width += inputs[i].size(2);
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    TORCH_CHECK_VALUE((inputs[i].size(0) == 1 || inputs[i].size(0) == sizes.conditions) &&
                          (inputs[i].size(1) == 1 || inputs[i].size(1) == sizes.chunks),
                      op, ": inputs[", i, "] has shape ", inputs[i].sizes(), ", expected [", sizes.conditions,
                      " or 1, ", sizes.chunks, " or 1, width]");
  }
  for (size_t i = 0; i < weights.size(); ++i) {
    check_tensor(op, "weights", i, weights[i], weights[0]);
    TORCH_CHECK_VALUE(weights[i].dim() == 2 && weights[i].size(1) == width, op, ": weights[", i, "] has shape ",
                      weights[i].sizes(), ", expected [out, ", width, "]");
    width = weights[i].size(0);
    if (biases.empty()) continue;
    check_tensor(op, "biases", i, biases[i], weights[0]);
    TORCH_CHECK_VALUE(biases[i].dim() == 1 && biases[i].size(0) == width, op, ": biases[", i, "] has shape ",
                      biases[i].sizes(), ", expected [", width, "]");
  }
  sizes.outputs = sizes.chunks * sizes.chunk_size;
  return sizes;
}

namespace {

void activate_(Tensor& h, string_view activation) {
  if (activation == "relu") at::relu_(h);
  else if (activation == "sigmoid") at::sigmoid_(h);
  else if (activation == "tanh") at::tanh_(h);
  else if (activation == "elu") at::elu_(h);
  else if (activation == "leaky_relu") at::leaky_relu_(h);
}

// Gradient before the activation, from its result h; `grad` may be overwritten.
Tensor activation_grad(Tensor& grad, const Tensor& h, string_view activation) {
  if (activation == "relu") return at::threshold_backward_out(grad, grad, h, 0);
  if (activation == "sigmoid") return at::sigmoid_backward(grad, h);
  if (activation == "tanh") return at::tanh_backward(grad, h);
  if (activation == "elu") return at::elu_backward(grad, 1, 1, 1, /*is_result=*/true, h);
  if (activation == "leaky_relu") return at::leaky_relu_backward(grad, h, 0.01, /*self_is_result=*/true);
  return grad;
}

template <typename F>
void with_tile_type(at::ScalarType type, const F& run) {
  if (type == at::kFloat) {
    run(float());
  } else {
    run(double());
  }
}

bool has_tile_kernels(at::ScalarType type) { return type == at::kFloat || type == at::kDouble; }

Tensor as_matrix(const Tensor& part) { return part.reshape({part.size(0) * part.size(1), part.size(2)}); }

// The first layer before its activation, one product for each part: [R, out].
Tensor first_layer(TensorList inputs, const Tensor& weight, const Tensor& bias, const Sizes& sizes) {
  Tensor sum;
  int64_t column = 0;
  for (const Tensor& part : inputs) {
    const int64_t width = part.size(2);
    const Tensor w = weight.narrow(1, column, width).t();
    column += width;
    Tensor term = product(as_matrix(part), w, sum.defined() ? Tensor() : bias);
    term = term.view({part.size(0), part.size(1), weight.size(0)});
    sum = sum.defined() ? sum + term : term;
  }
  return sum.expand({sizes.conditions, sizes.chunks, weight.size(0)}).reshape({sizes.rows(), weight.size(0)});
}

template <typename T>
T dot(const T* a, const T* b, int64_t count) {
  T sum[4] = {};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int lane = 0; lane < 4; ++lane) sum[lane] += a[i + lane] * b[i + lane];
  }
  for (; i < count; ++i) sum[0] += a[i] * b[i];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// All hidden layers of a small network with relu or no activation, without a library call for each.
template <typename T>
void small_hidden(TensorList inputs, TensorList weights, TensorList biases, bool relu, const Sizes& sizes, T* hidden, int64_t ld) {
  std::vector<Tensor> kept;
  const auto data = [&](const Tensor& t) {
    kept.push_back(t.contiguous());
    return kept.back().const_data_ptr<T>();
  };
  int64_t column = 0, width = 0;
  for (size_t layer = 0; layer + 1 < weights.size(); ++layer) {
    const int64_t out = weights[layer].size(0), in = weights[layer].size(1);
    const T* w = data(weights[layer]);
    const T* bias = biases.empty() ? nullptr : data(biases[layer]);
    for (int64_t r = 0; r < sizes.rows(); ++r) {
      T* h = hidden + r * ld + column;
      for (int64_t o = 0; o < out; ++o) h[o] = bias ? bias[o] : T(0);
    }
    if (layer == 0) {
      int64_t from = 0;
      for (const Tensor& part : inputs) {
        const T* x = data(part);
        const int64_t of_condition = part.size(0) == 1 ? 0 : part.size(1) * part.size(2);
        const int64_t of_chunk = part.size(1) == 1 ? 0 : part.size(2);
        for (int64_t r = 0; r < sizes.rows(); ++r) {
          const T* row = x + r / sizes.chunks * of_condition + r % sizes.chunks * of_chunk;
          for (int64_t o = 0; o < out; ++o) hidden[r * ld + o] += dot(row, w + o * in + from, part.size(2));
        }
        from += part.size(2);
      }
    } else {
      for (int64_t r = 0; r < sizes.rows(); ++r) {
        const T* row = hidden + r * ld + column - width;
        for (int64_t o = 0; o < out; ++o) hidden[r * ld + column + o] += dot(row, w + o * in, in);
      }
    }
    if (relu) {
      for (int64_t r = 0; r < sizes.rows(); ++r) {
        T* h = hidden + r * ld + column;
        for (int64_t o = 0; o < out; ++o) h[o] = h[o] < T(0) ? T(0) : h[o];  // keeps NaN, as torch does
      }
    }
    column += out;
    width = out;
  }
}

// The parts of the rows of conditions [b0, b0 + conditions) and chunks [i0, i0 + chunks).
std::vector<Tensor> rows_of(TensorList inputs, int64_t b0, int64_t conditions, int64_t i0, int64_t chunks) {
  std::vector<Tensor> parts;
  for (const Tensor& part : inputs) {
    Tensor rows = part.size(0) == 1 ? part : part.narrow(0, b0, conditions);
    parts.push_back(part.size(1) == 1 ? rows : rows.narrow(1, i0, chunks));
  }
  return parts;
}

// The hidden layers of some rows. `target` takes all of them side by side, or the last one alone.
void hidden_block(TensorList inputs, TensorList weights, TensorList biases, string_view activation, const Sizes& sizes,
                  const Tensor& target, bool save) {
  int64_t column = 0;
  Tensor below;
  for (size_t i = 0; i + 1 < weights.size(); ++i) {
    const int64_t width = weights[i].size(0);
    const bool keep = save || i + 2 == weights.size();
    Tensor h = keep ? target.narrow(1, column, width) : at::empty({sizes.rows(), width}, target.options());
    column += save ? width : 0;
    if (i == 0) {
      h.copy_(first_layer(inputs, weights[0], biases.empty() ? Tensor() : biases[0], sizes));
    } else {
      product_out(h, below, weights[i].t(), biases.empty() ? Tensor() : biases[i]);
    }
    activate_(h, activation);
    below = h;
  }
}

// All hidden layers of rows by tiles: matrices are laid out once, and each activation is applied as its tile is stored.
template <typename T>
class TiledHidden {
 public:
  TiledHidden(const Mlp& mlp, const Sizes& sizes) : sizes_(sizes), relu_(mlp.activation == "relu") {
    const int64_t lanes = kernels_.lanes;
    int64_t column = 0;
    for (const Tensor& part : mlp.inputs) {
      const Tensor w = mlp.weights[0].narrow(1, column, part.size(2)).t();
      const bool with_bias = column == 0 && !mlp.biases.empty();
      column += part.size(2);
      kept_.push_back(product(as_matrix(part), w, with_bias ? mlp.biases[0] : Tensor()));
      const int64_t out = w.size(1);
      terms_.push_back({kept_.back().template const_data_ptr<T>(), part.size(0) == 1 ? 0 : part.size(1) * out, part.size(1) == 1 ? 0 : out});
    }
    for (size_t i = 0; i + 1 < mlp.weights.size(); ++i) {
      const int64_t out = mlp.weights[i].size(0), pitch = round_up(out, lanes);
      Layer layer{out, pitch, nullptr, nullptr};
      if (i > 0) layer.weight = keep(at::constant_pad_nd(mlp.weights[i].t(), {0, pitch - out}));
      if (i > 0 && !mlp.biases.empty()) layer.bias = keep(at::constant_pad_nd(mlp.biases[i], {0, pitch - out}));
      layers_.push_back(layer);
      width_ = std::max(width_, pitch);
    }
  }

  // Rows [begin, end), of which the results of all layers, or of the last alone, go to rows of `target`.
  void run(int64_t begin, int64_t end, T* target, int64_t ld, bool all) const {
    const int64_t height = end - begin;
    T* memory = scratch<T>(3 * height * width_);
    T* const tile = memory + 2 * height * width_;
    const T* below = nullptr;
    int64_t below_ld = 0;
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      const bool keep = all || i + 1 == layers_.size();
      T* const to = keep ? target : memory + (i % 2) * height * width_;
      const int64_t to_ld = keep ? ld : width_;
      if (i == 0) {
        for (int64_t r = 0; r < height; ++r) add_terms((begin + r) / sizes_.chunks, (begin + r) % sizes_.chunks, layer.out, to + r * to_ld);
      } else {
        kernels_.gemm(height, layer.pitch, layers_[i - 1].out, below, below_ld, 1, layer.weight, layer.pitch, tile, layer.pitch, layer.bias, false);
        for (int64_t r = 0; r < height; ++r) store(tile + r * layer.pitch, layer.out, to + r * to_ld);
      }
      below = to;
      below_ld = to_ld;
      if (all) target += layer.out;
    }
  }

 private:
  struct Layer {
    int64_t out, pitch;
    const T *weight, *bias;
  };
  struct Term {
    const T* data;
    int64_t of_condition, of_chunk;
  };

  const T* keep(const Tensor& tensor) {
    kept_.push_back(tensor.contiguous());
    return kept_.back().template const_data_ptr<T>();
  }

  void add_terms(int64_t condition, int64_t chunk, int64_t count, T* to) const {
    for (size_t p = 0; p < terms_.size(); ++p) {
      const T* from = terms_[p].data + condition * terms_[p].of_condition + chunk * terms_[p].of_chunk;
      if (p == 0) std::copy(from, from + count, to);
      else for (int64_t k = 0; k < count; ++k) to[k] += from[k];
    }
    if (relu_) store(to, count, to);
  }

  void store(const T* from, int64_t count, T* to) const {
    if (relu_) for (int64_t k = 0; k < count; ++k) to[k] = from[k] < T(0) ? T(0) : from[k];  // keeps NaN, as torch does
    else if (from != to) std::copy(from, from + count, to);
  }

  const TileKernels<T>& kernels_ = tile_kernels<T>();
  Sizes sizes_;
  bool relu_;
  int64_t width_ = 0;
  std::vector<Tensor> kept_;
  std::vector<Term> terms_;
  std::vector<Layer> layers_;
};

}  // namespace

int64_t Mlp::hidden_width() const {
  int64_t width = 0;
  for (const Tensor& weight : weights.slice(0, weights.size() - 1)) width += weight.size(0);
  return width;
}

Tensor hidden_layers(const Mlp& mlp, const Sizes& sizes, bool save) {
  const TensorList inputs = mlp.inputs, weights = mlp.weights, biases = mlp.biases;
  const string_view activation = mlp.activation;
  int64_t width = 0, work = 0;
  for (size_t i = 0; i + 1 < weights.size(); ++i) {
    width += weights[i].size(0);
    work += sizes.rows() * weights[i].size(0) * weights[i].size(1);
  }
  const bool simple = activation == "relu" || activation == "identity";
  const bool small = simple && work <= kSmallNetwork && has_tile_kernels(weights[0].scalar_type());
  const Tensor result = empty_pooled({sizes.rows(), save || small ? width : weights.back().size(1)}, weights[0].options());
  if (small) {
    with_tile_type(result.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      small_hidden<T>(inputs, weights, biases, activation == "relu", sizes, result.mutable_data_ptr<T>(), width);
    });
    return result;
  }
  const auto count = [](int64_t total, int64_t of) { return of ? (total + of - 1) / of : 0; };
  const auto narrow = [](const Tensor& weight) { return weight.size(0) <= kWideLayer; };
  if (simple && has_tile_kernels(result.scalar_type()) && std::all_of(weights.begin(), weights.end() - 1, narrow)) {
    with_tile_type(result.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      const TiledHidden<T> tiled(mlp, sizes);
      T* const data = result.mutable_data_ptr<T>();
      const int64_t ld = result.size(1);
      parallel(count(sizes.rows(), kTileRows), work, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t first = i * kTileRows;
          tiled.run(first, std::min(first + kTileRows, sizes.rows()), data + first * ld, ld, save);
        }
      });
    });
    return result;
  }
  // One parallel region for all layers: blocks are tasks, and what a task calls runs on its thread.
  const int64_t conditions = std::clamp<int64_t>(kBlockRows / std::max<int64_t>(sizes.chunks, 1), 1, std::max<int64_t>(sizes.conditions, 1));
  const int64_t chunks = std::min(sizes.chunks, kBlockRows);
  const int64_t across = count(sizes.chunks, chunks);
  at::parallel_for(0, count(sizes.conditions, conditions) * across, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;  // other threads start without the state of this one
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / across * conditions, i = task % across * chunks;
      const Sizes block{std::min(conditions, sizes.conditions - b), std::min(chunks, sizes.chunks - i), 0, 0};
      hidden_block(rows_of(inputs, b, block.conditions, i, block.chunks), weights, biases, activation, block,
                   result.narrow(0, b * sizes.chunks + i, block.rows()), save);
    }
  });
  return result;
}

namespace {

// What the last layer reads: after hidden layers one matrix of rows; without them the parts that vary with the
// chunk, and those that do not.
struct LastInput {
  Tensor x, y;  // [rows, k], [conditions, l]; y may be undefined
  int64_t conditions;
  std::vector<Columns> x_columns, y_columns;
  bool separable() const { return y.defined(); }
};

LastInput dense_input(Tensor x) {
  const int64_t width = x.size(1);
  return {std::move(x), Tensor(), 1, {{0, 0, width}}, {}};
}

Tensor last_hidden(const Tensor& hidden, TensorList weights) {
  const int64_t width = weights.back().size(1);
  return hidden.narrow(1, hidden.size(1) - width, width);
}

bool varies_with_both(const Tensor& part, const Sizes& sizes) {
  return sizes.conditions != 1 && part.size(0) != 1 && part.size(1) != 1;
}

LastInput separate(TensorList inputs, const Sizes& sizes) {
  int64_t width = 0;
  for (const Tensor& part : inputs) width += part.size(2);
  const bool full = std::any_of(inputs.begin(), inputs.end(), [&](const Tensor& p) { return varies_with_both(p, sizes); });
  if (full || sizes.chunks == 1 || width > kWideLayer || !has_tile_kernels(inputs[0].scalar_type())) {
    std::vector<Tensor> parts;
    for (const Tensor& part : inputs) parts.push_back(part.expand({sizes.conditions, sizes.chunks, part.size(2)}));
    return dense_input(at::cat(parts, 2).flatten(0, 1));
  }
  LastInput result{{}, {}, sizes.conditions, {}, {}};
  std::vector<Tensor> of_chunk, of_condition;
  int64_t column = 0, k = 0, l = 0;
  for (const Tensor& part : inputs) {
    const int64_t part_width = part.size(2);
    if (part.size(1) != 1) {
      of_chunk.push_back(part[0]);
      result.x_columns.push_back({column, k, part_width});
      k += part_width;
    } else {
      of_condition.push_back(part.expand({sizes.conditions, 1, part_width}).select(1, 0));
      result.y_columns.push_back({column, l, part_width});
      l += part_width;
    }
    column += part_width;
  }
  const Tensor none = inputs[0].new_empty({sizes.conditions, 0});
  result.x = of_chunk.size() == 1 ? of_chunk[0].contiguous() : at::cat(of_chunk, 1);
  result.y = of_condition.empty() ? none : of_condition.size() == 1 ? of_condition[0].contiguous() : at::cat(of_condition, 1);
  return result;
}

bool use_tiles(const LastInput& input, const Tensor& weight) {
  if (!has_tile_kernels(weight.scalar_type())) return false;
  const bool cheap = weight.size(1) <= kNarrowMatrix;
  return input.x.size(1) <= kWideLayer && (input.separable() || input.x.size(0) >= kFewRows || cheap);
}

// The tile pass holds partial sums of the input gradient: not worth it where they outweigh the output gradient.
bool use_tiles_backward(const LastInput& input, const Tensor& weight) {
  const int64_t rows = input.x.size(0), width = input.x.size(1);
  const bool small = kSlabs * rows * width <= kSmallSums, light = 2 * kSlabs * width <= weight.size(0);
  return use_tiles(input, weight) && (input.separable() || small || light);
}

template <typename T>
OutputLayer<T> output_layer(const LastInput& input, const Tensor& weight, const Tensor& bias, const Sizes& sizes,
                            const Placement& placement) {
  OutputLayer<T> layer;
  layer.rows = input.x.size(0);
  layer.conditions = input.conditions;
  layer.chunk_size = sizes.chunk_size;
  layer.out_stride = input.separable() ? sizes.outputs : sizes.conditions * sizes.outputs;
  layer.offset.resize(layer.rows);
  layer.width.resize(layer.rows);
  layer.bounds = placement.bounds;
  layer.pieces = placement.pieces;
  for (int64_t r = 0; r < layer.rows; ++r) {
    const int64_t chunk = r % sizes.chunks, start = chunk * sizes.chunk_size;
    layer.offset[r] = r / sizes.chunks * sizes.outputs;
    if (placement.pieces) {
      layer.places.push_back(placement.places + chunk * placement.pieces);
    } else {
      layer.offset[r] += start;
      layer.width[r] = std::clamp<int64_t>(sizes.outputs - start, 0, sizes.chunk_size);
    }
  }
  layer.x = input.x.const_data_ptr<T>();
  layer.y = input.separable() ? input.y.const_data_ptr<T>() : nullptr;
  layer.k = input.x.size(1);
  layer.x_ld = input.x.stride(0);
  layer.l = input.separable() ? input.y.size(1) : 0;
  layer.x_columns = input.x_columns;
  layer.y_columns = input.y_columns;
  layer.weight = weight.const_data_ptr<T>();
  layer.ld = weight.size(1);
  layer.bias = bias.defined() ? bias.const_data_ptr<T>() : nullptr;
  return layer;
}

// --- the last layer by matrix products: wide layers, few rows, reduced precision ---------------------------------

struct Block {
  Tensor flat;  // a part of the flat result (or its gradient) as a matrix [rows, columns]
  int64_t first_row, rows, columns;
};

// All of it where chunks fill it evenly, else the whole chunks and the cut one of each condition.
std::vector<Block> blocks(const Tensor& flat, const Sizes& sizes) {
  const int64_t S = sizes.chunk_size, n = sizes.outputs, whole = S ? n / S : 0, tail = n - whole * S;
  if (tail == 0 && whole == sizes.chunks) return {{flat.view({sizes.rows(), S}), 0, sizes.rows(), S}};
  std::vector<Block> result;
  for (int64_t b = 0; b < sizes.conditions; ++b) {
    const int64_t row = b * sizes.chunks, start = flat.storage_offset() + b * n;
    if (whole) result.push_back({flat.as_strided({whole, S}, {S, 1}, start), row, whole, S});
    if (tail) result.push_back({flat.as_strided({1, tail}, {n, 1}, start + whole * S), row + whole, 1, tail});
  }
  return result;
}

// Runs over the blocks, on all threads where there are many: each product is then a task, else it is shared out.
template <typename F>
void for_each_block(const std::vector<Block>& parts, const F& run) {
  const auto some = [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;  // other threads start without the state of this one
    for (int64_t i = begin; i < end; ++i) run(parts[i]);
  };
  if (parts.size() < kManyBlocks) {
    some(0, parts.size());
  } else {
    at::parallel_for(0, parts.size(), 1, some);
  }
}

void product_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Sizes& sizes, const Tensor& out) {
  for_each_block(blocks(out, sizes), [&](const Block& block) {
    const Tensor rows = x.narrow(0, block.first_row, block.rows);
    const Tensor w = weight.narrow(0, 0, block.columns).t();
    product_out(block.flat, rows, w, bias.defined() ? bias.narrow(0, 0, block.columns) : bias);
  });
}

struct LastGrads {
  Tensor weight, bias, x, y;
};

// What the blocks give to rows [begin, end) of the gradients of matrix and bias, one block after the other; the
// first replaces what is in that of the matrix where `overwrite`.
void add_parameter_grads(const std::vector<Block>& parts, const Tensor& x, int64_t begin, int64_t end, bool overwrite,
                         LastGrads& grads) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const Block& block = parts[i];
    const int64_t count = std::min(end, block.columns) - begin;
    if (count <= 0) continue;
    const Tensor flat = block.flat.narrow(1, begin, count);
    const bool first = overwrite && i == 0;
    if (grads.weight.defined()) {
      const Tensor rows = x.narrow(0, block.first_row, block.rows);
      product_out(grads.weight.narrow(0, begin, count), flat.t(), rows, {}, !first);
    }
    if (grads.bias.defined()) grads.bias.narrow(0, begin, count).add_(flat.sum(0));
  }
}

void product_backward(const Tensor& grad, const Tensor& x, const Tensor& weight, const Sizes& sizes, LastGrads& grads) {
  const auto parts = grad.numel() > 0 ? blocks(grad, sizes) : std::vector<Block>();
  int64_t covered = 0;
  for (const Block& block : parts) covered += block.rows;
  const bool all_columns = !parts.empty() && parts[0].columns == sizes.chunk_size;
  if (grads.weight.defined() && !all_columns) grads.weight.zero_();
  if (grads.bias.defined()) grads.bias.zero_();
  if (grads.x.defined() && covered < x.size(0)) grads.x.zero_();
  if (grads.y.defined()) grads.y.zero_();
  if (grads.x.defined()) {
    for_each_block(parts, [&](const Block& block) {
      product_out(grads.x.narrow(0, block.first_row, block.rows), block.flat, weight.narrow(0, 0, block.columns));
    });
  }
  if (!grads.weight.defined() && !grads.bias.defined()) return;
  const int64_t columns = sizes.chunk_size, tasks = parts.size() < kManyBlocks ? 1 : std::clamp<int64_t>(columns / 256, 2, 8);
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;
    for (int64_t task = begin; task < end; ++task) {
      add_parameter_grads(parts, x, columns * task / tasks, columns * (task + 1) / tasks, all_columns, grads);
    }
  });
}

// --- chunks in pieces, by way of one product of the last layer -----------------------------------------------------

Sizes unplaced(const Sizes& sizes) { return {sizes.conditions, sizes.chunks, sizes.chunk_size, sizes.chunks * sizes.chunk_size}; }

// Calls run(element of the product [B, N·S], element of the outputs [B, n], count) for all pieces that have a place.
template <typename F>
void for_each_piece(const Sizes& sizes, const Placement& placement, const F& run) {
  at::parallel_for(0, sizes.rows(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t* places = placement.places + r % sizes.chunks * placement.pieces;
      for (int64_t s = 0; s < placement.pieces; ++s) {
        if (places[s] < 0) continue;
        const int64_t from = placement.bounds[s];
        run(r * sizes.chunk_size + from, r / sizes.chunks * sizes.outputs + places[s], placement.bounds[s + 1] - from);
      }
    }
  });
}

void place_pieces(const Tensor& raw, const Sizes& sizes, const Placement& placement, const Tensor& out) {
  const int64_t size = out.element_size();
  const auto* from = static_cast<const char*>(raw.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  for_each_piece(sizes, placement, [&](int64_t i, int64_t o, int64_t count) { std::memcpy(to + o * size, from + i * size, count * size); });
}

// The gradient of the product: zeros where an output has no place.
Tensor collect_pieces(const Tensor& grad, const Sizes& sizes, const Placement& placement) {
  const Tensor raw = empty_pooled({sizes.conditions, sizes.chunks * sizes.chunk_size}, grad.options()).zero_();
  const int64_t size = grad.element_size();
  const auto* from = static_cast<const char*>(grad.const_data_ptr());
  auto* to = static_cast<char*>(raw.mutable_data_ptr());
  for_each_piece(sizes, placement, [&](int64_t i, int64_t o, int64_t count) { std::memcpy(to + i * size, from + o * size, count * size); });
  return raw;
}

// Gradients of the parts from that of what the last layer read, where there is no hidden layer.
void split_input_grads(const LastInput& input, const LastGrads& grads, TensorList inputs, const Sizes& sizes,
                       std::vector<Tensor>& results) {
  size_t next_x = 0, next_y = 0;
  int64_t column = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& part = inputs[i];
    const int64_t width = part.size(2);
    Tensor grad;
    if (!input.separable()) {
      grad = grads.x.view({sizes.conditions, sizes.chunks, grads.x.size(1)}).narrow(2, column, width);
      column += width;
    } else if (next_x < input.x_columns.size() && part.size(1) != 1) {
      grad = grads.x.narrow(1, input.x_columns[next_x++].to, width).unsqueeze(0);
    } else {
      grad = grads.y.narrow(1, input.y_columns[next_y++].to, width).unsqueeze(1);
    }
    results[i] = grad.sum_to_size(part.sizes()).contiguous();
  }
}

}  // namespace

void output_forward(const Mlp& mlp, const Tensor& hidden, const Sizes& sizes, const Placement& placement, const Tensor& out) {
  if (out.numel() == 0 || sizes.rows() == 0) return;
  const Tensor& matrix = mlp.weights.back();
  const LastInput input = mlp.weights.size() > 1 ? dense_input(last_hidden(hidden, mlp.weights)) : separate(mlp.inputs, sizes);
  const Tensor bias = mlp.biases.empty() ? Tensor() : mlp.biases.back().contiguous();
  if (use_tiles(input, matrix)) {
    const Tensor weight = matrix.contiguous();
    with_tile_type(out.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      output_layer_forward(output_layer<T>(input, weight, bias, sizes, placement), out.mutable_data_ptr<T>());
    });
  } else if (placement.pieces) {
    const Sizes all = unplaced(sizes);
    const Tensor raw = empty_pooled({all.conditions, all.outputs}, out.options());
    product_forward(input.x, matrix, bias, all, raw);
    place_pieces(raw, sizes, placement, out);
  } else {
    product_forward(input.x, matrix, bias, sizes, out);
  }
}

void hidden_backward(const Mlp& mlp, const Tensor& grad, const Tensor& saved_hidden, const Sizes& sizes,
                     const std::function<bool(size_t)>& need, std::vector<Tensor>& results) {
  const TensorList inputs = mlp.inputs, weights = mlp.weights, biases = mlp.biases;
  const size_t first_weight = inputs.size(), first_bias = first_weight + weights.size(), last = weights.size() - 1;
  if (last == 0) {
    const LastInput rows = dense_input(Tensor(grad));
    return split_input_grads(rows, {{}, {}, grad, {}}, inputs, sizes, results);
  }
  std::vector<int64_t> widths;
  for (size_t i = 0; i < last; ++i) widths.push_back(weights[i].size(0));
  const std::vector<Tensor> hidden = saved_hidden.split_with_sizes(widths, 1);
  Tensor g = grad;
  for (size_t i = last; i-- > 0;) {  // from the last to the first
    g = activation_grad(g, hidden[i], mlp.activation);  // [R, out]
    if (!biases.empty() && need(first_bias + i)) results[first_bias + i] = g.sum(0);
    if (i > 0) {
      if (need(first_weight + i)) results[first_weight + i] = product(g.t(), hidden[i - 1]);
      g = product(g, weights[i]);
      continue;
    }
    const Tensor rows = g.view({sizes.conditions, sizes.chunks, g.size(1)});
    std::vector<Tensor> columns;
    int64_t column = 0;
    for (size_t p = 0; p < inputs.size(); ++p) {
      const Tensor& part = inputs[p];
      // A part that does not vary with the conditions (chunks) meets the sum of the gradient over them.
      const Tensor sum = as_matrix(rows.sum_to_size({part.size(0), part.size(1), rows.size(2)}));
      if (need(first_weight)) columns.push_back(product(sum.t(), as_matrix(part)));
      if (need(p)) results[p] = product(sum, weights[0].narrow(1, column, part.size(2))).view(part.sizes());
      column += part.size(2);
    }
    if (need(first_weight)) results[first_weight] = at::cat(columns, 1);
  }
}

std::vector<Tensor> mlp_backward(const Mlp& mlp, const Tensor& grad, const Tensor& saved_hidden, const Sizes& sizes,
                                 const Placement& placement, const std::function<bool(size_t)>& need) {
  const TensorList inputs = mlp.inputs, weights = mlp.weights, biases = mlp.biases;
  const size_t first_weight = inputs.size(), first_bias = first_weight + weights.size(), last = weights.size() - 1;
  std::vector<Tensor> results(mlp.tensors());

  const Tensor hidden_all = saved_hidden.contiguous();  // hooks on saved tensors may bring it back in any layout
  bool below = false;  // does anything below the last layer need a gradient?
  for (size_t i = 0; i < results.size(); ++i) below |= need(i) && i != first_weight + last && i != first_bias + last;

  const LastInput input = last > 0 ? dense_input(last_hidden(hidden_all, weights)) : separate(inputs, sizes);
  const Tensor weight = weights[last].contiguous();
  LastGrads grads;
  if (need(first_weight + last)) grads.weight = empty_pooled(weight.sizes(), weight.options());
  if (!biases.empty() && need(first_bias + last)) grads.bias = at::empty_like(biases[last], at::MemoryFormat::Contiguous);
  if (below) grads.x = empty_pooled(input.x.sizes(), input.x.options());
  if (below && input.separable()) grads.y = at::empty_like(input.y);
  if (use_tiles_backward(input, weight) && grad.numel() > 0) {
    with_tile_type(grad.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      const auto pointer = [](const Tensor& t) { return t.defined() ? t.mutable_data_ptr<T>() : nullptr; };
      output_layer_backward(output_layer<T>(input, weight, Tensor(), sizes, placement), grad.const_data_ptr<T>(),
                            pointer(grads.weight), pointer(grads.bias), pointer(grads.x), pointer(grads.y));
    });
  } else if (placement.pieces) {
    const Tensor raw = collect_pieces(grad, sizes, placement);
    product_backward(raw, input.x, weight, unplaced(sizes), grads);
  } else {
    product_backward(grad, input.x, weight, sizes, grads);
  }
  results[first_weight + last] = grads.weight;
  if (!biases.empty()) results[first_bias + last] = grads.bias;

  if (below && last == 0) split_input_grads(input, grads, inputs, sizes, results);
  if (below && last > 0) hidden_backward(mlp, grads.x, hidden_all, sizes, need, results);
  for (size_t i = 0; i < results.size(); ++i) {
    if (!need(i) || !results[i].defined()) results[i] = at::empty({0}, grad.options());
  }
  return results;
}

}  // namespace hnetfast
