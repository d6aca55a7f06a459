// The change goes through the layers itself,
// δ = D h + W* Δ with D = W − W*, as the difference of two results would hold little but their rounding errors.
#include "output_reg/hidden_change.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "common/buffer_pool.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "mlp/hidden_layers.h"
#include "mlp/product.h"
#include "mlp/tiled_mlp.h"
#include "tiles/tile_types.h"

namespace hnetfast {

using at::Tensor;

namespace {

// Of the first layer: what every row of each part gives, before the activation, and by how much that has changed.
struct TermsOfBoth {
  std::vector<Tensor> after, change;  // [conditions or 1, chunks or 1, out]
};

Tensor bias_change(const Mlp& now, const Mlp& then, size_t layer) {
  return now.biases.empty() ? Tensor() : now.biases[layer] - then.biases[layer];
}

TermsOfBoth terms_of_both(const Mlp& now, const Mlp& then) {
  const Tensor &w = now.weights[0], &p = then.weights[0];
  std::vector<Tensor> differences;
  for (size_t i = 0; i < now.inputs.size(); ++i) differences.push_back(now.inputs[i] - then.inputs[i]);
  TermsOfBoth terms{first_layer_terms(now.inputs, w, now.bias(0)),
                    first_layer_terms(now.inputs, w - p, bias_change(now, then, 0))};
  const std::vector<Tensor> of_inputs = first_layer_terms(differences, p, {});
  for (size_t i = 0; i < of_inputs.size(); ++i) terms.change[i] = (terms.change[i] + of_inputs[i]).contiguous();
  return terms;
}

// Any activation, layer by layer.
HiddenChange by_layers(const Mlp& now, const Mlp& then, const Sizes& sizes, bool save) {
  const TermsOfBoth terms = terms_of_both(now, then);
  Tensor after = sum_of_terms(terms.after, sizes), change = sum_of_terms(terms.change, sizes);
  std::vector<Tensor> kept;
  for (size_t i = 0;; ++i) {
    const Activated h = activate_rows(after, change, now.activation);
    kept.push_back(h.now);
    if (i + 2 == now.weights.size()) return {save ? at::cat(kept, 1) : h.now, h.change};
    const Tensor &w = now.weights[i + 1], &p = then.weights[i + 1];
    after = product(h.now, w.t(), now.bias(i + 1));
    change = product(h.now, (w - p).t(), bias_change(now, then, i + 1));
    product_out(change, h.change, p.t(), {}, true);
  }
}

// Relu or no activation, narrow layers: blocks of rows go through all of them. The change is the result of a network that
// reads results beside their changes, by matrices [D W*].
template <typename T>
class TiledChange {
 public:
  TiledChange(const Mlp& now, const Mlp& then, const Sizes& sizes) : TiledChange(now, then, sizes, terms_of_both(now, then)) {}

  // Rows from `begin` on: results of all layers side by side, or of the last alone, to `hidden`, the last change to `change`.
  void run(int64_t begin, MatrixView<T> hidden, bool all, MatrixView<T> change) const {
    const int64_t height = hidden.rows, size = height * after_.width();
    T* const memory = scratch<T>(4 * size);
    T *const after = memory, *const delta = memory + size, *const joint = memory + 2 * size;  // results beside their changes
    for (size_t i = 0; i < after_.depth(); ++i) {
      const int64_t out = after_.out(i), pitch = after_.pitch(i);
      if (i == 0) {
        for (int64_t r = 0; r < height; ++r) {
          after_.first_layer(begin + r, after + r * pitch);
          change_.first_layer(begin + r, delta + r * pitch);
        }
      } else {
        const int64_t in = after_.out(i - 1);
        after_.layer(i, {joint, height, in, 2 * in}, after);
        change_.layer(i, {joint, height, 2 * in, 2 * in}, delta);
      }
      const bool last = i + 1 == after_.depth();
      for (int64_t r = 0; r < height; ++r) {
        T *h_now = joint + r * 2 * out, *h_change = h_now + out;
        after_.kernels.change(h_now, h_change, after + r * pitch, delta + r * pitch, out, relu_);
        if (all || last) std::copy(h_now, h_now + out, hidden.row(r));
        if (last) std::copy(h_change, h_change + out, change.row(r));
      }
      if (all) hidden.data += out;
    }
  }

 private:
  TiledChange(const Mlp& now, const Mlp& then, const Sizes& sizes, const TermsOfBoth& terms)
      : relu_(now.activation == Activation::relu),
        after_(terms.after, now.hidden_weights(), now.biases, sizes),
        change_(terms.change, joint_weights(now, then), bias_changes(now, then), sizes) {}

  static std::vector<Tensor> joint_weights(const Mlp& now, const Mlp& then) {
    std::vector<Tensor> joint;
    for (size_t i = 0; i + 1 < now.weights.size(); ++i) {
      const Tensor &w = now.weights[i], &p = then.weights[i];
      joint.push_back(i == 0 ? w : at::cat({w - p, p}, 1));  // of the first layer, only the width counts
    }
    return joint;
  }

  static std::vector<Tensor> bias_changes(const Mlp& now, const Mlp& then) {
    std::vector<Tensor> changes;
    for (size_t i = 0; i < now.biases.size(); ++i) changes.push_back(bias_change(now, then, i));
    return changes;
  }

  bool relu_;
  TiledMlp<T> after_, change_;
};

// Relu or no activation, few rows: each takes the matrices as they lie.
template <typename T>
class RowByRow {
 public:
  RowByRow(const Mlp& now, const Mlp& then, const Sizes& sizes) : sizes_(sizes), relu_(now.activation == Activation::relu) {
    for (size_t i = 0; i < now.inputs.size(); ++i) {
      const Tensor& part = now.inputs[i];
      const int64_t width = part.size(2), of_condition = part.size(0) == 1 ? 0 : part.size(1) * width;
      parts_.push_back({keep(part), keep(part - then.inputs[i]), width, of_condition, part.size(1) == 1 ? 0 : width});
    }
    for (size_t i = 0; i + 1 < now.weights.size(); ++i) {
      const auto bias = [&](const Mlp& mlp) { return mlp.biases.empty() ? nullptr : keep(mlp.biases[i]); };
      layers_.push_back(
          {keep(now.weights[i]), keep(then.weights[i]), bias(now), bias(then), now.weights[i].size(0), now.weights[i].size(1)});
      width_ = std::max(width_, layers_.back().out);
    }
  }

  // The results of all layers side by side to `hidden`, the last change to `change`.
  void run(int64_t row, T* hidden, T* change) const {
    T *const after = scratch<T>(3 * width_), *const delta = after + width_, *const last = delta + width_;
    const T* below = nullptr;
    for (const Layer& layer : layers_) {
      if (&layer == layers_.data()) {
        first_layer(row, after, delta);
      } else {
        const int64_t in = layer.in;
        kernels_.dot_rows({below, 1, in, in}, {layer.weight, layer.out, in, in}, {after, 1, layer.out, layer.out}, layer.bias,
                          false);
        kernels_.changed_dots(layer.out, in, below, last, layer.weight, layer.before, in, delta, layer.bias, layer.bias_before,
                              false);
      }
      below = hidden;
      T* const to = &layer == &layers_.back() ? change : last;
      kernels_.change(hidden, to, after, delta, layer.out, relu_);
      hidden += layer.out;
    }
  }

 private:
  struct Part {
    const T *now, *change;
    int64_t width, of_condition, of_chunk;
  };
  struct Layer {
    const T *weight, *before, *bias, *bias_before;
    int64_t out, in;
  };

  const T* keep(const Tensor& tensor) {
    kept_.push_back(tensor.contiguous());
    return kept_.back().template const_data_ptr<T>();
  }

  void first_layer(int64_t row, T* after, T* delta) const {
    const Layer& layer = layers_[0];
    int64_t from = 0;
    for (const Part& part : parts_) {
      const int64_t start = row / sizes_.chunks * part.of_condition + row % sizes_.chunks * part.of_chunk;
      const bool add = &part != parts_.data();
      kernels_.dot_rows({part.now + start, 1, part.width, layer.in}, {layer.weight + from, layer.out, part.width, layer.in},
                        {after, 1, layer.out, layer.out}, add ? nullptr : layer.bias, add);
      kernels_.changed_dots(layer.out, part.width, part.now + start, part.change + start, layer.weight + from,
                            layer.before + from, layer.in, delta, add ? nullptr : layer.bias, layer.bias_before, add);
      from += part.width;
    }
  }

  const TileKernels<T>& kernels_ = tile_kernels<T>();
  const Sizes sizes_;
  const bool relu_;
  int64_t width_ = 0;
  std::vector<Tensor> kept_;
  std::vector<Part> parts_;
  std::vector<Layer> layers_;
};

template <typename T>
HiddenChange row_by_row(const Mlp& now, const Mlp& then, const Sizes& sizes) {
  const int64_t all = now.hidden_width(), last = now.weights.back().size(1);
  const at::TensorOptions options = now.weights[0].options();
  const HiddenChange result{empty_pooled({sizes.rows(), all}, options), empty_pooled({sizes.rows(), last}, options)};
  const RowByRow<T> rows(now, then, sizes);
  T *hidden = result.hidden.mutable_data_ptr<T>(), *change = result.change.mutable_data_ptr<T>();
  for (int64_t r = 0; r < sizes.rows(); ++r) rows.run(r, hidden + r * all, change + r * last);
  return result;
}

}  // namespace

HiddenChange hidden_change(const Mlp& now, const Mlp& then, const Sizes& sizes, bool save) {
  if (sizes.rows() <= kRowByRow && is_simple(now.activation) && hidden_work(now, sizes) < kSerialWork) {
    const bool single = now.weights[0].scalar_type() == at::kFloat;
    return single ? row_by_row<float>(now, then, sizes) : row_by_row<double>(now, then, sizes);
  }
  if (!suits_tiles(now)) return by_layers(now, then, sizes, save);
  const int64_t last = now.weights.back().size(1);
  const at::TensorOptions options = now.weights[0].options();
  HiddenChange result{empty_pooled({sizes.rows(), save ? now.hidden_width() : last}, options),
                      empty_pooled({sizes.rows(), last}, options)};
  with_tile_type(options.dtype().toScalarType(), [&](auto zero) {
    using T = decltype(zero);
    const TiledChange<T> tiled(now, then, sizes);
    const MatrixView<T> hidden = mutable_view_of<T>(result.hidden), change = mutable_view_of<T>(result.change);
    parallel(ceil_div(sizes.rows(), kTileRows), 3 * hidden_work(now, sizes), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * kTileRows, count = std::min(kTileRows, sizes.rows() - first);
        tiled.run(first, hidden.some_rows(first, count), save, change.some_rows(first, count));
      }
    });
  });
  return result;
}

}  // namespace hnetfast
