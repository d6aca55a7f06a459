// The hidden layers of a network and by how much their results have changed. The change goes through the layers itself,
// δ = D h + W* Δ with D = W − W*, as the difference of two results would hold little but their rounding errors.
#include <ATen/ATen.h>

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
using std::string_view;

namespace {

constexpr int64_t kTileRows = 96;

// Of the first layer: what every row of each part gives, before the activation, and by how much that has changed.
struct Terms {
  std::vector<Tensor> after, change;  // [conditions or 1, chunks or 1, out]
};

Terms first_layer_terms(const Mlp& now, const Mlp& then) {
  Terms terms;
  const Tensor &w = now.weights[0], &p = then.weights[0];
  const Tensor d = w - p;
  int64_t column = 0;
  for (size_t i = 0; i < now.inputs.size(); ++i) {
    const Tensor &x = now.inputs[i], &y = then.inputs[i];
    const auto of = [&](const Tensor& matrix) { return matrix.narrow(1, column, x.size(2)).t(); };
    const auto rows = [](const Tensor& t) { return t.reshape({t.size(0) * t.size(1), t.size(2)}); };
    const auto shaped = [&](const Tensor& t, const Tensor& like) { return t.view({like.size(0), like.size(1), w.size(0)}); };
    const bool first = i == 0 && !now.biases.empty();
    terms.after.push_back(shaped(product(rows(x), of(w), first ? now.biases[0] : Tensor()), x));
    const Tensor of_matrix = shaped(product(rows(x), of(d), first ? now.biases[0] - then.biases[0] : Tensor()), x);
    terms.change.push_back((of_matrix + shaped(product(rows(x - y), of(p)), x - y)).contiguous());
    column += x.size(2);
  }
  return terms;
}

// --- any activation, layer by layer ---------------------------------------------------------------------------------

struct Activated {
  Tensor now, change;
};

// From what is there before the activation, and its change.
Activated activate(const Tensor& after, const Tensor& change, string_view activation) {
  if (activation == "identity") return {after, change};
  const Tensor before = after - change;
  Tensor now, then, exact, applies = change.abs() < 1;  // where the change has a formula without cancellation
  if (activation == "relu" || activation == "leaky_relu") {
    const double slope = activation == "relu" ? 0 : 0.01;
    now = at::leaky_relu(after, slope);
    then = at::leaky_relu(before, slope);
    exact = at::where(after > 0, change, slope * change);
    applies = (after > 0) == (before > 0);
  } else if (activation == "tanh") {
    now = at::tanh(after);
    then = at::tanh(before);
    exact = at::tanh(change) * (1 - now * then);
  } else if (activation == "sigmoid") {
    now = at::sigmoid(after);
    then = at::sigmoid(before);
    exact = -at::expm1(-change) * now * (1 - then);
  } else {
    now = at::elu(after);
    then = at::elu(before);
    exact = at::where(after > 0, change, at::exp(before.clamp_max(0)) * at::expm1(change));
    applies = applies.logical_and((after > 0) == (before > 0));
  }
  return {now, at::where(applies, exact, now - then)};
}

Activated activate_rows(const Tensor& after, const Tensor& change, string_view activation) {
  const Activated result{at::empty_like(after), at::empty_like(change)};
  for_each_row_block(after.size(0), after.size(1), [&](int64_t begin, int64_t end) {
    const Activated block = activate(after.narrow(0, begin, end - begin), change.narrow(0, begin, end - begin), activation);
    result.now.narrow(0, begin, end - begin).copy_(block.now);
    result.change.narrow(0, begin, end - begin).copy_(block.change);
  });
  return result;
}

HiddenChange by_layers(const Mlp& now, const Mlp& then, const Sizes& sizes, bool save) {
  const Terms terms = first_layer_terms(now, then);
  const auto sum = [&](const std::vector<Tensor>& parts) {
    Tensor total = parts[0];
    for (size_t i = 1; i < parts.size(); ++i) total = total + parts[i];
    return total.expand({sizes.conditions, sizes.chunks, total.size(2)}).reshape({sizes.rows(), total.size(2)});
  };
  Tensor after = sum(terms.after), change = sum(terms.change);
  std::vector<Tensor> kept;
  for (size_t i = 0;; ++i) {
    const Activated h = activate_rows(after, change, now.activation);
    kept.push_back(h.now);
    if (i + 2 == now.weights.size()) return {save ? at::cat(kept, 1) : h.now, h.change};
    const Tensor &w = now.weights[i + 1], &p = then.weights[i + 1];
    const bool bias = !now.biases.empty();
    after = product(h.now, w.t(), bias ? now.biases[i + 1] : Tensor());
    change = product(h.now, (w - p).t(), bias ? now.biases[i + 1] - then.biases[i + 1] : Tensor());
    product_out(change, h.change, p.t(), {}, true);
  }
}

// --- relu or none, narrow layers: blocks of rows go through all of them -----------------------------------------------

template <typename T>
class Tiled {
 public:
  Tiled(const Mlp& now, const Mlp& then, const Sizes& sizes) : sizes_(sizes), relu_(now.activation == "relu") {
    const Terms terms = first_layer_terms(now, then);
    for (const Tensor& t : terms.after) terms_.push_back(term(t));
    for (const Tensor& t : terms.change) change_terms_.push_back(term(t));
    for (size_t i = 0; i + 1 < now.weights.size(); ++i) {
      const int64_t out = now.weights[i].size(0), pitch = round_up(out, kernels_.lanes);
      Layer layer{out, pitch};
      const auto padded = [&](const Tensor& t) { return keep(at::constant_pad_nd(t, {0, pitch - out})); };
      if (i > 0) {
        layer.weight = padded(now.weights[i].t());
        layer.joint = padded(at::cat({(now.weights[i] - then.weights[i]).t(), then.weights[i].t()}));
      }
      if (i > 0 && !now.biases.empty()) {
        layer.bias = padded(now.biases[i]);
        layer.bias_change = padded(now.biases[i] - then.biases[i]);
      }
      layers_.push_back(layer);
      width_ = std::max(width_, pitch);
    }
  }

  // Rows [begin, end): results of all layers side by side, or of the last alone, to `hidden`, the last change to `change`.
  void run(int64_t begin, int64_t end, T* hidden, int64_t ld, bool all, T* change) const {
    const int64_t height = end - begin, size = height * width_;
    T* const memory = scratch<T>(4 * size);
    T *const after = memory, *const delta = memory + size, *const joint = memory + 2 * size;  // results beside their changes
    for (size_t i = 0; i < layers_.size(); ++i) {
      const Layer& layer = layers_[i];
      if (i == 0) {
        for (int64_t r = 0; r < height; ++r) {
          add(terms_, begin + r, layer.out, after + r * layer.pitch);
          add(change_terms_, begin + r, layer.out, delta + r * layer.pitch);
        }
      } else {
        const int64_t in = layers_[i - 1].out;
        kernels_.gemm(height, layer.pitch, in, joint, 2 * in, 1, layer.weight, layer.pitch, after, layer.pitch, layer.bias, false);
        kernels_.gemm(height, layer.pitch, 2 * in, joint, 2 * in, 1, layer.joint, layer.pitch, delta, layer.pitch, layer.bias_change, false);
      }
      const bool last = i + 1 == layers_.size();
      for (int64_t r = 0; r < height; ++r) {
        T *h_now = joint + r * 2 * layer.out, *h_change = h_now + layer.out;
        kernels_.change(h_now, h_change, after + r * layer.pitch, delta + r * layer.pitch, layer.out, relu_);
        if (all || last) std::copy(h_now, h_now + layer.out, hidden + r * ld);
        if (last) std::copy(h_change, h_change + layer.out, change + r * layer.out);
      }
      if (all) hidden += layer.out;
    }
  }

 private:
  struct Layer {
    int64_t out, pitch;
    const T *weight = nullptr, *joint = nullptr;  // Wᵀ; Dᵀ above W*ᵀ
    const T *bias = nullptr, *bias_change = nullptr;
  };
  struct Term {
    const T* data;
    int64_t of_condition, of_chunk;
  };

  const T* keep(const Tensor& tensor) {
    kept_.push_back(tensor.contiguous());
    return kept_.back().template const_data_ptr<T>();
  }

  Term term(const Tensor& tensor) {
    const int64_t out = tensor.size(2);
    return {keep(tensor), tensor.size(0) == 1 ? 0 : tensor.size(1) * out, tensor.size(1) == 1 ? 0 : out};
  }

  void add(const std::vector<Term>& terms, int64_t row, int64_t count, T* to) const {
    for (const Term& t : terms) {
      const T* from = t.data + row / sizes_.chunks * t.of_condition + row % sizes_.chunks * t.of_chunk;
      if (&t == terms.data()) std::copy(from, from + count, to);
      else kernels_.add(to, from, count);
    }
  }

  const TileKernels<T>& kernels_ = tile_kernels<T>();
  Sizes sizes_;
  bool relu_;
  int64_t width_ = 0;
  std::vector<Tensor> kept_;
  std::vector<Term> terms_, change_terms_;
  std::vector<Layer> layers_;
};

}  // namespace

HiddenChange hidden_change(const Mlp& now, const Mlp& then, const Sizes& sizes, bool save) {
  if (!suits_tiles(now)) return by_layers(now, then, sizes, save);
  int64_t width = 0, work = 0;
  for (size_t i = 0; i + 1 < now.weights.size(); ++i) {
    width += now.weights[i].size(0);
    work += 3 * sizes.rows() * now.weights[i].numel();
  }
  const int64_t last = now.weights.back().size(1);
  const at::TensorOptions options = now.weights[0].options();
  HiddenChange result{empty_pooled({sizes.rows(), save ? width : last}, options), empty_pooled({sizes.rows(), last}, options)};
  with_tile_type(options.dtype().toScalarType(), [&](auto zero) {
    using T = decltype(zero);
    const Tiled<T> tiled(now, then, sizes);
    T *const hidden = result.hidden.mutable_data_ptr<T>(), *const change = result.change.mutable_data_ptr<T>();
    const int64_t ld = result.hidden.size(1);
    parallel((sizes.rows() + kTileRows - 1) / kTileRows, work, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * kTileRows;
        tiled.run(first, std::min(first + kTileRows, sizes.rows()), hidden + first * ld, ld, save, change + first * last);
      }
    });
  });
  return result;
}

}  // namespace hnetfast
