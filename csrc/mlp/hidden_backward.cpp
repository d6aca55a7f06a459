// The backward pass of the hidden layers.
#include <ATen/ATen.h>

#include <algorithm>

#include "common/buffer_pool.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "mlp/hidden_layers.h"
#include "mlp/product.h"
#include "mlp/tiled_mlp.h"
#include "tiles/parts.h"
#include "tiles/tile_types.h"

namespace hnetfast {

using at::Tensor;
using at::TensorList;

namespace {

constexpr int64_t kSmallNetwork = 1 << 16;  // multiply-adds of the hidden layers below which calls cost more

// Gradients of inputs and of the first layer's matrix, from that before its activation, summed over the rows that
// meet the same row of each part.
void first_layer_backward(const Mlp& mlp, const std::vector<Tensor>& sums, const Need& need, std::vector<Tensor>& results) {
  const size_t first_weight = mlp.first_weight();
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

// The backward pass by tiles: a block of rows goes down through all layers. Sums of as many parts of the rows are
// added in order, whoever computed them.
template <typename T>
class TiledBackward {
 public:
  TiledBackward(const Mlp& mlp, const Tensor& grad, const Tensor& hidden, const Sizes& sizes)
      : mlp_(mlp),
        sizes_(sizes),
        relu_(mlp.activation == Activation::relu),
        grad_(view_of<T>(grad)),
        hidden_(view_of<T>(hidden)) {
    blocks_ = ceil_div(sizes.rows(), kTileRows);
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

  void run(const Need& need, std::vector<Tensor>& results) {
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
    const size_t first_weight = mlp_.first_weight(), first_bias = mlp_.first_bias();
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      const bool of_bias = !mlp_.biases.empty() && need(first_bias + i);
      if (of_bias) results[first_bias + i] = sums[0].narrow(0, layer.bias_sum, layer.out).clone();
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
      const T* from = grad_.row(begin + r);
      std::copy(from, from + layers_.back().out, g + r * layers_.back().pitch);
    }
    for (size_t i = layers_.size(); i-- > 0;) {
      const Layer& layer = layers_[i];
      std::fill(next, next + layer.out, T(0));  // sums of this block, in a place that is free
      for (int64_t r = 0; r < height; ++r) {
        T* row = g + r * layer.pitch;
        if (relu_) {
          const T* h = hidden_.row(begin + r) + layer.column;
          kernels_.relu_backward(row, h, layer.out);
        }
        kernels_.add(next, row, layer.out);
      }
      kernels_.add(sums + layer.bias_sum, next, layer.out);
      if (i == 0) break;
      const Layer& lower = layers_[i - 1];
      for (int64_t r = 0; r < height; ++r) {
        const T* h = hidden_.row(begin + r) + lower.column;
        std::fill(std::copy(h, h + lower.out, below + r * lower.pitch), below + (r + 1) * lower.pitch, T(0));
      }
      const MatrixView<const T> grad{g, height, layer.out, layer.pitch};
      kernels_.gemm(grad.t(), {below, height, lower.pitch, lower.pitch}, {sums + layer.sum, layer.out, lower.pitch, lower.pitch},
                    nullptr, true);
      kernels_.gemm(grad, {layer.weight, layer.out, lower.pitch, lower.pitch}, {next, height, lower.pitch, lower.pitch}, nullptr,
                    false);
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
  MatrixView<const T> grad_, hidden_;
  int64_t blocks_, slabs_, size_ = 0, width_ = 0;
  std::vector<Tensor> weights_;
  std::vector<Layer> layers_;
  std::vector<Term> terms_;
};

// The backward pass of few rows through small layers, without a library call for each step.
template <typename T>
class SmallBackward {
 public:
  SmallBackward(const Mlp& mlp, const Tensor& grad, const Tensor& hidden, const Sizes& sizes)
      : mlp_(mlp), sizes_(sizes), grad_(grad.contiguous()), hidden_(view_of<T>(hidden)) {
    int64_t most = sizes.rows();
    for (const Tensor& weight : mlp.hidden_weights()) {
      weights_.push_back(weight.contiguous());
      most = std::max({most, weight.size(0), weight.size(1)});
    }
    for (const Tensor& part : mlp.inputs) parts_.push_back(as_matrix(part).contiguous());
    size_ = sizes.rows() * most;
    spare_ = 2 * most * kernels_.lanes;
  }

  void run(const Need& need, std::vector<Tensor>& results) const {
    T* const memory = scratch<T>(3 * size_ + spare_);
    T *g = memory, *next = g + size_, *const spare = memory + 3 * size_;
    const int64_t R = sizes_.rows();
    std::copy(grad_.const_data_ptr<T>(), grad_.const_data_ptr<T>() + grad_.numel(), g);
    int64_t column = hidden_.cols;
    for (size_t i = weights_.size(); i-- > 0;) {
      const int64_t out = weights_[i].size(0), in = weights_[i].size(1);
      column -= out;
      for (int64_t r = 0; r < R && mlp_.activation == Activation::relu; ++r) {
        kernels_.relu_backward(g + r * out, hidden_.row(r) + column, out);
      }
      const size_t bias = mlp_.first_bias() + i, weight = mlp_.first_weight() + i;
      if (!mlp_.biases.empty() && need(bias)) {
        T* const sum = allocate({out}, results[bias]);
        std::copy(g, g + out, sum);
        for (int64_t r = 1; r < R; ++r) kernels_.add(sum, g + r * out, out);
      }
      const MatrixView<const T> grad{g, R, out, out};
      if (i == 0) return first_layer(grad, next, spare, need, results);
      if (need(weight)) {
        const MatrixView<const T> below{hidden_.data + column - in, R, in, hidden_.stride};
        multiply(grad.t(), below, {allocate({out, in}, results[weight]), out, in, in}, false, spare);
      }
      multiply(grad, view_of<T>(weights_[i]), {next, R, in, in}, false, spare);
      std::swap(g, next);
    }
  }

 private:
  T* allocate(at::IntArrayRef sizes, Tensor& result) const {
    result = at::empty(sizes, grad_.options());
    return result.template mutable_data_ptr<T>();
  }

  // A part meets the sum over the rows that read the same of it.
  void first_layer(const MatrixView<const T>& grad, T* sums, T* spare, const Need& need, std::vector<Tensor>& results) const {
    const int64_t out = grad.cols, in = weights_[0].size(1);
    const size_t weight = mlp_.first_weight();
    T* const of_weight = need(weight) ? allocate({out, in}, results[weight]) : nullptr;
    int64_t column = 0;
    for (size_t p = 0; p < parts_.size(); ++p) {
      const Tensor& part = mlp_.inputs[p];
      const int64_t rows = parts_[p].size(0), width = parts_[p].size(1);
      std::fill(sums, sums + rows * out, T(0));
      for (int64_t r = 0; r < grad.rows; ++r) {
        const int64_t condition = part.size(0) == 1 ? 0 : r / sizes_.chunks, chunk = part.size(1) == 1 ? 0 : r % sizes_.chunks;
        kernels_.add(sums + (condition * part.size(1) + chunk) * out, grad.row(r), out);
      }
      const MatrixView<const T> sum{sums, rows, out, out};
      if (of_weight) multiply(sum.t(), view_of<T>(parts_[p]), {of_weight + column, out, width, in}, false, spare);
      if (need(p)) {
        const MatrixView<const T> columns{weights_[0].template const_data_ptr<T>() + column, out, width, in};
        multiply(sum, columns, {allocate(part.sizes(), results[p]), rows, width, width}, false, spare);
      }
      column += width;
    }
  }

  const TileKernels<T>& kernels_ = tile_kernels<T>();
  const Mlp mlp_;
  const Sizes sizes_;
  const Tensor grad_;
  const MatrixView<const T> hidden_;
  std::vector<Tensor> weights_, parts_;
  int64_t size_ = 0, spare_ = 0;
};

}  // namespace

void hidden_backward(const Mlp& mlp, const Tensor& grad, const Tensor& saved_hidden, const Sizes& sizes, const Need& need,
                     std::vector<Tensor>& results) {
  const TensorList inputs = mlp.inputs, weights = mlp.weights, biases = mlp.biases;
  const size_t first_weight = mlp.first_weight(), first_bias = mlp.first_bias(), last = weights.size() - 1;
  const bool small = is_simple(mlp.activation) && has_tile_kernels(grad.scalar_type()) && sizes.rows() < kTileRows;
  if (small && sizes.rows() > 0 && hidden_work(mlp, sizes) < kSmallNetwork) {
    with_tile_type(grad.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      SmallBackward<T>(mlp, grad, saved_hidden, sizes).run(need, results);
    });
    return;
  }
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
  for (size_t i = last; i-- > 0;) {                             // from the last to the first
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
