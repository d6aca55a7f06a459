#include "output_reg/last_rows.h"

#include <ATen/ATen.h>

#include "mlp/hidden_layers.h"
#include "output_reg/hidden_change.h"

namespace hnetfast {

using at::Tensor;
using at::TensorList;

ChangedLayer changed_layer(const Mlp& now, const Mlp& then, const Sizes& sizes) {
  const auto bias = [](TensorList biases) { return biases.empty() ? Tensor() : biases.back().contiguous(); };
  const int64_t split = sizes.outputs - (sizes.chunks - 1) * sizes.chunk_size;
  return {now.weights.back().contiguous(), bias(now.biases), then.weights.back().contiguous(), bias(then.biases), split};
}

void check_kernel_type(const Mlp& mlp) {
  const at::ScalarType type = mlp.weights[0].scalar_type();
  TORCH_CHECK_TYPE(type == at::kFloat || type == at::kDouble, mlp.op, ": weights[0] is ", type, ", accepted are Float, Double");
}

Sizes check_change(const Mlp& now, const Mlp& then, int64_t num_outputs) {
  Sizes sizes = check_network(now);
  const Sizes before = check_network(then);
  check_kernel_type(now);
  bool same = now.weights.size() == then.weights.size() && now.biases.size() == then.biases.size() &&
              sizes.conditions == before.conditions && sizes.chunks == before.chunks &&
              now.weights[0].scalar_type() == then.weights[0].scalar_type();
  for (size_t i = 0; same && i < now.weights.size(); ++i) same = now.weights[i].sizes() == then.weights[i].sizes();
  TORCH_CHECK_VALUE(same, now.op, ": the network and what it was differ in layers, biases, conditions, chunks or dtype");
  bool same_parts = now.inputs.size() == then.inputs.size();
  for (size_t i = 0; same_parts && i < now.inputs.size(); ++i) same_parts = now.inputs[i].size(2) == then.inputs[i].size(2);
  TORCH_CHECK_VALUE(same_parts, now.op, ": inputs and previous_inputs differ in number or widths");
  TORCH_CHECK_VALUE(sizes.chunks > 0 && now.weights.back().size(1) > 0, now.op, ": got ", sizes.chunks,
                    " chunks, a last layer of width ", now.weights.back().size(1), ", expected at least 1 of each");
  const int64_t most = sizes.chunks * sizes.chunk_size;
  TORCH_CHECK_VALUE(num_outputs <= most && num_outputs > most - sizes.chunk_size, now.op, ": num_outputs is ", num_outputs,
                    ", accepted is ", most - sizes.chunk_size + 1, " to ", most);
  sizes.outputs = num_outputs;
  return sizes;
}

LastRows last_rows(const Mlp& mlp, const Mlp& previous, const Sizes& sizes, int64_t begin, int64_t count, bool save_hidden) {
  LastRows block;
  block.inputs = of_conditions(mlp.inputs, begin, count);
  block.previous_inputs = of_conditions(previous.inputs, begin, count);
  block.sizes = {count, sizes.chunks, sizes.chunk_size, count * sizes.chunks * sizes.chunk_size};
  const Mlp now{mlp.op, block.inputs, mlp.weights, mlp.biases, mlp.activation};
  const Mlp then{mlp.op, block.previous_inputs, previous.weights, previous.biases, mlp.activation};
  if (mlp.weights.size() == 1) {
    block.now = joined(now.inputs, block.sizes);
    block.change = block.now - joined(then.inputs, block.sizes);
  } else {
    const HiddenChange found = hidden_change(now, then, block.sizes, save_hidden);
    block.hidden = found.hidden;
    block.now = last_hidden(found.hidden, mlp);
    block.change = found.change;
  }
  return block;
}

}  // namespace hnetfast
