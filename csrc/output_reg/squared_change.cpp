// hnetfast::squared_change on the CPU: by how much all outputs of a network have changed, and the sum of the squares.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>

#include "common/buffer_pool.h"
#include "common/checks.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "mlp/backward.h"
#include "output_reg/hidden_change.h"
#include "output_reg/last_rows.h"
#include "tiles/tile_kernels.h"
#include "tiles/tile_types.h"

namespace hnetfast {
namespace {

using at::Tensor;
using at::TensorList;

constexpr const char *kOp = "squared_change", *kBackwardOp = "squared_change_backward";
constexpr int64_t kBlock = 96;      // outputs that a task computes
constexpr int64_t kSlab = 1 << 14;  // squares that are summed alone; sums are added in order, whoever computed them

// Outputs [begin, end) of the layer for every row: d = D h̃ + W* Δ.
template <typename T>
class Change {
 public:
  Change(const ChangedLayer& layer, const LastRows& rows, const Sizes& sizes, const Tensor& change)
      : layer_(layer),
        now_(rows.now.contiguous()),
        delta_(rows.change.contiguous()),
        sizes_(sizes),
        out_(change.mutable_data_ptr<T>()) {
    if (sizes.rows() <= kRowByRow) return;
    const int64_t R = sizes.rows(), K = layer.width(), C = layer.columns();
    row_pitch_ = round_up(R, kernels_.lanes);
    pitch_ = round_up(C + K, kernels_.lanes);
    transposed_ = at::zeros({C + K, row_pitch_}, now_.options());
    transposed_.narrow(0, 0, K).narrow(1, 0, R).copy_(now_.t());
    if (C > K) transposed_[K].fill_(1);
    transposed_.narrow(0, C, K).narrow(1, 0, R).copy_(delta_.t());
  }

  void compute(int64_t begin, int64_t end) const {
    if (sizes_.rows() <= kRowByRow) {
      by_rows(begin, end);
    } else {
      all_at_once(begin, end);
    }
  }

 private:
  // Of the outputs of row r from `begin` on, as many as count.
  int64_t valid(int64_t r, int64_t begin, int64_t end) const {
    return (r + 1) % sizes_.chunks ? end - begin : std::min(end, layer_.split) - begin;
  }
  T* place(int64_t r, int64_t output) const {
    return out_ + r / sizes_.chunks * sizes_.outputs + r % sizes_.chunks * sizes_.chunk_size + output;
  }

  void by_rows(int64_t begin, int64_t end) const {
    const int64_t K = layer_.width();
    const auto from = [&](const Tensor& t, int64_t stride) {
      return t.defined() ? t.const_data_ptr<T>() + begin * stride : nullptr;
    };
    for (int64_t r = 0; r < sizes_.rows(); ++r) {
      const int64_t count = valid(r, begin, end);
      const T *now = now_.const_data_ptr<T>() + r * K, *delta = delta_.const_data_ptr<T>() + r * K;
      if (count <= 0) continue;
      kernels_.changed_dots(count, K, now, delta, from(layer_.weight, K), from(layer_.previous_weight, K), K, place(r, begin),
                            from(layer_.bias, 1), from(layer_.previous_bias, 1), false);
    }
  }

  void all_at_once(int64_t begin, int64_t end) const {
    const int64_t K = layer_.width(), C = layer_.columns();
    T *const block = scratch<T>(kBlock * (pitch_ + row_pitch_)), *const results = block + kBlock * pitch_;
    const T *w = layer_.weight.const_data_ptr<T>(), *p = layer_.previous_weight.const_data_ptr<T>();
    for (int64_t o = begin; o < end; ++o) {
      T* row = block + (o - begin) * pitch_;
      for (int64_t k = 0; k < K; ++k) row[k] = w[o * K + k] - p[o * K + k];
      if (C > K) row[K] = layer_.bias.const_data_ptr<T>()[o] - layer_.previous_bias.const_data_ptr<T>()[o];
      std::copy(p + o * K, p + (o + 1) * K, row + C);
    }
    kernels_.gemm({block, end - begin, C + K, pitch_}, view_of<T>(transposed_), {results, end - begin, row_pitch_, row_pitch_},
                  nullptr, false);
    for (int64_t r = 0; r < sizes_.rows(); ++r) {
      const int64_t count = valid(r, begin, end);
      T* const to = place(r, begin);
      for (int64_t o = 0; o < count; ++o) to[o] = results[o * row_pitch_ + r];
    }
  }

  const TileKernels<T>& kernels_ = tile_kernels<T>();
  const ChangedLayer& layer_;
  const Tensor now_, delta_;
  const Sizes sizes_;
  T* const out_;
  int64_t row_pitch_ = 0, pitch_ = 0;
  Tensor transposed_;  // [C + K, row_pitch], rows h̃ and Δ as columns
};

// Runs run(begin, end, i, factor) on the i-th part of the outputs, [begin, end) of all [B·n], the same parts for any number of
// threads. factor(e) is that of element e, of factors [B or 1, n or 1].
template <typename T, typename F>
void for_each_slab(const Sizes& sizes, const Tensor& factors, const F& run) {
  const int64_t across = ceil_div(sizes.outputs, kSlab);
  const T* const data = factors.const_data_ptr<T>();
  parallel(sizes.conditions * across, sizes.conditions * sizes.outputs, [&](int64_t first_slab, int64_t last_slab) {
    for (int64_t i = first_slab; i < last_slab; ++i) {
      const int64_t start = i / across * sizes.outputs, begin = start + i % across * kSlab;
      const int64_t end = std::min(begin + kSlab, start + sizes.outputs);
      const T* const row = data + (factors.size(0) == 1 ? 0 : i / across * factors.size(1));
      if (factors.size(1) == 1) {
        run(begin, end, i, [factor = *row](int64_t) { return factor; });
      } else {
        run(begin, end, i, [row, start](int64_t e) { return row[e - start]; });
      }
    }
  });
}

// With a factor of 0 what is not finite counts as 0 too.
template <typename T>
T scaled(T factor, T value) {
  return factor == T(0) ? T(0) : factor * value;
}

double square(double value) { return value * value; }

template <typename T>
double sum_of_squares(const Tensor& change, const Tensor& factors, const Sizes& sizes) {
  const T* const d = change.const_data_ptr<T>();
  std::vector<double> sums(sizes.conditions * ceil_div(sizes.outputs, kSlab));
  for_each_slab<T>(sizes, factors, [&](int64_t begin, int64_t end, int64_t i, const auto& factor) {
    constexpr int64_t kLanes = 8;  // sums that do not wait for each other
    double lanes[kLanes] = {};
    int64_t e = begin;
    for (; e + kLanes <= end; e += kLanes) {
      for (int64_t l = 0; l < kLanes; ++l) lanes[l] += scaled<double>(factor(e + l), square(d[e + l]));
    }
    for (; e < end; ++e) lanes[0] += scaled<double>(factor(e), square(d[e]));
    sums[i] = std::accumulate(lanes, lanes + kLanes, 0.0);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

void check_factors(const char* op, const Tensor& factors, at::ScalarType type, const Sizes& sizes) {
  check_dense(op, "factors", factors);
  const auto fits = [&](int64_t axis, int64_t size) { return factors.size(axis) == 1 || factors.size(axis) == size; };
  TORCH_CHECK_VALUE(factors.scalar_type() == type && factors.dim() == 2 && fits(0, sizes.conditions) && fits(1, sizes.outputs),
                    op, ": factors is ", factors.scalar_type(), " ", factors.sizes(), ", expected ", type, " [", sizes.conditions,
                    " or 1, ", sizes.outputs, " or 1]");
}

std::tuple<Tensor, Tensor, Tensor> forward(TensorList inputs, TensorList weights, TensorList biases, const Tensor& factors,
                                           std::string_view activation, int64_t num_outputs, TensorList old_inputs,
                                           TensorList old_weights, TensorList old_biases, bool save_hidden) {
  const Activation parsed = parse_activation(kOp, activation);
  const Mlp mlp{kOp, inputs, weights, biases, parsed}, previous{kOp, old_inputs, old_weights, old_biases, parsed};
  const Sizes sizes = check_change(mlp, previous, num_outputs);
  check_factors(kOp, factors, weights[0].scalar_type(), sizes);
  const at::TensorOptions options = weights[0].options();
  const Tensor change = empty_pooled({sizes.conditions, sizes.outputs}, options);
  const Tensor none = at::empty({0}, options);
  if (sizes.conditions == 0) return {at::zeros({}, options), change, none};
  const ChangedLayer layer = changed_layer(mlp, previous, sizes);
  const LastRows rows = last_rows(mlp, previous, sizes, 0, sizes.conditions, save_hidden);
  double loss = 0;
  with_tile_type(options.dtype().toScalarType(), [&](auto zero) {
    using T = decltype(zero);
    const Change<T> all(layer, rows, sizes, change);
    parallel(ceil_div(sizes.chunk_size, kBlock), 3 * sizes.rows() * weights.back().numel(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) all.compute(i * kBlock, std::min((i + 1) * kBlock, sizes.chunk_size));
    });
    loss = sum_of_squares<T>(change, factors.contiguous(), sizes);
  });
  const Tensor total = at::scalar_tensor(loss, options.dtype(at::kDouble)).to(options.dtype());
  return {total, change, save_hidden && rows.hidden.defined() ? rows.hidden : none};
}

// The gradient of all outputs.
template <typename T>
void scale(const Tensor& change, const Tensor& factors, T grad, const Sizes& sizes, const Tensor& result) {
  const T* const d = change.const_data_ptr<T>();
  T* const out = result.mutable_data_ptr<T>();
  for_each_slab<T>(sizes, factors, [&](int64_t begin, int64_t end, int64_t, const auto& factor) {
    for (int64_t e = begin; e < end; ++e) out[e] = 2 * grad * scaled(factor(e), d[e]);
  });
}

// The weights, with zeros in the place of outputs that never count: these may be anything, and a gradient of 0 times infinity
// is none. Where chunks share the rows of the last layer, all rows count.
std::vector<Tensor> weights_that_count(TensorList weights, const Tensor& factors, const Tensor& change, int64_t chunks) {
  std::vector<Tensor> result = weights.vec();
  if (chunks != 1 || factors.size(1) == 1 || change.isfinite().all().item<bool>()) return result;
  result.back() = result.back().clone();
  const Tensor rows = result.back().narrow(0, 0, factors.size(1));
  rows.masked_fill_((factors == 0).all(0).unsqueeze(1), 0);
  return result;
}

std::vector<Tensor> backward(const Tensor& grad, const Tensor& change, const Tensor& hidden, TensorList inputs,
                             TensorList weights, TensorList biases, const Tensor& factors, std::string_view activation,
                             c10::List<bool> needs) {
  check_dense(kBackwardOp, "change", change);
  TORCH_CHECK_VALUE(change.dim() == 2, kBackwardOp, ": change has shape ", change.sizes(), ", expected [conditions, outputs]");
  const Mlp mlp{kBackwardOp, inputs, weights, biases, parse_activation(kBackwardOp, activation)};
  Sizes sizes = check_network(mlp);
  const at::ScalarType type = weights[0].scalar_type();
  check_kernel_type(mlp);
  TORCH_CHECK_VALUE(change.size(1) <= sizes.outputs, kBackwardOp, ": change has shape ", change.sizes(),
                    ", accepted are at most ", sizes.outputs, " outputs");
  sizes.outputs = change.size(1);
  check_tensor(kBackwardOp, "grad_loss", grad, type, {});
  check_tensor(kBackwardOp, "change", change, type, {sizes.conditions, sizes.outputs});
  check_factors(kBackwardOp, factors, type, sizes);
  const bool has_hidden = weights.size() > 1 && sizes.conditions > 0;
  const std::vector<int64_t> saved = has_hidden ? std::vector{sizes.rows(), mlp.hidden_width()} : std::vector<int64_t>{0};
  check_tensor(kBackwardOp, "hidden", hidden, type, saved);
  TORCH_CHECK_VALUE(needs.size() == mlp.tensors() + 1, kBackwardOp, ": ", needs.size(), " needs for ", mlp.tensors() + 1,
                    " tensors");
  const Tensor d = change.contiguous(), grad_out = empty_pooled(d.sizes(), d.options());
  std::vector<Tensor> results;
  if (sizes.conditions == 0) {
    for (const TensorList list : {inputs, weights, biases}) {
      for (const Tensor& tensor : list) results.push_back(at::zeros_like(tensor, at::MemoryFormat::Contiguous));
    }
  } else {
    with_tile_type(type, [&](auto zero) {
      using T = decltype(zero);
      scale<T>(d, factors.contiguous(), grad.item<T>(), sizes, grad_out);
    });
    const auto need = [&](size_t i) { return static_cast<bool>(needs.get(i)); };
    const std::vector<Tensor> that_count = weights_that_count(weights, factors, d, sizes.chunks);
    results = mlp_backward({kBackwardOp, inputs, that_count, biases, mlp.activation}, grad_out, hidden, sizes, {}, need);
  }
  Tensor of_factors = at::empty({0}, d.options());
  if (needs.get(mlp.tensors())) {
    const Tensor counts = at::where((factors != 0).logical_or(d.isfinite()), d, at::zeros({}, d.options()));
    of_factors = (grad * counts.square()).sum_to_size(factors.sizes());
  }
  results.push_back(of_factors);
  return results;
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("squared_change", &forward);
  m.impl("squared_change_backward", &backward);
}

}  // namespace
}  // namespace hnetfast
