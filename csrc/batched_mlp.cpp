// hnetfast::batched_mlp: a small MLP evaluated for many sets of weights, all layers of a set by one thread.
//
// Activations are kept transposed, [width, rows], a vector of rows for each unit: the matrices, which usually lie in rows of
// generated weights, are read where they are, and biases are added to whole rows.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "common/buffer_pool.h"
#include "common/checks.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "mlp/activation.h"
#include "tiles/parts.h"
#include "tiles/tile_types.h"

namespace hnetfast {
namespace {

using at::Tensor;
using at::TensorList;

constexpr const char *kOp = "batched_mlp", *kBackwardOp = "batched_mlp_backward";
constexpr int64_t kRowUnit = 16;     // saved activations have a multiple of as many rows, whole vectors of any processor
constexpr int64_t kBlockRows = 256;  // that go through the layers together

// One layer of all sets.
template <typename T>
struct Layer {
  const T *weight, *bias;
  int64_t set_stride, row_stride, column_stride, bias_set_stride, bias_stride;
  int64_t in, out;
  int64_t hidden_row;  // where its results begin among those that are saved

  MatrixView<const T> matrix(int64_t set) const { return {weight + set * set_stride, out, in, row_stride, column_stride}; }
  T shift(int64_t set, int64_t unit) const { return bias ? bias[set * bias_set_stride + unit * bias_stride] : T(0); }
};

struct Shape {
  int64_t sets, rows, in, out, hidden, work;
  bool slopes;  // are those of hidden units saved too, after their results?
  int64_t pitch() const { return round_up(rows, kRowUnit); }
  int64_t saved() const { return slopes ? 2 * hidden : hidden; }
};

// The hidden units: activation(x), for sines sin(omega·x).
struct Units {
  Activation activation;
  double omega;
};

// A network and its input [B or 1, N, in], with memory of its own where tensors are lazily negated.
template <typename T>
class Network {
 public:
  Network(const Tensor& x, TensorList weights, TensorList biases, const Units& units) : units(units), x_(by_rows(x)) {
    int64_t row = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      const Tensor w = keep(weights[i]), b = biases.empty() ? Tensor() : keep(biases[i]);
      layers.push_back({w.const_data_ptr<T>(), b.defined() ? b.const_data_ptr<T>() : nullptr, w.stride(0), w.stride(1),
                        w.stride(2), b.defined() ? b.stride(0) : 0, b.defined() ? b.stride(1) : 0, w.size(2), w.size(1), row});
      row += w.size(1);
      width = std::max({width, w.size(1), w.size(2)});
    }
  }

  // Rows of the input of a set, from `first` on.
  MatrixView<const T> input(int64_t set, int64_t first, int64_t count) const {
    const T* const rows = x_.const_data_ptr<T>() + (is_shared() ? 0 : set * x_.stride(0));
    return {rows + first * x_.stride(1), count, x_.size(2), x_.stride(1)};
  }

  bool is_shared() const { return x_.size(0) == 1; }

  const Units units;
  std::vector<Layer<T>> layers;
  int64_t width = 1;

 private:
  Tensor keep(const Tensor& tensor) {
    kept_.push_back(tensor.resolve_neg());
    return kept_.back();
  }

  std::vector<Tensor> kept_;
  const Tensor x_;
};

// Blocks of rows of a set, [first, first + count), padded to whole vectors.
template <typename F>
void for_each_block(const Shape& shape, const F& run) {
  for (int64_t first = 0; first < shape.rows; first += kBlockRows) {
    const int64_t count = std::min(kBlockRows, shape.rows - first);
    run(first, count, round_up(count, kRowUnit));
  }
}

// The transpose of a matrix of contiguous rows, which are columns of `to`, [cols, pitch], with zeros in what is beyond.
template <typename T>
void pack(const MatrixView<const T>& from, T* to, int64_t pitch) {
  if (from.rows == 0 || from.cols == 0) return std::fill(to, to + from.cols * pitch, T(0));
  const T* const end = from.row(from.rows - 1) + from.cols;
  tile_kernels<T>().pack_transposed(to, pitch, from.data, end, from.stride, from.rows, {0, 0, from.cols});
}

// The sets, shared out among threads.
template <typename F>
void for_each_set(const Shape& shape, const F& run) {
  parallel(shape.sets, shape.sets * shape.work, [&](int64_t begin, int64_t end) {
    for (int64_t set = begin; set < end; ++set) run(set);
  });
}

// Results of hidden units, before which a shift is added, and, where there is a place for them, their slopes.
template <typename T>
void activate(const Units& units, T* to, T* slopes, const T* from, T shift, int64_t count) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  if (units.activation == Activation::sine) return kernels.sine(to, slopes, from, shift, T(units.omega), count);
  for (int64_t n = 0; n < count; ++n) to[n] = from[n] + shift;
  if (units.activation == Activation::relu) kernels.relu(to, to, count);
}

template <typename T>
void forward_kernel(const Network<T>& network, const Shape& shape, T* out, T* hidden) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t size = network.width * kBlockRows;
  std::vector<T> shared(network.is_shared() ? shape.in * shape.pitch() : 0);
  if (network.is_shared()) pack(network.input(0, 0, shape.rows), shared.data(), shape.pitch());
  for_each_set(shape, [&](int64_t set) {
    T *const memory = scratch<T>(3 * size), *const results = memory + 2 * size;
    for_each_block(shape, [&](int64_t first, int64_t count, int64_t pitch) {
      MatrixView<const T> below{shared.data() + first, shape.in, pitch, shape.pitch()};
      if (!network.is_shared()) {
        pack(network.input(set, first, count), memory, pitch);
        below = {memory, shape.in, pitch, pitch};
      }
      for (const Layer<T>& layer : network.layers) {
        kernels.gemm(layer.matrix(set), below, {results, layer.out, pitch, pitch}, nullptr, false);
        if (&layer == &network.layers.back()) break;
        T* const to = hidden ? hidden + (set * shape.saved() + layer.hidden_row) * shape.pitch() + first
                             : memory + (below.data == memory ? size : 0);
        T* const slopes = hidden && shape.slopes ? to + shape.hidden * shape.pitch() : nullptr;
        const int64_t stride = hidden ? shape.pitch() : pitch;
        for (int64_t o = 0; o < layer.out; ++o) {
          activate<T>(network.units, to + o * stride, slopes ? slopes + o * stride : nullptr, results + o * pitch,
                      layer.shift(set, o), pitch);
        }
        below = {to, layer.out, pitch, stride};
      }
      const Layer<T>& last = network.layers.back();
      T* const to = out + (set * shape.rows + first) * shape.out;
      for (int64_t o = 0; o < last.out; ++o) {
        const T shift = last.shift(set, o);
        for (int64_t n = 0; n < count; ++n) to[n * last.out + o] = results[o * pitch + n] + shift;
      }
    });
  });
}

// Where gradients go, each [B, …] and contiguous; null where it is not wanted.
template <typename T>
struct Gradients {
  T* x;
  std::vector<T*> weights, biases;
  bool below(size_t layer) const {  // is one wanted below a layer?
    if (x) return true;
    for (size_t i = 0; i < layer; ++i) {
      if (weights[i] || biases[i]) return true;
    }
    return false;
  }
};

// The backward pass of one set.
template <typename T>
class SetBackward {
 public:
  SetBackward(const Network<T>& network, const Shape& shape, const T* hidden, const Gradients<T>& grads)
      : network_(network), shape_(shape), hidden_(hidden), grads_(grads) {
    for (const Layer<T>& layer : network.layers) {
      starts_.push_back(sums_);
      sums_ += layer.out * pitch_of(layer);
    }
    inputs_ = kBlockRows * round_up(network.width + 1, kernels_.lanes);
  }

  void run(int64_t set, const T* grad_out) const {
    const int64_t size = network_.width * kBlockRows;
    T *const memory = scratch<T>(sums_ + inputs_ + 2 * size), *const inputs = memory + sums_, *const grads = inputs + inputs_;
    for_each_block(shape_, [&](int64_t first, int64_t count, int64_t pitch) {
      T *grad = grads, *next = grads + size;
      pack<T>({grad_out + (set * shape_.rows + first) * shape_.out, count, shape_.out, shape_.out}, grad, pitch);
      for (size_t i = network_.layers.size(); i-- > 0;) {
        const Layer<T>& layer = network_.layers[i];
        if (grads_.weights[i] || grads_.biases[i]) {
          const int64_t columns = pitch_of(layer);
          rows_below(set, i, first, count, inputs);
          kernels_.gemm({grad, layer.out, count, pitch}, {inputs, count, columns, columns},
                        {memory + starts_[i], layer.out, columns, columns}, nullptr, first > 0);
        }
        if (!grads_.below(i)) break;
        kernels_.gemm(layer.matrix(set).t(), {grad, layer.out, pitch, pitch}, {next, layer.in, pitch, pitch}, nullptr, false);
        std::swap(grad, next);
        if (i == 0) store_grad_input(set, first, count, pitch, grad);
        for (int64_t k = 0; i > 0 && k < layer.in; ++k)
          activation_grad(grad + k * pitch, hidden_row(set, i - 1, k) + first, pitch);
      }
    });
    for (size_t i = 0; i < network_.layers.size(); ++i) store(set, i, memory + starts_[i]);
  }

 private:
  int64_t pitch_of(const Layer<T>& layer) const { return round_up(layer.in + 1, kernels_.lanes); }
  void activation_grad(T* grad, const T* hidden, int64_t count) const {
    if (network_.units.activation == Activation::relu) kernels_.relu_backward(grad, hidden, count);
    if (shape_.slopes) kernels_.multiply(grad, hidden + shape_.hidden * shape_.pitch(), count);
  }
  const T* hidden_row(int64_t set, size_t layer, int64_t unit) const {
    return hidden_ + (set * shape_.saved() + network_.layers[layer].hidden_row + unit) * shape_.pitch();
  }

  // What a layer reads, and a 1, whose gradient is that of the bias: [count, pitch].
  void rows_below(int64_t set, size_t i, int64_t first, int64_t count, T* to) const {
    const int64_t in = network_.layers[i].in, pitch = pitch_of(network_.layers[i]);
    if (i == 0) {
      const MatrixView<const T> x = network_.input(set, first, count);
      for (int64_t n = 0; n < count; ++n) {
        std::fill(std::copy(x.row(n), x.row(n) + in, to + n * pitch), to + (n + 1) * pitch, T(0));
      }
    } else {
      pack<T>({hidden_row(set, i - 1, 0) + first, in, count, shape_.pitch()}, to, pitch);
    }
    for (int64_t n = 0; n < count; ++n) to[n * pitch + in] = T(1);
  }

  void store_grad_input(int64_t set, int64_t first, int64_t count, int64_t pitch, const T* grad) const {
    const Columns all{0, 0, shape_.in};
    kernels_.unpack_transposed(grad, pitch, grads_.x + (set * shape_.rows + first) * shape_.in, shape_.in, count, &all, 1);
  }

  void store(int64_t set, size_t i, const T* sums) const {
    const Layer<T>& layer = network_.layers[i];
    T *const weight = grads_.weights[i], *const bias = grads_.biases[i];
    for (int64_t o = 0; o < layer.out && (weight || bias); ++o) {
      const T* const row = sums + o * pitch_of(layer);
      if (weight) std::copy(row, row + layer.in, weight + (set * layer.out + o) * layer.in);
      if (bias) bias[set * layer.out + o] = row[layer.in];
    }
  }

  const TileKernels<T>& kernels_ = tile_kernels<T>();
  const Network<T>& network_;
  const Shape shape_;
  const T* const hidden_;
  const Gradients<T>& grads_;
  std::vector<int64_t> starts_;  // of the sums of each layer, [out, pitch]
  int64_t sums_ = 0, inputs_ = 0;
};

Shape check(const char* op, const Tensor& x, TensorList weights, TensorList biases, const Units& units) {
  check_dense(op, "x", x);
  const at::ScalarType type = x.scalar_type();
  TORCH_CHECK_TYPE(has_tile_kernels(type), op, ": x is ", type, ", accepted are Float, Double");
  TORCH_CHECK_VALUE(!weights.empty(), op, ": weights must not be empty");
  TORCH_CHECK_VALUE(biases.empty() || biases.size() == weights.size(), op, ": ", biases.size(), " biases for ", weights.size(),
                    " weights; give one each or none");
  check_dense(op, "weights", weights[0]);
  const int64_t sets = weights[0].dim() == 3 ? weights[0].size(0) : -1;
  TORCH_CHECK_VALUE(x.dim() == 3 && sets >= 0 && (x.size(0) == 1 || x.size(0) == sets), op, ": x has shape ", x.sizes(),
                    ", weights[0] ", weights[0].sizes(), ", expected [sets or 1, batch, in] and [sets, out, in]");
  Shape shape{sets, x.size(1), x.size(2), x.size(2), 0, 0, units.activation == Activation::sine};
  for (size_t i = 0; i < weights.size(); ++i) {
    check_dense(op, "weights", weights[i]);
    TORCH_CHECK_VALUE(weights[i].scalar_type() == type && weights[i].dim() == 3 && weights[i].size(0) == sets &&
                          weights[i].size(2) == shape.out,
                      op, ": weights[", i, "] is ", weights[i].scalar_type(), " ", weights[i].sizes(), ", expected ", type, " [",
                      sets, ", out, ", shape.out, "]");
    shape.work += shape.rows * shape.out * weights[i].size(1);
    shape.out = weights[i].size(1);
    if (i + 1 < weights.size()) shape.hidden += shape.out;
    if (!biases.empty()) check_tensor(op, "biases", biases[i], type, {sets, shape.out});
  }
  return shape;
}

std::vector<int64_t> hidden_sizes(const Shape& shape) { return {shape.sets, shape.saved(), shape.pitch()}; }

Units parse_units(const char* op, std::string_view activation, double omega) {
  return {parse_activation(op, activation, {Activation::identity, Activation::relu, Activation::sine}), omega};
}

std::tuple<Tensor, Tensor> forward(const Tensor& x, TensorList weights, TensorList biases, std::string_view activation,
                                   double omega, bool save_hidden) {
  const Units units = parse_units(kOp, activation, omega);
  const Shape shape = check(kOp, x, weights, biases, units);
  const Tensor out = empty_pooled({shape.sets, shape.rows, shape.out}, x.options());
  const Tensor hidden = save_hidden ? empty_pooled(hidden_sizes(shape), x.options()) : at::empty({0}, x.options());
  if (shape.sets * shape.rows == 0) return {out, hidden};
  with_tile_type(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Network<T> network(x, weights, biases, units);
    forward_kernel<T>(network, shape, out.mutable_data_ptr<T>(), save_hidden ? hidden.mutable_data_ptr<T>() : nullptr);
  });
  return {out, hidden};
}

std::vector<Tensor> backward(const Tensor& grad_out, const Tensor& hidden, const Tensor& x, TensorList weights, TensorList biases,
                             std::string_view activation, double omega, c10::List<bool> needs) {
  const Units units = parse_units(kBackwardOp, activation, omega);
  const Shape shape = check(kBackwardOp, x, weights, biases, units);
  const size_t count = 1 + weights.size() + biases.size();
  check_tensor(kBackwardOp, "grad_out", grad_out, x.scalar_type(), {shape.sets, shape.rows, shape.out});
  check_tensor(kBackwardOp, "hidden", hidden, x.scalar_type(), hidden_sizes(shape));
  TORCH_CHECK_VALUE(needs.size() == count, kBackwardOp, ": ", needs.size(), " needs for ", count, " tensors");
  std::vector<Tensor> results;
  const auto add = [&](at::IntArrayRef sizes) {
    const bool need = needs.get(results.size());
    results.push_back(need ? empty_pooled(sizes, x.options()) : at::empty({0}, x.options()));
    if (need && shape.rows == 0) results.back().zero_();
  };
  add({shape.sets, shape.rows, shape.in});
  for (const Tensor& weight : weights) add(weight.sizes());
  for (const Tensor& bias : biases) add(bias.sizes());
  if (shape.sets * shape.rows > 0) {
    with_tile_type(x.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      const auto pointer = [&](size_t i) { return needs.get(i) ? results[i].mutable_data_ptr<T>() : nullptr; };
      Gradients<T> grads{pointer(0), {}, {}};
      for (size_t i = 0; i < weights.size(); ++i) {
        grads.weights.push_back(pointer(1 + i));
        grads.biases.push_back(biases.empty() ? nullptr : pointer(1 + weights.size() + i));
      }
      const Network<T> network(x, weights, biases, units);
      const Tensor grad = grad_out.contiguous().resolve_neg(), saved = hidden.contiguous();
      const SetBackward<T> of_set(network, shape, saved.const_data_ptr<T>(), grads);
      for_each_set(shape, [&](int64_t set) { of_set.run(set, grad.const_data_ptr<T>()); });
    });
  }
  if (needs.get(0) && x.size(0) == 1 && shape.sets != 1) results[0] = results[0].sum(0, true);
  return results;
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("batched_mlp", &forward);
  m.impl("batched_mlp_backward", &backward);
}

}  // namespace
}  // namespace hnetfast
