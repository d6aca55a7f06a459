// The last layer of a chunked MLP on the CPU: matrix product, bias and placement in one pass over the result.
#pragma once

#include <cstdint>
#include <vector>

#include "tiles/tile_kernels.h"

namespace hnetfast {

// out[q, r, j] = Σ_k x[r, k] W[j, xc(k)] + Σ_l y[q, l] W[j, yc(l)] + bias[j]   for j < width[r],
// stored at q·out_stride + offset[r] + j. Rows are chunks and conditions are conditions where the first layer is
// also the last; after hidden layers a row is a pair of both, and there is one condition without an input. With pieces
// columns bounds[s] to bounds[s + 1] of row r are stored at q·out_stride + offset[r] + places[r][s] instead, nowhere if
// that place is negative, and there are no widths.
template <typename T>
struct OutputLayer {
  int64_t conditions, out_stride;
  std::vector<int64_t> offset, width;  // [rows]
  int64_t pieces = 0;
  const int64_t* bounds = nullptr;            // [pieces + 1]
  std::vector<const int64_t*> places;         // [rows], to [pieces]
  MatrixView<const T> x;                      // [rows, k]
  MatrixView<const T> y;                      // [conditions, l], or no data where conditions have no input
  std::vector<Columns> x_columns, y_columns;  // from: column of W, to: column of x or y
  MatrixView<const T> weight;                 // [chunk_size, all columns]
  const T* bias;                              // [chunk_size] or null
};

template <typename T>
void output_layer_forward(const OutputLayer<T>& layer, T* out);

// Partial sums of the input gradient that the backward pass holds at once: fixed, so that threads do not matter.
constexpr int64_t kSlabs = 16;

// Null pointers stand for gradients that nobody needs. The result does not depend on the number of threads.
template <typename T>
void output_layer_backward(const OutputLayer<T>& layer, const T* grad, T* grad_weight, T* grad_bias, T* grad_x, T* grad_y);

}  // namespace hnetfast
