// The hidden layers of an MLP applied to every pair of a condition and a chunk, forward and backward.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "common/buffer_pool.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "mlp/mlp_layers.h"
#include "mlp/product.h"
#include "tiles/tile_kernels.h"
#include "tiles/tile_types.h"

namespace hnetfast {

using at::Tensor;
using at::TensorList;
using std::string_view;

namespace {

constexpr int64_t kBlockRows = 256;         // that go through the hidden layers together,
constexpr int64_t kTileRows = 96;           // or of narrow ones
constexpr int64_t kSmallNetwork = 1 << 14;  // multiply-adds of the hidden layers below which calls cost more
constexpr int64_t kVectors = 64;            // elements: whole vectors, of any type, and what the library unrolls them by

bool is_simple(string_view activation) { return activation == "relu" || activation == "identity"; }

// The library computes the last elements of a tensor, fewer than some vectors, one by one, and rounds them differently:
// rows that are to be activated end with whole vectors, so that their bits do not depend on how many there are.
Tensor padded_rows(const Tensor& like, int64_t rows, int64_t width, string_view activation) {
  return is_simple(activation) ? at::empty({rows, width}, like.options())
                               : at::zeros({rows, round_up(width, kVectors)}, like.options());
}

void activate_(Tensor h, string_view activation) {
  if (activation == "relu") at::relu_(h);
  else if (activation == "sigmoid") at::sigmoid_(h);
  else if (activation == "tanh") at::tanh_(h);
  else if (activation == "elu") at::elu_(h);
  else if (activation == "leaky_relu") at::leaky_relu_(h);
}

void activate_rows_(const Tensor& padded, string_view activation) {
  if (is_simple(activation)) return activate_(padded, activation);
  for_each_row_block(padded.size(0), padded.size(1), [&](int64_t begin, int64_t end) {
    activate_(padded.narrow(0, begin, end - begin), activation);
  });
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

// Always of one layout, as products of others may add up in another order.
Tensor as_matrix(const Tensor& part) { return part.reshape({part.size(0) * part.size(1), part.size(2)}).contiguous(); }

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

// All hidden layers of a small network with relu or no activation, without a library call for each. Terms are added in
// the order of TiledHidden and hidden_block: how many rows there are does not change the bits of one.
template <typename T>
void small_hidden(TensorList inputs, TensorList weights, TensorList biases, bool relu, const Sizes& sizes, T* hidden, int64_t ld) {
  std::vector<Tensor> kept;
  const auto data = [&](const Tensor& t) {
    kept.push_back(t.contiguous());
    return kept.back().const_data_ptr<T>();
  };
  const TileKernels<T>& kernels = tile_kernels<T>();
  int64_t column = 0, width = 0;
  for (size_t layer = 0; layer + 1 < weights.size(); ++layer) {
    const int64_t out = weights[layer].size(0), in = weights[layer].size(1);
    const T* w = data(weights[layer]);
    const T* bias = biases.empty() ? nullptr : data(biases[layer]);
    if (layer == 0) {
      int64_t from = 0;
      for (const Tensor& part : inputs) {
        const T* x = data(part);
        const int64_t of_condition = part.size(0) == 1 ? 0 : part.size(1) * part.size(2);
        const int64_t of_chunk = part.size(1) == 1 ? 0 : part.size(2);
        for (int64_t r = 0; r < sizes.rows(); ++r) {
          const T* row = x + r / sizes.chunks * of_condition + r % sizes.chunks * of_chunk;
          const bool first = &part == inputs.begin();
          kernels.dot_rows(out, part.size(2), row, w + from, in, hidden + r * ld, first ? bias : nullptr, !first);
        }
        from += part.size(2);
      }
    } else {
      for (int64_t r = 0; r < sizes.rows(); ++r) {
        T* h = hidden + r * ld + column;
        kernels.dot_rows(out, in, h - width, w, in, h, bias, false);
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
    const bool keep = save || i + 2 == weights.size(), in_place = keep && is_simple(activation);
    const Tensor kept = keep ? target.narrow(1, column, width) : Tensor();
    const Tensor padded = in_place ? kept : padded_rows(target, sizes.rows(), width, activation);
    const Tensor h = padded.narrow(1, 0, width);
    column += save ? width : 0;
    if (i == 0) {
      h.copy_(first_layer(inputs, weights[0], biases.empty() ? Tensor() : biases[0], sizes));
    } else {
      product_out(h, below, weights[i].t(), biases.empty() ? Tensor() : biases[i]);
    }
    activate_rows_(padded, activation);
    if (keep && !in_place) kept.copy_(h);
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
      const bool with_bias = &part == mlp.inputs.begin() && !mlp.biases.empty();  // not by its column: parts may be empty
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
      else kernels_.add(to, from, count);
    }
    if (relu_) store(to, count, to);
  }

  void store(const T* from, int64_t count, T* to) const {
    if (relu_) kernels_.relu(to, from, count);
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

bool suits_tiles(const Mlp& mlp) {
  const auto narrow = [](const Tensor& weight) { return weight.size(0) <= kWideLayer; };
  return is_simple(mlp.activation) && has_tile_kernels(mlp.weights[0].scalar_type()) &&
         std::all_of(mlp.weights.begin(), mlp.weights.end() - 1, narrow);
}

Tensor hidden_layers(const Mlp& mlp, const Sizes& sizes, bool save) {
  const TensorList inputs = mlp.inputs, weights = mlp.weights, biases = mlp.biases;
  const string_view activation = mlp.activation;
  int64_t width = 0, work = 0;
  for (size_t i = 0; i + 1 < weights.size(); ++i) {
    width += weights[i].size(0);
    work += sizes.rows() * weights[i].size(0) * weights[i].size(1);
  }
  const bool small = is_simple(activation) && work <= kSmallNetwork && has_tile_kernels(weights[0].scalar_type());
  const Tensor result = empty_pooled({sizes.rows(), save || small ? width : weights.back().size(1)}, weights[0].options());
  if (small) {
    with_tile_type(result.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      small_hidden<T>(inputs, weights, biases, activation == "relu", sizes, result.mutable_data_ptr<T>(), width);
    });
    return result;
  }
  const auto count = [](int64_t total, int64_t of) { return of ? (total + of - 1) / of : 0; };
  if (suits_tiles(mlp)) {
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
  parallel(count(sizes.conditions, conditions) * across, work, [&](int64_t begin, int64_t end) {
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

Tensor activation_grad_of_rows(Tensor& grad, const Tensor& h, string_view activation) {
  if (is_simple(activation)) return activation_grad(grad, h, activation);
  const Tensor result = at::empty_like(grad);
  const int64_t width = grad.size(1);
  for_each_row_block(grad.size(0), width, [&](int64_t begin, int64_t end) {
    Tensor g = padded_rows(grad, end - begin, width, activation);
    const Tensor of_rows = padded_rows(grad, end - begin, width, activation);
    g.narrow(1, 0, width).copy_(grad.narrow(0, begin, end - begin));
    of_rows.narrow(1, 0, width).copy_(h.narrow(0, begin, end - begin));
    result.narrow(0, begin, end - begin).copy_(activation_grad(g, of_rows, activation).narrow(1, 0, width));
  });
  return result;
}

// Gradients of inputs and of the first layer's matrix, from that before its activation, summed over the rows that
// meet the same row of each part.
void first_layer_backward(const Mlp& mlp, const std::vector<Tensor>& sums, const std::function<bool(size_t)>& need,
                          std::vector<Tensor>& results) {
  const size_t first_weight = mlp.inputs.size();
  std::vector<Tensor> columns;
  int64_t column = 0;
  for (size_t p = 0; p < mlp.inputs.size(); ++p) {
    const Tensor& part = mlp.inputs[p];
    if (need(first_weight)) columns.push_back(product(sums[p].t(), as_matrix(part)));
    if (need(p)) results[p] = product(sums[p], mlp.weights[0].narrow(1, column, part.size(2))).view(part.sizes());
    column += part.size(2);
  }
  if (need(first_weight)) results[first_weight] = at::cat(columns, 1);
}

// The backward pass of TiledHidden: a block of rows goes down through all layers. Sums of as many parts of the rows are
// added in order, whoever computed them.
template <typename T>
class TiledBackward {
 public:
  TiledBackward(const Mlp& mlp, const Tensor& grad, const Tensor& hidden, const Sizes& sizes)
      : mlp_(mlp), sizes_(sizes), relu_(mlp.activation == "relu"), grad_(grad.const_data_ptr<T>()), grad_ld_(grad.stride(0)),
        hidden_(hidden.const_data_ptr<T>()), hidden_ld_(hidden.stride(0)) {
    blocks_ = (sizes.rows() + kTileRows - 1) / kTileRows;
    slabs_ = std::clamp<int64_t>(blocks_, 1, kMostSlabs);
    int64_t column = 0;
    for (size_t i = 0; i + 1 < mlp.weights.size(); ++i) {
      Layer layer{mlp.weights[i].size(0), round_up(mlp.weights[i].size(0), kernels_.lanes), column, nullptr, size_, 0};
      column += layer.out;
      if (i > 0) {
        const int64_t below = layers_.back().pitch;
        weights_.push_back(at::constant_pad_nd(mlp.weights[i], {0, below - layers_.back().out}).contiguous());
        layer.weight = weights_.back().template const_data_ptr<T>();
        size_ += layer.out * below;
      }
      layer.bias_sum = size_;
      size_ += layer.out;
      width_ = std::max(width_, layer.pitch);
      layers_.push_back(layer);
    }
    for (const Tensor& part : mlp.inputs) {
      terms_.push_back({size_, part.size(0) == 1 ? 0 : part.size(1), part.size(1) == 1 ? 0 : 1});
      size_ += part.size(0) * part.size(1) * layers_[0].out;
    }
  }

  // Whether the sums of all slabs are small.
  bool fits() const { return slabs_ * size_ <= kMostSums; }

  void run(const std::function<bool(size_t)>& need, std::vector<Tensor>& results) {
    const Tensor sums = empty_pooled({slabs_, size_}, mlp_.weights[0].options()).zero_();
    T* const all = sums.mutable_data_ptr<T>();
    parallel(slabs_, 2 * sizes_.rows() * width_ * width_ * static_cast<int64_t>(layers_.size()), [&](int64_t begin, int64_t end) {
      for (int64_t slab = begin; slab < end; ++slab) {
        for (int64_t i = blocks_ * slab / slabs_; i < blocks_ * (slab + 1) / slabs_; ++i) {
          add_block(i * kTileRows, std::min((i + 1) * kTileRows, sizes_.rows()), all + slab * size_);
        }
      }
    });
    for (int64_t slab = 1; slab < slabs_; ++slab) kernels_.add(all, all + slab * size_, size_);
    const auto cut = [&](int64_t start, int64_t rows, int64_t pitch, int64_t columns) {
      return sums[0].narrow(0, start, rows * pitch).view({rows, pitch}).narrow(1, 0, columns);
    };
    const size_t first_weight = mlp_.inputs.size(), first_bias = first_weight + mlp_.weights.size();
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      if (!mlp_.biases.empty() && need(first_bias + i)) results[first_bias + i] = sums[0].narrow(0, layer.bias_sum, layer.out).clone();
      if (i == 0 || !need(first_weight + i)) continue;
      results[first_weight + i] = cut(layer.sum, layer.out, layers_[i - 1].pitch, layers_[i - 1].out).contiguous();
    }
    std::vector<Tensor> of_parts;
    for (size_t p = 0; p < terms_.size(); ++p) {
      const int64_t rows = mlp_.inputs[p].size(0) * mlp_.inputs[p].size(1), out = layers_[0].out;
      of_parts.push_back(cut(terms_[p].sum, rows, out, out));
    }
    first_layer_backward(mlp_, of_parts, need, results);
  }

 private:
  struct Layer {
    int64_t out, pitch, column;
    const T* weight;        // [out, pitch of the layer below]
    int64_t sum, bias_sum;  // where the gradients of matrix and bias are summed
  };
  struct Term {
    int64_t sum, of_condition, of_chunk;
  };

  void add_block(int64_t begin, int64_t end, T* sums) const {
    const int64_t height = end - begin;
    T* g = scratch<T>(3 * height * width_);
    T *next = g + height * width_, *const below = next + height * width_;
    for (int64_t r = 0; r < height; ++r) {
      const T* from = grad_ + (begin + r) * grad_ld_;
      std::copy(from, from + layers_.back().out, g + r * layers_.back().pitch);
    }
    for (size_t i = layers_.size(); i-- > 0;) {
      const Layer& layer = layers_[i];
      std::fill(next, next + layer.out, T(0));  // sums of this block, in a place that is free
      for (int64_t r = 0; r < height; ++r) {
        T* row = g + r * layer.pitch;
        if (relu_) {
          const T* h = hidden_ + (begin + r) * hidden_ld_ + layer.column;
          kernels_.relu_backward(row, h, layer.out);
        }
        kernels_.add(next, row, layer.out);
      }
      kernels_.add(sums + layer.bias_sum, next, layer.out);
      if (i == 0) break;
      const Layer& lower = layers_[i - 1];
      for (int64_t r = 0; r < height; ++r) {
        const T* h = hidden_ + (begin + r) * hidden_ld_ + lower.column;
        std::fill(std::copy(h, h + lower.out, below + r * lower.pitch), below + (r + 1) * lower.pitch, T(0));
      }
      kernels_.gemm(layer.out, lower.pitch, height, g, 1, layer.pitch, below, lower.pitch, sums + layer.sum, lower.pitch, nullptr, true);
      kernels_.gemm(height, lower.pitch, layer.out, g, layer.pitch, 1, layer.weight, lower.pitch, next, lower.pitch, nullptr, false);
      std::swap(g, next);
    }
    const int64_t out = layers_[0].out, pitch = layers_[0].pitch;
    for (const Term& term : terms_) {
      for (int64_t r = 0; r < height; ++r) {
        const int64_t condition = (begin + r) / sizes_.chunks, chunk = (begin + r) % sizes_.chunks;
        T* to = sums + term.sum + (condition * term.of_condition + chunk * term.of_chunk) * out;
        kernels_.add(to, g + r * pitch, out);
      }
    }
  }

  static constexpr int64_t kMostSlabs = 8;
  static constexpr int64_t kMostSums = 1 << 22;  // elements

  const TileKernels<T>& kernels_ = tile_kernels<T>();
  Mlp mlp_;
  Sizes sizes_;
  bool relu_;
  const T *grad_, *hidden_;
  int64_t grad_ld_, hidden_ld_, blocks_, slabs_, size_ = 0, width_ = 0;
  std::vector<Tensor> weights_;
  std::vector<Layer> layers_;
  std::vector<Term> terms_;
};

}  // namespace

void hidden_backward(const Mlp& mlp, const Tensor& grad, const Tensor& saved_hidden, const Sizes& sizes,
                     const std::function<bool(size_t)>& need, std::vector<Tensor>& results) {
  const TensorList inputs = mlp.inputs, weights = mlp.weights, biases = mlp.biases;
  const size_t first_weight = inputs.size(), first_bias = first_weight + weights.size(), last = weights.size() - 1;
  if (suits_tiles(mlp) && sizes.rows() >= kTileRows) {
    bool done = false;
    with_tile_type(grad.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      TiledBackward<T> tiled(mlp, grad, saved_hidden, sizes);
      if ((done = tiled.fits())) tiled.run(need, results);
    });
    if (done) return;
  }
  std::vector<int64_t> widths;
  for (size_t i = 0; i < last; ++i) widths.push_back(weights[i].size(0));
  const std::vector<Tensor> hidden = saved_hidden.split_with_sizes(widths, 1);
  Tensor g = grad;
  for (size_t i = last; i-- > 0;) {  // from the last to the first
    g = activation_grad_of_rows(g, hidden[i], mlp.activation);  // [R, out]
    if (!biases.empty() && need(first_bias + i)) results[first_bias + i] = g.sum(0);
    if (i == 0) break;
    if (need(first_weight + i)) results[first_weight + i] = product(g.t(), hidden[i - 1]);
    g = product(g, weights[i]);
  }
  const Tensor rows = g.view({sizes.conditions, sizes.chunks, g.size(1)});
  std::vector<Tensor> sums;
  for (const Tensor& part : inputs) sums.push_back(as_matrix(rows.sum_to_size({part.size(0), part.size(1), rows.size(2)})));
  first_layer_backward(mlp, sums, need, results);
}

}  // namespace hnetfast
