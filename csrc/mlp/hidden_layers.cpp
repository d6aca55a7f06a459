#include "mlp/hidden_layers.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "common/buffer_pool.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "mlp/product.h"
#include "mlp/tiled_mlp.h"
#include "tiles/tile_types.h"

namespace hnetfast {

using at::Tensor;
using at::TensorList;

namespace {

constexpr int64_t kBlockRows = 256;         // that go through the hidden layers together, of wide ones
constexpr int64_t kSmallNetwork = 1 << 14;  // multiply-adds of the hidden layers below which calls cost more

// All hidden layers of a small network with relu or no activation, without a library call for each. Terms are added in
// the order of tiled_rows and hidden_block: how many rows there are does not change the bits of one.
template <typename T>
void small_hidden(const Mlp& mlp, const Sizes& sizes, T* hidden, int64_t ld) {
  const TensorList inputs = mlp.inputs, weights = mlp.weights, biases = mlp.biases;
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
          kernels.dot_rows({row, 1, part.size(2), in}, {w + from, out, part.size(2), in}, {hidden + r * ld, 1, out, ld},
                           first ? bias : nullptr, !first);
        }
        from += part.size(2);
      }
    } else {
      T* const h = hidden + column;
      kernels.dot_rows({h - width, sizes.rows(), in, ld}, {w, out, in, in}, {h, sizes.rows(), out, ld}, bias, false);
    }
    if (mlp.activation == Activation::relu) {
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
  std::vector<Tensor> parts = of_conditions(inputs, b0, conditions);
  for (Tensor& part : parts) part = part.size(1) == 1 ? part : part.narrow(1, i0, chunks);
  return parts;
}

// The hidden layers of some rows. `target` takes all of them side by side, or the last one alone.
void hidden_block(const Mlp& mlp, const Sizes& sizes, const Tensor& target, bool save) {
  const TensorList weights = mlp.weights;
  int64_t column = 0;
  Tensor below;
  for (size_t i = 0; i + 1 < weights.size(); ++i) {
    const int64_t width = weights[i].size(0);
    const bool keep = save || i + 2 == weights.size(), in_place = keep && is_simple(mlp.activation);
    const Tensor kept = keep ? target.narrow(1, column, width) : Tensor();
    const Tensor padded = in_place ? kept : padded_rows(target, sizes.rows(), width, mlp.activation);
    const Tensor h = padded.narrow(1, 0, width);
    column += save ? width : 0;
    if (i == 0) {
      h.copy_(sum_of_terms(first_layer_terms(mlp.inputs, weights[0], mlp.bias(0)), sizes));
    } else {
      product_out(h, below, weights[i].t(), mlp.bias(i));
    }
    activate_rows_(padded, mlp.activation);
    if (keep && !in_place) kept.copy_(h);
    below = h;
  }
}

// By library calls, in one parallel region for all layers: blocks are tasks, and what a task calls runs on its thread.
void blocked_hidden(const Mlp& mlp, const Sizes& sizes, const Tensor& result, bool save) {
  const auto count = [](int64_t total, int64_t of) { return of ? ceil_div(total, of) : 0; };
  const int64_t most = std::max<int64_t>(sizes.conditions, 1);
  const int64_t conditions = std::clamp<int64_t>(kBlockRows / std::max<int64_t>(sizes.chunks, 1), 1, most);
  const int64_t chunks = std::min(sizes.chunks, kBlockRows), across = count(sizes.chunks, chunks);
  parallel(count(sizes.conditions, conditions) * across, hidden_work(mlp, sizes), [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;  // other threads start without the state of this one
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / across * conditions, i = task % across * chunks;
      const Sizes block{std::min(conditions, sizes.conditions - b), std::min(chunks, sizes.chunks - i), 0, 0};
      const std::vector<Tensor> inputs = rows_of(mlp.inputs, b, block.conditions, i, block.chunks);
      hidden_block({mlp.op, inputs, mlp.weights, mlp.biases, mlp.activation}, block,
                   result.narrow(0, b * sizes.chunks + i, block.rows()), save);
    }
  });
}

// Rows from `begin` on by tiles: each activation is applied as its tile is stored. The results of all layers side by side, or
// of the last alone, go to rows of `target`.
template <typename T>
void tiled_rows(const TiledMlp<T>& mlp, bool relu, int64_t begin, MatrixView<T> target, bool all) {
  const int64_t height = target.rows, size = height * mlp.width();
  T* memory = scratch<T>(3 * size);
  T* const tile = memory + 2 * size;
  const auto store = [&](const T* from, int64_t count, T* to) {
    if (relu) {
      mlp.kernels.relu(to, from, count);
    } else if (from != to) {
      std::copy(from, from + count, to);
    }
  };
  MatrixView<const T> below;
  for (size_t i = 0; i < mlp.depth(); ++i) {
    const int64_t out = mlp.out(i);
    const bool keep = all || i + 1 == mlp.depth();
    T* const to = keep ? target.data : memory + (i % 2) * size;
    const int64_t stride = keep ? target.stride : mlp.width();
    if (i > 0) mlp.layer(i, below, tile);
    for (int64_t r = 0; r < height; ++r) {
      T* const row = to + r * stride;
      if (i == 0) mlp.first_layer(begin + r, row);
      store(i == 0 ? row : tile + r * mlp.pitch(i), out, row);
    }
    below = {to, height, out, stride};
    if (all) target.data += out;
  }
}

template <typename T>
void tiled_hidden(const Mlp& mlp, const Sizes& sizes, const Tensor& result, bool save) {
  const TiledMlp<T> tiled(first_layer_terms(mlp.inputs, mlp.weights[0], mlp.bias(0)), mlp.hidden_weights(), mlp.biases, sizes);
  const MatrixView<T> rows = mutable_view_of<T>(result);
  parallel(ceil_div(sizes.rows(), kTileRows), hidden_work(mlp, sizes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * kTileRows, count = std::min(kTileRows, sizes.rows() - first);
      tiled_rows(tiled, mlp.activation == Activation::relu, first, rows.some_rows(first, count), save);
    }
  });
}

}  // namespace

std::vector<Tensor> first_layer_terms(TensorList inputs, const Tensor& weight, const Tensor& bias) {
  std::vector<Tensor> terms;
  int64_t column = 0;
  for (const Tensor& part : inputs) {
    const Tensor w = weight.narrow(1, column, part.size(2)).t();
    column += part.size(2);
    const Tensor rows = product(as_matrix(part), w, terms.empty() ? bias : Tensor());
    terms.push_back(rows.view({part.size(0), part.size(1), weight.size(0)}));
  }
  return terms;
}

Tensor sum_of_terms(const std::vector<Tensor>& terms, const Sizes& sizes) {
  Tensor sum = terms[0];
  for (size_t i = 1; i < terms.size(); ++i) sum = sum + terms[i];
  return sum.expand({sizes.conditions, sizes.chunks, sum.size(2)}).reshape({sizes.rows(), sum.size(2)});
}

bool suits_tiles(const Mlp& mlp) {
  const auto narrow = [](const Tensor& weight) { return weight.size(0) <= kWideLayer; };
  const TensorList hidden = mlp.hidden_weights();
  return is_simple(mlp.activation) && has_tile_kernels(mlp.weights[0].scalar_type()) &&
         std::all_of(hidden.begin(), hidden.end(), narrow);
}

int64_t hidden_work(const Mlp& mlp, const Sizes& sizes) {
  int64_t work = 0;
  for (const Tensor& weight : mlp.hidden_weights()) work += sizes.rows() * weight.size(0) * weight.size(1);
  return work;
}

Tensor last_hidden(const Tensor& hidden, const Mlp& mlp) {
  const int64_t width = mlp.weights.back().size(1);
  return hidden.narrow(1, hidden.size(1) - width, width);
}

Tensor hidden_layers(const Mlp& mlp, const Sizes& sizes, bool save) {
  const TensorList weights = mlp.weights;
  const int64_t width = mlp.hidden_width(), work = hidden_work(mlp, sizes);
  const bool small = is_simple(mlp.activation) && work <= kSmallNetwork && has_tile_kernels(weights[0].scalar_type());
  const Tensor result = empty_pooled({sizes.rows(), save || small ? width : weights.back().size(1)}, weights[0].options());
  if (small) {
    with_tile_type(result.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      small_hidden<T>(mlp, sizes, result.mutable_data_ptr<T>(), width);
    });
    return result;
  }
  if (suits_tiles(mlp)) {
    with_tile_type(result.scalar_type(), [&](auto zero) { tiled_hidden<decltype(zero)>(mlp, sizes, result, save); });
  } else {
    blocked_hidden(mlp, sizes, result, save);
  }
  return result;
}

}  // namespace hnetfast
