// hnetfast::grouped_mlp on the CPU: several networks as in chunked_mlp, one after the other, whose chunks go to given
// places of one result. Each network is shared out among the threads by itself.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>

#include "common/buffer_pool.h"
#include "common/checks.h"
#include "mlp/backward.h"
#include "mlp/hidden_layers.h"
#include "mlp/output_layer.h"

namespace hnetfast {
namespace {

using at::IntArrayRef;
using at::Tensor;
using at::TensorList;

constexpr const char *kOp = "grouped_mlp", *kBackwardOp = "grouped_mlp_backward";

struct Group {
  Mlp mlp;
  Sizes sizes;
  Placement placement;
  size_t first_input, first_weight, first_bias;
};

// A permutation of the numbers of 64 bits that looks random (the last steps of splitmix64).
uint64_t scrambled(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// What the pieces read so far store.
struct Stored {
  int64_t outputs = 0;
  uint64_t begins = 0, ends = 0;  // sums of scrambled places

  void add(int64_t place, int64_t count) {
    outputs += count;
    begins += scrambled(place);
    ends += scrambled(place + count);
  }

  // Each of [0, count) is stored once exactly if the places where pieces begin, and `count`, are those where pieces end, and
  // 0. Sums tell without sorting and without memory; others than these are equal with a probability of 2⁻⁶⁴.
  bool each_once(int64_t count) const { return outputs == count && begins + scrambled(count) == ends + scrambled(0); }
};

// Reads the places of a group's chunks, laid out as [pieces, bounds, places], and checks that they lie in the result.
int64_t read_placement(const int64_t* data, int64_t size, size_t i, int64_t outputs, Group& group, Stored& stored) {
  const Sizes& sizes = group.sizes;
  const int64_t pieces = size > 0 ? data[0] : -1;
  TORCH_CHECK_VALUE(pieces >= 0 && pieces <= sizes.chunk_size, group.mlp.op, ": placement has ", pieces, " pieces for group ", i,
                    ", accepted is 0 to ", sizes.chunk_size);
  const int64_t length = 2 + pieces + sizes.chunks * pieces;  // of no more than check_countable has let pass
  TORCH_CHECK_VALUE(size >= length, group.mlp.op, ": placement ends within group ", i, ", expected ", length,
                    " entries of it, got ", size);
  const int64_t *bounds = data + 1, *places = bounds + pieces + 1;
  group.placement = {bounds, places, pieces};
  TORCH_CHECK_VALUE(bounds[0] == 0 && bounds[pieces] == sizes.chunk_size, group.mlp.op, ": placement: the pieces of group ", i,
                    " cover columns ", bounds[0], " to ", bounds[pieces], ", expected 0 to ", sizes.chunk_size);
  for (int64_t s = 0; s < pieces; ++s) {
    TORCH_CHECK_VALUE(bounds[s] < bounds[s + 1], group.mlp.op, ": placement: bounds of group ", i, " do not increase");
  }
  for (int64_t c = 0; c < sizes.chunks; ++c) {
    for (int64_t s = 0; s < pieces; ++s) {
      const int64_t place = places[c * pieces + s], count = bounds[s + 1] - bounds[s];
      TORCH_CHECK_VALUE(place < 0 || place <= outputs - count, group.mlp.op, ": placement: piece ", s, " of chunk ", c,
                        " of group ", i, " is stored at ", place, " to ", place + count, ", accepted is up to ", outputs);
      if (place >= 0) stored.add(place, count);
    }
  }
  return length;
}

// The groups, whose tensors lie one after the other in the lists; `counts` holds how many inputs, weights, biases each has.
std::vector<Group> read_groups(const char* op, TensorList inputs, TensorList weights, TensorList biases, IntArrayRef counts,
                               const std::vector<std::string>& activations, const Tensor& placement, int64_t outputs) {
  TORCH_CHECK_VALUE(!activations.empty() && counts.size() == 3 * activations.size(), op,
                    ": expected an activation and three counts for each group, got ", activations.size(), " and ", counts.size());
  check_dense(op, "placement", placement);
  TORCH_CHECK_VALUE(
      placement.scalar_type() == at::kLong && placement.dim() == 1 && placement.device().is_cpu() && placement.is_contiguous(),
      op, ": placement is ", placement.scalar_type(), " ", placement.sizes(), " on ", placement.device(),
      ", expected a contiguous vector of Long on the CPU");
  std::vector<Group> groups;
  size_t next[3] = {0, 0, 0};
  int64_t conditions = 1;
  for (size_t i = 0; i < activations.size(); ++i) {
    const TensorList lists[3] = {inputs, weights, biases};
    TensorList own[3];
    size_t first[3];
    for (size_t k = 0; k < 3; ++k) {
      const int64_t count = counts[3 * i + k];
      TORCH_CHECK_VALUE(count >= 0 && next[k] + count <= lists[k].size(), op, ": counts: group ", i, " ends at ", next[k] + count,
                        ", but there are ", lists[k].size(), " tensors");
      own[k] = lists[k].slice(next[k], count);
      first[k] = next[k];
      next[k] += count;
    }
    Group group{{op, own[0], own[1], own[2], parse_activation(op, activations[i])},
                {},
                {},
                first[0],
                inputs.size() + first[1],
                inputs.size() + weights.size() + first[2]};
    group.sizes = check_network(group.mlp);
    check_tensor(op, "weights", first[1], own[1][0], weights[0]);
    if (group.sizes.conditions != 1) conditions = group.sizes.conditions;
    groups.push_back(group);
  }
  TORCH_CHECK_VALUE(next[0] == inputs.size() && next[1] == weights.size() && next[2] == biases.size(), op, ": counts add up to ",
                    next[0], ", ", next[1], ", ", next[2], " tensors, got ", inputs.size(), ", ", weights.size(), ", ",
                    biases.size());
  const int64_t* data = placement.const_data_ptr<int64_t>();
  int64_t rest = placement.size(0);
  Stored stored;
  for (size_t i = 0; i < groups.size(); ++i) {
    Sizes& sizes = groups[i].sizes;
    TORCH_CHECK_VALUE(sizes.conditions == 1 || sizes.conditions == conditions, op, ": group ", i, " has ", sizes.conditions,
                      " conditions, another one ", conditions);
    const int64_t length = read_placement(data, rest, i, outputs, groups[i], stored);
    sizes.conditions = conditions;
    check_countable(groups[i].mlp, sizes);
    sizes.outputs = outputs;
    data += length;
    rest -= length;
  }
  TORCH_CHECK_VALUE(rest == 0 && stored.outputs == outputs, op, ": placement stores ", stored.outputs, " outputs and has ", rest,
                    " entries too many, expected ", outputs, " outputs");
  TORCH_CHECK_VALUE(stored.each_once(outputs), op, ": placement stores some of ", outputs,
                    " outputs several times and others not at all, expected each exactly once");
  return groups;
}

std::tuple<Tensor, Tensor> forward(TensorList inputs, TensorList weights, TensorList biases, IntArrayRef counts,
                                   std::vector<std::string> activations, const Tensor& placement, int64_t num_outputs,
                                   bool save_hidden) {
  const std::vector<Group> groups = read_groups(kOp, inputs, weights, biases, counts, activations, placement, num_outputs);
  const Tensor out = empty_pooled({groups[0].sizes.conditions, num_outputs}, weights[0].options());
  std::vector<Tensor> hidden;
  for (const Group& group : groups) {
    Tensor h;
    if (group.mlp.weights.size() > 1) h = hidden_layers(group.mlp, group.sizes, save_hidden);
    if (group.placement.pieces) output_forward(group.mlp, h, group.sizes, group.placement, out);
    if (h.defined() && save_hidden) hidden.push_back(h.view(-1));
  }
  return {out, hidden.empty() ? at::empty({0}, out.options()) : at::cat(hidden)};
}

std::vector<Tensor> backward(const Tensor& grad_out, const Tensor& hidden, TensorList inputs, TensorList weights,
                             TensorList biases, IntArrayRef counts, std::vector<std::string> activations, const Tensor& placement,
                             c10::List<bool> needs) {
  check_dense(kBackwardOp, "grad_out", grad_out);
  TORCH_CHECK_VALUE(grad_out.dim() == 2, kBackwardOp, ": grad_out has shape ", grad_out.sizes(),
                    ", expected [conditions, outputs]");
  const std::vector<Group> groups =
      read_groups(kBackwardOp, inputs, weights, biases, counts, activations, placement, grad_out.size(1));
  int64_t expected = 0;
  for (const Group& group : groups) expected += group.sizes.rows() * group.mlp.hidden_width();
  const at::ScalarType type = weights[0].scalar_type();
  check_tensor(kBackwardOp, "grad_out", grad_out, type, {groups[0].sizes.conditions, grad_out.size(1)});
  check_tensor(kBackwardOp, "hidden", hidden, type, {expected});
  TORCH_CHECK_VALUE(needs.size() == inputs.size() + weights.size() + biases.size(), kBackwardOp, ": ", needs.size(),
                    " needs for ", inputs.size() + weights.size() + biases.size(), " tensors");
  const Tensor grad = grad_out.contiguous(), flat = hidden.contiguous();
  std::vector<Tensor> results(needs.size());
  int64_t start = 0;
  for (const Group& group : groups) {
    const int64_t width = group.mlp.hidden_width(), rows = group.sizes.rows();
    const Tensor h = flat.narrow(0, start, rows * width).view({rows, width});
    start += rows * width;
    const size_t starts[3] = {group.first_input, group.first_weight, group.first_bias};
    const size_t ends[3] = {group.mlp.inputs.size(), group.mlp.weights.size(), group.mlp.biases.size()};
    std::vector<size_t> all;  // numbers of the group's tensors among those of all groups
    for (size_t k = 0; k < 3; ++k) {
      for (size_t i = 0; i < ends[k]; ++i) all.push_back(starts[k] + i);
    }
    const auto need = [&](size_t i) { return static_cast<bool>(needs.get(all[i])); };
    const std::vector<Tensor> grads =
        group.placement.pieces ? mlp_backward(group.mlp, grad, h, group.sizes, group.placement, need) : std::vector<Tensor>();
    for (size_t i = 0; i < all.size(); ++i) {
      const size_t k = all[i];
      const Tensor& tensor = k < inputs.size()                    ? inputs[k]
                             : k < inputs.size() + weights.size() ? weights[k - inputs.size()]
                                                                  : biases[k - inputs.size() - weights.size()];
      if (!grads.empty()) {
        results[k] = grads[i];
      } else {
        results[k] = need(i) ? at::zeros(tensor.sizes(), tensor.options()) : at::empty({0}, grad.options());
      }
    }
  }
  return results;
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("grouped_mlp", &forward);
  m.impl("grouped_mlp_backward", &backward);
}

}  // namespace
}  // namespace hnetfast
