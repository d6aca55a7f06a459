#include "mlp/output_layer.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "common/buffer_pool.h"
#include "mlp/hidden_layers.h"
#include "mlp/output_products.h"
#include "mlp/output_tiles.h"
#include "tiles/tile_types.h"

namespace hnetfast {

using at::Tensor;
using at::TensorList;

namespace {

constexpr int64_t kSmallSums = 1 << 20;  // elements
constexpr int64_t kFewRows = 4;          // below this many rows packing W costs more than it saves,
constexpr int64_t kNarrowMatrix = 8;     // but for matrices of so few columns

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
    return dense_input(joined(inputs, sizes));
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
  layer.x = view_of<T>(input.x);
  layer.y = {nullptr, input.conditions, input.separable() ? input.y.size(1) : 0, input.separable() ? input.y.size(1) : 0};
  if (layer.y.cols) layer.y.data = input.y.const_data_ptr<T>();  // what is empty may have an address or none
  layer.conditions = input.conditions;
  layer.out_stride = input.separable() ? sizes.outputs : sizes.conditions * sizes.outputs;
  layer.offset.resize(layer.x.rows);
  layer.width.resize(layer.x.rows);
  layer.bounds = placement.bounds;
  layer.pieces = placement.pieces;
  for (int64_t r = 0; r < layer.x.rows; ++r) {
    const int64_t chunk = r % sizes.chunks, start = chunk * sizes.chunk_size;
    layer.offset[r] = r / sizes.chunks * sizes.outputs;
    if (placement.pieces) {
      layer.places.push_back(placement.places + chunk * placement.pieces);
    } else {
      layer.offset[r] += start;
      layer.width[r] = std::clamp<int64_t>(sizes.outputs - start, 0, sizes.chunk_size);
    }
  }
  layer.x_columns = input.x_columns;
  layer.y_columns = input.y_columns;
  layer.weight = {weight.const_data_ptr<T>(), weight.size(0), weight.size(1), weight.size(1)};
  layer.bias = bias.defined() ? bias.const_data_ptr<T>() : nullptr;
  return layer;
}

// Gradients of the parts from that of what the last layer read, where there is no hidden layer.
void split_input_grads(const LastInput& input, const LastGrads& grads, TensorList inputs, const Sizes& sizes,
                       std::vector<Tensor>& results) {
  if (!input.separable()) return joined_backward(inputs, grads.x, sizes, results);
  size_t next_x = 0, next_y = 0;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const Tensor& part = inputs[i];
    const int64_t width = part.size(2);
    Tensor grad;
    if (next_x < input.x_columns.size() && part.size(1) != 1) {
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
      const std::vector<Tensor> inputs = of_conditions(mlp.inputs, b, 1);
      const Mlp alone{mlp.op, inputs, mlp.weights, mlp.biases, mlp.activation};
      output_forward(alone, hidden, {1, sizes.chunks, sizes.chunk_size, sizes.outputs}, placement, out.narrow(0, b, 1));
    }
    return;
  }
  const Tensor& matrix = mlp.weights.back();
  const LastInput input = mlp.weights.size() > 1 ? dense_input(last_hidden(hidden, mlp)) : separate(mlp.inputs, sizes);
  const Tensor bias = mlp.biases.empty() ? Tensor() : mlp.biases.back().contiguous();
  if (use_tiles(input, matrix)) {
    const Tensor weight = matrix.contiguous();
    with_tile_type(out.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      output_layer_forward(output_layer<T>(input, weight, bias, sizes, placement), out.mutable_data_ptr<T>());
    });
  } else {
    products_forward(input.x, matrix, bias, sizes, placement, out);
  }
}

Tensor output_backward(const Mlp& mlp, const Tensor& grad, const Tensor& hidden, const Sizes& sizes, const Placement& placement,
                       const Need& need, std::vector<Tensor>& results) {
  const TensorList inputs = mlp.inputs, weights = mlp.weights, biases = mlp.biases;
  const size_t first_weight = mlp.first_weight(), first_bias = mlp.first_bias(), last = weights.size() - 1;
  bool below = false;  // does anything below the last layer need a gradient?
  for (size_t i = 0; i < results.size(); ++i) below |= need(i) && i != first_weight + last && i != first_bias + last;

  const LastInput input = last > 0 ? dense_input(last_hidden(hidden, mlp)) : separate(inputs, sizes);
  const Tensor weight = weights[last].contiguous();
  LastGrads grads;
  if (need(first_weight + last)) grads.weight = empty_pooled(weight.sizes(), weight.options());
  if (!biases.empty() && need(first_bias + last)) grads.bias = at::empty_like(biases[last], at::MemoryFormat::Contiguous);
  if (below) grads.x = empty_pooled(input.x.sizes(), input.x.options());
  if (below && input.separable()) grads.y = at::empty_like(input.y);
  if (grad.numel() == 0) {
    for (const Tensor& of : {grads.weight, grads.bias, grads.x, grads.y}) {
      if (of.defined()) of.zero_();
    }
  } else if (use_tiles_backward(input, weight)) {
    with_tile_type(grad.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      const auto pointer = [](const Tensor& t) { return t.defined() ? t.mutable_data_ptr<T>() : nullptr; };
      output_layer_backward(output_layer<T>(input, weight, Tensor(), sizes, placement), grad.const_data_ptr<T>(),
                            pointer(grads.weight), pointer(grads.bias), pointer(grads.x), pointer(grads.y));
    });
  } else {
    products_backward(grad, input.x, weight, sizes, placement, grads);
  }
  results[first_weight + last] = grads.weight;
  if (!biases.empty()) results[first_bias + last] = grads.bias;

  if (below && last == 0) split_input_grads(input, grads, inputs, sizes, results);
  return below && last > 0 ? grads.x : Tensor();
}

}  // namespace hnetfast
