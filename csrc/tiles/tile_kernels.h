// Small dense kernels on tiles that fit the caches, compiled for several instruction sets and chosen at run time.
#pragma once

#include <cstdint>

#include "common/matrix_view.h"

namespace hnetfast {

// A run of matrix columns: `width` columns from `from` on in one place are `width` columns from `to` on in the other.
struct Columns {
  int64_t from, to, width;
};

// Where rows go: row m to data[offset[m]] and on, its columns from `start` up to width[m].
template <typename T>
struct Places {
  T* data;
  const int64_t *offset, *width;
  int64_t start;
};

// Rows that are anywhere: row m begins at data[offset[m]], its elements are `step` apart.
template <typename T>
struct RowsAt {
  T* data;
  const int64_t* offset;
  int64_t step = 1;
};

// Terms of a sum that are added up one by one. Longer sums add up sums of as many terms: their rounding errors grow less.
constexpr int64_t kSumDepth = 192;

// Views come by reference: a copy on the stack would wait for what has just been written there.
template <typename T>
struct TileKernels {
  const char* name;
  int64_t lanes;                      // elements of a vector: tile pitches and padded widths are multiples of it
  int64_t block_rows, block_columns;  // what one register block covers

  // c (+)= bias + a·b, c of whole vectors in width, rows of b and c contiguous. Sums start with the bias, of which there may
  // be none, and which does not count where they `accumulate`; to c they are added in the end.
  void (*gemm)(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c, const T* bias,
               bool accumulate);
  // to.data[offset[m] + n] = bias[n] + Σ_p a[m, p] panel[p·block_columns + n] for n < min(width[m] − start, block_columns): one
  // panel of columns, every row to its own place. The sum starts with the bias, or ends with it.
  void (*gemm_scatter)(const MatrixView<const T>& a, const T* panel, const T* bias, bool bias_last, const Places<T>& to);
  // c[m, n] = bias[n] (or 0) + Σ_p a[m, p] b[n, p], or c[m, n] += that where `add`, all of contiguous rows; terms in the order
  // of `gemm`.
  void (*dot_rows)(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c, const T* bias, bool add);
  // tile[to + k, j] = matrix[j·ld + from + k] for j < rows; 0 up to the pitch. `end` bounds what may be read.
  void (*pack_transposed)(T* tile, int64_t pitch, const T* matrix, const T* end, int64_t ld, int64_t rows, Columns columns);
  // matrix[j·ld + from + k] = tile[to + k, j] for all of `count` runs of columns, its inverse.
  void (*unpack_transposed)(const T* tile, int64_t pitch, T* matrix, int64_t ld, int64_t rows, const Columns* runs,
                            int64_t count);
  // c[m, n] += Σ_p a[m, p] b[n, p], all of contiguous rows, those of a and b of whole vectors.
  void (*add_dots)(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c);
  // c = a·b for 1 to 3 terms, rows of b and c contiguous, in the order of `gemm`.
  void (*outer)(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c);
  // c[n] (+)= Σ_p (B[n, p] − before[n, p]) a[p] + before[n, p] change[p] + (bias[n] − bias_before[n]) for n < N and p < P, rows
  // of both ldb apart; there may be no bias.
  void (*changed_dots)(int64_t N, int64_t P, const T* a, const T* change, const T* B, const T* before, int64_t ldb, T* c,
                       const T* bias, const T* bias_before, bool add);
  // c[m, n] (+)= Σ_k a[m, k] b[k, n] for m < M, k < K and n < N, a multiple of `lanes`: a product of matrices whose rows are
  // anywhere, those of b and c contiguous.
  void (*multiply_rows)(int64_t M, int64_t N, int64_t K, const RowsAt<const T>& a, const RowsAt<const T>& b, const RowsAt<T>& c,
                        bool accumulate);
  // c[i, j] (+)= Σ_k a[i, k] b[j, k] for every p < P: elements of these matrices are vectors of P, at least `lanes`, taken by
  // vectors of which the last ends at P. a lies like that, or, where `into_place`, c; the others hold those vectors one after
  // the other.
  void (*multiply_positions)(int64_t P, const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c,
                             bool accumulate, bool into_place);
  // out[i] = a[i] (+ b[i]), past the caches where `stream`.
  void (*write_sum)(T* out, const T* a, const T* b, int64_t count, bool stream);
  // sum[i] += a[i]
  void (*add)(T* sum, const T* a, int64_t count);
  // to[i] *= by[i]
  void (*multiply)(T* to, const T* by, int64_t count);
  // to[i] = from[i] / 255, correctly rounded.
  void (*bytes_to_unit)(T* to, const uint8_t* from, int64_t count);
  // to[i] = max(from[i], 0), and NaN where that is.
  void (*relu)(T* to, const T* from, int64_t count);
  // grad[i] = 0 where h[i], a result of relu, is 0.
  void (*relu_backward)(T* grad, const T* h, int64_t count);
  // to[i] = sin(omega (from[i] + shift)) and, unless that is null, slopes[i] = omega cos(omega (from[i] + shift)), for whole
  // vectors, elsewhere than `from`.
  void (*sine)(T* to, T* slopes, const T* from, T shift, T omega, int64_t count);
  // Result of relu (or as it is, if not `relu`) for after[i], and by how much it differs from that for after[i] − delta[i]:
  // delta[i] where relu changes neither.
  void (*change)(T* now, T* change, const T* after, const T* delta, int64_t count, bool relu);
  // Ends a sequence of streaming writes.
  void (*fence)();
};

// The best that this processor runs.
template <typename T>
const TileKernels<T>& tile_kernels();

}  // namespace hnetfast
