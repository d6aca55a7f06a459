#include "mlp/output_tiles.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>

#include "common/buffer_pool.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "tiles/tile_kernels.h"
#include "tiles/tile_types.h"

namespace hnetfast {
namespace {

constexpr int64_t kTileBytes = 256 << 10;       // of packed panels of W: they stay in the second-level cache
constexpr int64_t kFewRows = 96;                // whose places in the result the processor keeps track of by itself
constexpr int64_t kGradTileBytes = 1024 << 10;  // of a tile of the output gradient
constexpr int64_t kMaxTileColumns = 480;
constexpr int64_t kRowBlocks = 4;          // register blocks of rows between two writes of the result
constexpr int64_t kCacheBytes = 24 << 20;  // larger results are assembled in tiles before they are written
constexpr int64_t kStreamBytes = 4 << 20;  // larger results are written past the caches

template <typename T>
void pack_columns(const TileKernels<T>& kernels, const OutputLayer<T>& layer, const std::vector<Columns>& columns, int64_t j0,
                  int64_t count, int64_t pitch, T* tile) {
  const T* end = layer.weight.row(layer.weight.rows);
  for (const Columns& run : columns) {
    kernels.pack_transposed(tile, pitch, layer.weight.row(j0), end, layer.weight.stride, count, run);
  }
}

// Rows of W, columns gathered and padded with zeros: [count, pitch].
template <typename T>
void pack_rows(const OutputLayer<T>& layer, const std::vector<Columns>& columns, int64_t j0, int64_t count, int64_t pitch,
               T* tile) {
  std::fill(tile, tile + count * pitch, T(0));
  for (int64_t j = 0; j < count; ++j) {
    for (const Columns& run : columns) {
      std::memcpy(tile + j * pitch + run.to, layer.weight.row(j0 + j) + run.from, run.width * sizeof(T));
    }
  }
}

// Calls run(column of the tile, element of a condition's outputs, count) for what columns [j0, j0 + count) of a row give.
template <typename T, typename F>
void for_each_run(const OutputLayer<T>& layer, int64_t r, int64_t j0, int64_t count, int64_t first_piece, const F& run) {
  if (!layer.pieces) {
    const int64_t valid = std::min(count, layer.width[r] - j0);
    if (valid > 0) run(0, layer.offset[r] + j0, valid);
    return;
  }
  for (int64_t s = first_piece; s < layer.pieces && layer.bounds[s] < j0 + count; ++s) {
    if (layer.places[r][s] < 0) continue;
    const int64_t begin = std::max(layer.bounds[s], j0), end = std::min(layer.bounds[s + 1], j0 + count);
    run(begin - j0, layer.offset[r] + layer.places[r][s] + begin - layer.bounds[s], end - begin);
  }
}

// The piece that column j belongs to.
template <typename T>
int64_t piece_of(const OutputLayer<T>& layer, int64_t j) {
  if (!layer.pieces) return 0;
  return std::upper_bound(layer.bounds, layer.bounds + layer.pieces, j) - layer.bounds - 1;
}

// Where a condition's share is added to that of the chunks, it is added last, be there one condition or several: the
// bits of a condition's outputs do not depend on what else is computed.

// One condition: the products go straight to their place, a panel of columns at a time. Some neighbouring panels
// are packed together, so that what is written to a row lies together too.
template <typename T>
void forward_panels(const OutputLayer<T>& layer, T* out) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t unit = kernels.block_columns, inputs = layer.x.cols + layer.y.cols;
  const int64_t all = (layer.weight.rows + unit - 1) / unit;
  const int64_t fitting = kTileBytes / static_cast<int64_t>(sizeof(T)) / unit / std::max<int64_t>(inputs, 1);
  const int64_t wanted = layer.x.rows <= kFewRows ? 1 : std::min(fitting, all / 8);
  const int64_t panels = std::clamp<int64_t>(wanted, 1, kMaxTileColumns / unit);
  const int64_t tiles = (all + panels - 1) / panels, groups = row_groups(tiles, layer.x.rows, kernels);
  const int64_t group_rows = round_up((layer.x.rows + groups - 1) / groups, kernels.block_rows);
  const int64_t work = layer.x.rows * layer.weight.rows * (layer.x.cols + 1);

  // Neighbouring tasks are neighbouring tiles of the same rows.
  parallel(tiles * groups, work, [&](int64_t begin, int64_t end) {
    const int64_t panel_size = (inputs + 1) * unit;
    T* memory = scratch<T>(panels * panel_size);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % tiles * panels, row0 = task / tiles * group_rows;
      const int64_t last = std::min(first + panels, all), row_end = std::min(layer.x.rows, row0 + group_rows);
      for (int64_t p = first; p < last; ++p) {
        const int64_t j0 = p * unit, count = std::min(unit, layer.weight.rows - j0);
        T* w_x = memory + (p - first) * panel_size;
        T *w_y = w_x + layer.x.cols * unit, *start = w_y + layer.y.cols * unit;
        pack_columns(kernels, layer, layer.x_columns, j0, count, unit, w_x);
        pack_columns(kernels, layer, layer.y_columns, j0, count, unit, w_y);
        std::fill(start, start + unit, T(0));
        if (layer.bias) std::copy(layer.bias + j0, layer.bias + j0 + count, start);
        kernels.gemm(layer.y.some_rows(0, 1), {w_y, layer.y.cols, unit, unit}, {start, 1, unit, unit}, start, false);
      }
      const int64_t block = panels > 1 ? kernels.block_rows : row_end - row0;
      for (int64_t r0 = row0; r0 < row_end; r0 += block) {
        for (int64_t p = first; p < last; ++p) {
          const T* w_x = memory + (p - first) * panel_size;
          kernels.gemm_scatter(layer.x.some_rows(r0, std::min(block, row_end - r0)), w_x, w_x + inputs * unit,
                               layer.y.data != nullptr,
                               {out + p * unit, layer.offset.data() + r0, layer.width.data() + r0, p * unit});
        }
      }
    }
  });
}

// Several conditions, or a result larger than the caches: tiles of the chunks' share stay in the cache while they are
// written once for each condition, with that condition's share added.
template <typename T>
void forward_sums(const OutputLayer<T>& layer, T* out) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t unit = kernels.block_columns, inputs = layer.x.cols + layer.y.cols;
  const int64_t columns = std::min(kMaxTileColumns, round_up((layer.weight.rows + 3) / 4, unit));
  const int64_t tiles = (layer.weight.rows + columns - 1) / columns, groups = row_groups(tiles, layer.x.rows, kernels);
  const int64_t group_rows = round_up((layer.x.rows + groups - 1) / groups, kernels.block_rows);
  const int64_t block = kRowBlocks * kernels.block_rows;
  const bool stream = layer.conditions * layer.out_stride * static_cast<int64_t>(sizeof(T)) > kStreamBytes;
  const int64_t work = layer.x.rows * layer.weight.rows * (inputs + layer.conditions);

  parallel(tiles * groups, work, [&](int64_t begin, int64_t end) {
    T* memory = scratch<T>((inputs + 1 + layer.conditions + block) * columns);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t j0 = task % tiles * columns, row0 = task / tiles * group_rows;
      const int64_t row_end = std::min(layer.x.rows, row0 + group_rows);
      const int64_t count = std::min(columns, layer.weight.rows - j0), pitch = round_up(count, kernels.lanes);
      const int64_t piece = piece_of(layer, j0);
      T *w_x = memory, *w_y = w_x + layer.x.cols * pitch, *bias = w_y + layer.y.cols * pitch;
      T *common = bias + pitch, *result = common + layer.conditions * pitch;

      std::fill(bias, bias + pitch, T(0));
      if (layer.bias) std::copy(layer.bias + j0, layer.bias + j0 + count, bias);
      pack_columns(kernels, layer, layer.x_columns, j0, count, pitch, w_x);
      pack_columns(kernels, layer, layer.y_columns, j0, count, pitch, w_y);
      kernels.gemm(layer.y, {w_y, layer.y.cols, pitch, pitch}, {common, layer.conditions, pitch, pitch}, bias, false);
      const T* start = layer.y.data ? nullptr : common;  // where the sums start, instead of adding it later
      for (int64_t r0 = row0; r0 < row_end; r0 += block) {
        const int64_t height = std::min(block, row_end - r0);
        const MatrixView<const T> x = layer.x.some_rows(r0, height);
        kernels.gemm(x, {w_x, layer.x.cols, pitch, pitch}, {result, height, pitch, pitch}, start, false);
        for (int64_t q = 0; q < layer.conditions; ++q) {
          for (int64_t r = 0; r < height; ++r) {
            for_each_run(layer, r0 + r, j0, count, piece, [&](int64_t column, int64_t place, int64_t run) {
              kernels.write_sum(out + q * layer.out_stride + place, result + r * pitch + column,
                                start ? nullptr : common + q * pitch + column, run, stream);
            });
          }
        }
      }
    }
    if (stream) kernels.fence();
  });
}

// Columns [j0, j0 + count) of the output gradient: g_x[r] = Σ_q grad[q, r], g_y[q] = Σ_r grad[q, r] and their total, one after
// the other from `sums` on, all from one reading of the gradient.
template <typename T>
void sum_gradient(const OutputLayer<T>& layer, const T* grad, int64_t j0, int64_t count, T* sums) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t pitch = round_up(count, kernels.lanes), piece = piece_of(layer, j0);
  T *g_x = sums, *g_y = g_x + layer.x.rows * pitch, *total = g_y + layer.conditions * pitch;
  std::fill(g_x, total + pitch, T(0));
  for (int64_t q = 0; q < layer.conditions; ++q) {
    for (int64_t r = 0; r < layer.x.rows; ++r) {
      for_each_run(layer, r, j0, count, piece, [&](int64_t column, int64_t place, int64_t run) {
        const T* from = grad + q * layer.out_stride + place;
        if (q == 0) {
          std::memcpy(g_x + r * pitch + column, from, run * sizeof(T));
        } else {
          kernels.add(g_x + r * pitch + column, from, run);
        }
        kernels.add(g_y + q * pitch + column, from, run);
      });
    }
    kernels.add(total, g_y + q * pitch, count);
  }
}

// sum[r, k] += Σ_j g[r, j] W[j0 + j, columns(k)], from a tile of the gradient; rows of `sum` are padded to vectors, as those of
// g are. w is memory for the tile's part of W.
template <typename T>
void add_input_grads(const OutputLayer<T>& layer, const std::vector<Columns>& columns, int64_t j0, MatrixView<const T> g, T* w,
                     MatrixView<T> sum) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t width = sum.cols, count = g.cols, pitch = g.stride;
  if (width == 0) return;
  if (width < kernels.lanes) {  // padding would be most of a product
    pack_columns(kernels, layer, columns, j0, count, pitch, w);
    kernels.add_dots({g.data, g.rows, pitch, pitch}, {w, width, pitch, pitch}, sum);
    return;
  }
  pack_rows(layer, columns, j0, count, sum.stride, w);
  kernels.gemm(g, {w, count, sum.stride, sum.stride}, sum, nullptr, true);
}

}  // namespace

template <typename T>
void output_layer_forward(const OutputLayer<T>& layer, T* out) {
  const int64_t bytes = layer.conditions * layer.out_stride * static_cast<int64_t>(sizeof(T));
  if (layer.conditions == 1 && bytes <= kCacheBytes && !layer.pieces) {
    forward_panels(layer, out);
  } else {
    forward_sums(layer, out);
  }
}

template <typename T>
void output_layer_backward(const OutputLayer<T>& layer, const T* grad, T* grad_weight, T* grad_bias, T* grad_x, T* grad_y) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t unit = kernels.block_columns, q_count = layer.conditions;
  const int64_t x_pitch = round_up(layer.x.cols, kernels.lanes), y_pitch = round_up(layer.y.cols, kernels.lanes);
  const int64_t height = layer.x.rows + q_count + 2 * (layer.x.cols + layer.y.cols) + x_pitch + y_pitch;
  const int64_t fitting = kGradTileBytes / static_cast<int64_t>(sizeof(T)) / height;
  const int64_t most = std::min(kMaxTileColumns, std::max(fitting / unit, int64_t(1)) * unit);
  // Of few tiles a number that threads can share evenly.
  const int64_t wanted = round_up(ceil_div(layer.weight.rows, most), kShares);
  const int64_t columns = wanted < kSlabs ? round_up(ceil_div(layer.weight.rows, wanted), kernels.lanes) : most;
  const int64_t tiles = ceil_div(layer.weight.rows, columns), slabs = std::min(tiles, kSlabs);
  const int64_t work = layer.x.rows * layer.weight.rows * 2 * (layer.x.cols + layer.y.cols + q_count);

  std::vector<Columns> all_columns = layer.x_columns;
  for (const Columns& run : layer.y_columns) all_columns.push_back({run.from, run.to + layer.x.cols, run.width});

  const bool stream = layer.weight.rows * layer.weight.stride * static_cast<int64_t>(sizeof(T)) > kStreamBytes;
  const int64_t x_size = grad_x ? layer.x.rows * x_pitch : 0, y_size = grad_y ? q_count * y_pitch : 0;
  const int64_t slab_size = x_size + y_size;
  const at::Tensor partial = empty_pooled({slabs * slab_size}, c10::CppTypeToScalarType<T>::value);
  T* const sums = partial.mutable_data_ptr<T>();

  parallel(slabs, work, [&](int64_t begin, int64_t end) {
    T* memory = scratch<T>((layer.x.rows + q_count + 1 + layer.x.cols + layer.y.cols + x_pitch + y_pitch) * columns);
    for (int64_t slab = begin; slab < end; ++slab) {
      T *sum_x = sums + slab * slab_size, *sum_y = sum_x + x_size;
      std::fill(sum_x, sum_x + slab_size, T(0));
      for (int64_t tile = slab * tiles / slabs; tile < (slab + 1) * tiles / slabs; ++tile) {
        const int64_t j0 = tile * columns, count = std::min(columns, layer.weight.rows - j0);
        const int64_t pitch = round_up(count, kernels.lanes);
        T *g_x = memory, *g_y = g_x + layer.x.rows * pitch, *total = g_y + q_count * pitch;
        T *dw = total + pitch, *w_rows = dw + (layer.x.cols + layer.y.cols) * pitch;
        sum_gradient(layer, grad, j0, count, g_x);
        if (grad_bias) std::copy(total, total + count, grad_bias + j0);
        if (grad_weight) {
          T *dw_y = dw + layer.x.cols * pitch, *rows = grad_weight + j0 * layer.weight.stride, *target = stream ? w_rows : rows;
          kernels.gemm(layer.x.t(), {g_x, layer.x.rows, pitch, pitch}, {dw, layer.x.cols, pitch, pitch}, nullptr, false);
          kernels.gemm(layer.y.t(), {g_y, q_count, pitch, pitch}, {dw_y, layer.y.cols, pitch, pitch}, nullptr, false);
          kernels.unpack_transposed(dw, pitch, target, layer.weight.stride, count, all_columns.data(), all_columns.size());
          if (stream) kernels.write_sum(rows, target, nullptr, count * layer.weight.stride, true);
        }
        const MatrixView<T> to_x{sum_x, layer.x.rows, layer.x.cols, x_pitch}, to_y{sum_y, q_count, layer.y.cols, y_pitch};
        if (grad_x) add_input_grads<T>(layer, layer.x_columns, j0, {g_x, layer.x.rows, count, pitch}, w_rows, to_x);
        if (grad_y) add_input_grads<T>(layer, layer.y_columns, j0, {g_y, q_count, count, pitch}, w_rows, to_y);
      }
    }
    if (stream) kernels.fence();
  });

  const auto reduce = [&](T* target, int64_t rows, int64_t width, int64_t pitch, int64_t start) {
    parallel(rows, slabs * rows * width, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        T* row = target + r * width;
        std::fill(row, row + width, T(0));
        for (int64_t slab = 0; slab < slabs; ++slab) kernels.add(row, sums + slab * slab_size + start + r * pitch, width);
      }
    });
  };
  if (grad_x) reduce(grad_x, layer.x.rows, layer.x.cols, x_pitch, 0);
  if (grad_y) reduce(grad_y, q_count, layer.y.cols, y_pitch, x_size);
}

template void output_layer_forward<float>(const OutputLayer<float>&, float*);
template void output_layer_forward<double>(const OutputLayer<double>&, double*);
template void output_layer_backward<float>(const OutputLayer<float>&, const float*, float*, float*, float*, float*);
template void output_layer_backward<double>(const OutputLayer<double>&, const double*, double*, double*, double*, double*);

}  // namespace hnetfast
