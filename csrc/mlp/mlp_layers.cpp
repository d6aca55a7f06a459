#include "mlp/mlp_layers.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

#include "common/buffer_pool.h"
#include "common/checks.h"
#include "common/parallel.h"
#include "mlp/output_layer.h"
#include "mlp/product.h"
#include "tiles/tile_kernels.h"
#include "tiles/tile_types.h"

namespace hnetfast {

using at::Tensor;
using at::TensorList;
using std::string_view;

namespace {

constexpr size_t kManyBlocks = 16;          // products enough to keep all threads busy, one each
constexpr int64_t kSmallSums = 1 << 20;     // elements
constexpr int64_t kFewRows = 4;             // below this many rows packing W costs more than it saves,
constexpr int64_t kNarrowMatrix = 8;        // but for matrices of so few columns

}  // namespace

int64_t Mlp::hidden_width() const {
  int64_t width = 0;
  for (const Tensor& weight : weights.slice(0, weights.size() - 1)) width += weight.size(0);
  return width;
}

Sizes check_network(const Mlp& mlp) {
  const char* op = mlp.op;
  const TensorList inputs = mlp.inputs, weights = mlp.weights, biases = mlp.biases;
  const string_view activation = mlp.activation;
  TORCH_CHECK_VALUE(!inputs.empty() && !weights.empty(), op, ": inputs and weights must not be empty, got ",
                    inputs.size(), ", ", weights.size());
  check_dense(op, "weights", weights[0]);
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
  check_countable(mlp, sizes);
  sizes.outputs = sizes.chunks * sizes.chunk_size;
  return sizes;
}

void check_countable(const Mlp& mlp, const Sizes& sizes) {
  double widths = 1;  // real numbers do not overflow
  for (const Tensor& part : mlp.inputs) widths += part.size(2);
  for (const Tensor& weight : mlp.weights) widths += weight.size(0);
  TORCH_CHECK_VALUE(widths * sizes.conditions * sizes.chunks < 0x1p58, mlp.op, ": inputs are for ", sizes.conditions,
                    " conditions and ", sizes.chunks, " chunks, too many to be held in memory");
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

bool varies_with_both(TensorList inputs, const Sizes& sizes) {
  if (sizes.conditions == 1) return false;
  return std::any_of(inputs.begin(), inputs.end(), [](const Tensor& part) { return part.size(0) != 1 && part.size(1) != 1; });
}

// Whether the last layer, without hidden ones, is computed as the sum of a share of the chunk and one of the condition.
bool is_separable(TensorList inputs, const Sizes& sizes) {
  int64_t width = 0;
  for (const Tensor& part : inputs) width += part.size(2);
  return sizes.chunks != 1 && width <= kWideLayer && has_tile_kernels(inputs[0].scalar_type());
}

LastInput separate(TensorList inputs, const Sizes& sizes) {
  if (varies_with_both(inputs, sizes) || !is_separable(inputs, sizes)) {
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
  layer.k = input.x.size(1);
  layer.x_ld = input.x.stride(0);
  layer.l = input.separable() ? input.y.size(1) : 0;
  layer.y = layer.l ? input.y.const_data_ptr<T>() : nullptr;  // what is empty may have an address or none
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
void for_each_block(const std::vector<Block>& parts, int64_t work, const F& run) {
  const auto some = [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;  // other threads start without the state of this one
    for (int64_t i = begin; i < end; ++i) run(parts[i]);
  };
  if (parts.size() < kManyBlocks) {
    some(0, parts.size());
  } else {
    parallel(parts.size(), work, some);
  }
}

void product_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Sizes& sizes, const Tensor& out) {
  for_each_block(blocks(out, sizes), x.size(0) * weight.numel(), [&](const Block& block) {
    const Tensor rows = x.narrow(0, block.first_row, block.rows);
    const Tensor w = weight.narrow(0, 0, block.columns).t();
    product_out(block.flat, rows, w, bias.defined() ? bias.narrow(0, 0, block.columns) : bias);
  });
}

struct LastGrads {
  Tensor weight, bias, x, y;
};

// What the blocks give to rows [begin, end) of the gradients of matrix and bias, one block after the other; the
// first replaces what is in that of the matrix where `overwrite`. The type is that of the gradients.
void add_parameter_grads(const std::vector<Block>& parts, const Tensor& x, int64_t begin, int64_t end, bool overwrite,
                         LastGrads& grads) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const Block& block = parts[i];
    const int64_t count = std::min(end, block.columns) - begin;
    if (count <= 0) continue;
    const bool first = overwrite && i == 0;
    const Tensor& like = grads.weight.defined() ? grads.weight : grads.bias;
    const Tensor flat = block.flat.narrow(1, begin, count).to(like.scalar_type());
    if (grads.weight.defined()) {
      const Tensor rows = x.narrow(0, block.first_row, block.rows).to(like.scalar_type());
      product_out(grads.weight.narrow(0, begin, count), flat.t(), rows, {}, !first);
    }
    if (grads.bias.defined()) grads.bias.narrow(0, begin, count).add_(flat.sum(0));
  }
}

void product_backward(const Tensor& grad, const Tensor& x, const Tensor& weight, const Sizes& sizes, LastGrads& grads) {
  const auto parts = grad.numel() > 0 ? blocks(grad, sizes) : std::vector<Block>();
  const int64_t work = x.size(0) * weight.numel();
  int64_t covered = 0;
  for (const Block& block : parts) covered += block.rows;
  const bool all_columns = !parts.empty() && parts[0].columns == sizes.chunk_size;
  if (grads.weight.defined() && !all_columns) grads.weight.zero_();
  if (grads.bias.defined()) grads.bias.zero_();
  if (grads.x.defined() && covered < x.size(0)) grads.x.zero_();
  if (grads.y.defined()) grads.y.zero_();
  if (grads.x.defined()) {
    for_each_block(parts, work, [&](const Block& block) {
      product_out(grads.x.narrow(0, block.first_row, block.rows), block.flat, weight.narrow(0, 0, block.columns));
    });
  }
  if (!grads.weight.defined() && !grads.bias.defined()) return;
  // Half and bfloat16 would round what a block adds to the sum of those before it.
  const bool widen = parts.size() > 1 && grad.scalar_type() != at::kFloat && grad.scalar_type() != at::kDouble;
  const auto sum_of = [&](const Tensor& t) { return t.defined() && widen ? t.to(at::kFloat) : t; };
  LastGrads sums{sum_of(grads.weight), sum_of(grads.bias), {}, {}};
  const int64_t columns = sizes.chunk_size, tasks = parts.size() < kManyBlocks ? 1 : std::clamp<int64_t>(columns / 256, 2, 8);
  parallel(tasks, work, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;
    for (int64_t task = begin; task < end; ++task) {
      add_parameter_grads(parts, x, columns * task / tasks, columns * (task + 1) / tasks, all_columns, sums);
    }
  });
  if (!widen) return;
  if (grads.weight.defined()) grads.weight.copy_(sums.weight);
  if (grads.bias.defined()) grads.bias.copy_(sums.bias);
}

// --- chunks in pieces, by way of one product of the last layer -----------------------------------------------------

Sizes unplaced(const Sizes& sizes) { return {sizes.conditions, sizes.chunks, sizes.chunk_size, sizes.chunks * sizes.chunk_size}; }

// Calls run(element of the product [B, N·S], element of the outputs [B, n], count) for all pieces that have a place.
template <typename F>
void for_each_piece(const Sizes& sizes, const Placement& placement, const F& run) {
  constexpr int64_t kWork = 8;  // of an element, in multiply-adds
  parallel(sizes.rows(), sizes.rows() * sizes.chunk_size * kWork, [&](int64_t begin, int64_t end) {
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
  if (mlp.weights.size() == 1 && varies_with_both(mlp.inputs, sizes) && is_separable(mlp.inputs, sizes)) {
    // Chunks of their own: one condition after the other, with the bits that it has alone.
    for (int64_t b = 0; b < sizes.conditions; ++b) {
      std::vector<Tensor> inputs;
      for (const Tensor& part : mlp.inputs) inputs.push_back(part.size(0) == 1 ? part : part.narrow(0, b, 1));
      const Mlp alone{mlp.op, inputs, mlp.weights, mlp.biases, mlp.activation};
      output_forward(alone, hidden, {1, sizes.chunks, sizes.chunk_size, sizes.outputs}, placement, out.narrow(0, b, 1));
    }
    return;
  }
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

namespace {

std::vector<Tensor> backward_of_all(const Mlp& mlp, const Tensor& grad, const Tensor& saved_hidden, const Sizes& sizes,
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

template <typename T>
bool all_zero(const T* values, int64_t count) {
  constexpr int64_t kAtOnce = 1024;  // so many without a branch
  for (int64_t i = 0; i < count; i += kAtOnce) {
    bool other = false;
    for (int64_t k = i; k < std::min(count, i + kAtOnce); ++k) other |= values[k] != T(0);
    if (other) return false;
  }
  return true;
}

// Conditions whose outputs have a gradient that is not all zeros.
std::vector<int64_t> conditions_with_gradient(const Tensor& grad) {
  std::vector<int64_t> found;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, grad.scalar_type(), "conditions_with_gradient", [&] {
    for (int64_t b = 0; b < grad.size(0); ++b) {
      if (!all_zero(grad.const_data_ptr<scalar_t>() + b * grad.size(1), grad.size(1))) found.push_back(b);
    }
  });
  return found;
}

}  // namespace

std::vector<Tensor> mlp_backward(const Mlp& mlp, const Tensor& grad, const Tensor& saved_hidden, const Sizes& sizes,
                                 const Placement& placement, const std::function<bool(size_t)>& need) {
  if (sizes.conditions == 1 || grad.numel() == 0) return backward_of_all(mlp, grad, saved_hidden, sizes, placement, need);
  const std::vector<int64_t> active = conditions_with_gradient(grad);
  const int64_t count = active.size();
  if (count == 0 || count == sizes.conditions) return backward_of_all(mlp, grad, saved_hidden, sizes, placement, need);
  // The others add nothing: without them the bits are those of a call for the ones that count.
  const Tensor rows = at::tensor(active, at::kLong);
  std::vector<Tensor> inputs;
  for (const Tensor& part : mlp.inputs) inputs.push_back(part.size(0) == 1 ? part : part.index_select(0, rows));
  const int64_t width = mlp.hidden_width();
  const Tensor hidden = mlp.weights.size() == 1 ? saved_hidden
                                                : saved_hidden.reshape({sizes.conditions, sizes.chunks * width})
                                                      .index_select(0, rows)
                                                      .view({count * sizes.chunks, width});
  const Mlp some{mlp.op, inputs, mlp.weights, mlp.biases, mlp.activation};
  const Sizes fewer{count, sizes.chunks, sizes.chunk_size, sizes.outputs};
  std::vector<Tensor> results = backward_of_all(some, grad.index_select(0, rows), hidden, fewer, placement, need);
  for (size_t i = 0; i < mlp.inputs.size(); ++i) {
    if (need(i) && mlp.inputs[i].size(0) != 1) {
      results[i] = at::zeros(mlp.inputs[i].sizes(), mlp.inputs[i].options()).index_copy_(0, rows, results[i]);
    }
  }
  return results;
}

}  // namespace hnetfast
