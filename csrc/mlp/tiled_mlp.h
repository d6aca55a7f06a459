// The hidden layers of an MLP laid out for tiles: matrices transposed and padded once, rows of the first layer as sums of
// the terms that the parts of the input give.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "common/rounding.h"
#include "mlp/network.h"
#include "tiles/tile_kernels.h"

namespace hnetfast {

constexpr int64_t kTileRows = 96;  // that go through narrow layers together

template <typename T>
class TiledMlp {
 public:
  // `terms` as of first_layer_terms, each [conditions or 1, chunks or 1, out]. Of the first layer no matrix is read, of the
  // network's biases none but those of later layers.
  TiledMlp(const std::vector<at::Tensor>& terms, at::TensorList hidden_weights, at::TensorList biases, const Sizes& sizes)
      : chunks_(sizes.chunks) {
    for (const at::Tensor& term : terms) {
      const int64_t out = term.size(2);
      terms_.push_back({keep(term), term.size(0) == 1 ? 0 : term.size(1) * out, term.size(1) == 1 ? 0 : out});
    }
    for (size_t i = 0; i < hidden_weights.size(); ++i) {
      const int64_t out = hidden_weights[i].size(0), pitch = round_up(out, kernels.lanes);
      Layer layer{out, pitch};
      const auto padded = [&](const at::Tensor& t) { return keep(at::constant_pad_nd(t, {0, pitch - out})); };
      if (i > 0) layer.weight = {padded(hidden_weights[i].t()), hidden_weights[i].size(1), pitch, pitch};
      if (i > 0 && !biases.empty()) layer.bias = padded(biases[i]);
      layers_.push_back(layer);
      width_ = std::max(width_, pitch);
    }
  }

  size_t depth() const { return layers_.size(); }
  int64_t out(size_t layer) const { return layers_[layer].out; }
  int64_t pitch(size_t layer) const { return layers_[layer].pitch; }
  int64_t width() const { return width_; }  // the largest pitch

  // A row of the first layer before its activation.
  void first_layer(int64_t row, T* to) const {
    const int64_t condition = row / chunks_, chunk = row % chunks_, count = layers_[0].out;
    for (const Term& term : terms_) {
      const T* from = term.data + condition * term.of_condition + chunk * term.of_chunk;
      if (&term == terms_.data()) {
        std::copy(from, from + count, to);
      } else {
        kernels.add(to, from, count);
      }
    }
  }

  // Rows of a later layer before its activation, to `to`, [rows, pitch].
  void layer(size_t i, MatrixView<const T> below, T* to) const {
    const Layer& layer = layers_[i];
    kernels.gemm(below, layer.weight, {to, below.rows, layer.pitch, layer.pitch}, layer.bias, false);
  }

  const TileKernels<T>& kernels = tile_kernels<T>();

 private:
  struct Layer {
    int64_t out, pitch;
    MatrixView<const T> weight = {};  // [in, pitch]
    const T* bias = nullptr;
  };
  struct Term {
    const T* data;
    int64_t of_condition, of_chunk;
  };

  const T* keep(const at::Tensor& tensor) {
    kept_.push_back(tensor.contiguous());
    return kept_.back().template const_data_ptr<T>();
  }

  int64_t chunks_, width_ = 0;
  std::vector<at::Tensor> kept_;
  std::vector<Term> terms_;
  std::vector<Layer> layers_;
};

}  // namespace hnetfast
