// The hidden layers of a network and by how much their results have changed. The change goes through the layers itself,
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

}  // namespace

HiddenChange hidden_change(const Mlp& now, const Mlp& then, const Sizes& sizes, bool save) {
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
