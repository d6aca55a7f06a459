// Small dense kernels on tiles that fit the caches, compiled for several instruction sets and chosen at run time.
#pragma once

#include <cstdint>

namespace hnetfast {

// A run of matrix columns: `width` columns from `from` on in one place are `width` columns from `to` on in the other.
struct Columns {
  int64_t from, to, width;
};

// Terms of a sum that are added up one by one. Longer sums add up sums of as many terms: their rounding errors grow less.
constexpr int64_t kSumDepth = 192;

template <typename T>
struct TileKernels {
  const char* name;
  int64_t lanes;  // elements of a vector: tile pitches and padded widths are multiples of it
  int64_t block_rows, block_columns;  // what one register block covers

  // C[m, n] (+)= bias[n] + Σ_p A[m·am + p·ap] B[p·ldb + n] for n < N, a multiple of `lanes`. Sums start with the bias, of
  // which there may be none, and which does not count where they `accumulate`; to C they are added in the end.
  void (*gemm)(int64_t M, int64_t N, int64_t P, const T* A, int64_t am, int64_t ap, const T* B, int64_t ldb, T* C,
               int64_t ldc, const T* bias, bool accumulate);
  // out[offset[m] + n] = bias[n] + Σ_p A[m·lda + p] panel[p·block_columns + n] for n < min(width[m] − start,
  // block_columns): one panel of columns, every row to its own place. The sum starts with the bias, or ends with it.
  void (*gemm_scatter)(int64_t M, int64_t P, const T* A, int64_t lda, const T* panel, const T* bias, bool bias_last,
                       T* out, const int64_t* offset, const int64_t* width, int64_t start);
  // c[n] = bias[n] (or 0) + Σ_p a[p] B[n·ldb + p] for n < N, or c[n] += that where `add`; terms in the order of `gemm`.
  void (*dot_rows)(int64_t N, int64_t P, const T* a, const T* B, int64_t ldb, T* c, const T* bias, bool add);
  // tile[to + k, j] = matrix[j·ld + from + k] for j < rows; 0 up to the pitch. `end` bounds what may be read.
  void (*pack_transposed)(T* tile, int64_t pitch, const T* matrix, const T* end, int64_t ld, int64_t rows, Columns columns);
  // matrix[j·ld + from + k] = tile[to + k, j] for all of `count` runs of columns, its inverse.
  void (*unpack_transposed)(const T* tile, int64_t pitch, T* matrix, int64_t ld, int64_t rows, const Columns* runs,
                            int64_t count);
  // C[m·ldc + n] += Σ_p A[m·lda + p] B[n·ldb + p] for p < P, a multiple of `lanes`.
  void (*add_dots)(int64_t M, int64_t N, int64_t P, const T* A, int64_t lda, const T* B, int64_t ldb, T* C, int64_t ldc);
  // C[c_row[m] + n] (+)= Σ_k A[a_row[m] + k·ak] B[b_row[k] + n] for m < M, k < K and n < N, a multiple of `lanes`:
  // a product of matrices whose rows are anywhere.
  void (*multiply_rows)(int64_t M, int64_t N, int64_t K, const T* A, const int64_t* a_row, int64_t ak, const T* B,
                        const int64_t* b_row, T* C, const int64_t* c_row, bool accumulate);
  // C[i·ci + j·cj + p] (+)= Σ_k A[i·ai + k·ak + p] B[j·bj + k·bk + p] for p < P: a product of matrices for every p. Rows of
  // P, at least `lanes`, are taken by vectors, of which the last ends at P. A lies like that, or, where `into_place`, C;
  // rows of the others hold those vectors one after the other.
  void (*multiply_positions)(int64_t I, int64_t J, int64_t K, int64_t P, const T* A, int64_t ai, int64_t ak, const T* B,
                             int64_t bj, int64_t bk, T* C, int64_t ci, int64_t cj, bool accumulate, bool into_place);
  // out[i] = a[i] (+ b[i]), past the caches where `stream`.
  void (*write_sum)(T* out, const T* a, const T* b, int64_t count, bool stream);
  // sum[i] += a[i]
  void (*add)(T* sum, const T* a, int64_t count);
  // to[i] = from[i] / 255, correctly rounded.
  void (*bytes_to_unit)(T* to, const uint8_t* from, int64_t count);
  // to[i] = max(from[i], 0), and NaN where that is.
  void (*relu)(T* to, const T* from, int64_t count);
  // grad[i] = 0 where h[i], a result of relu, is 0.
  void (*relu_backward)(T* grad, const T* h, int64_t count);
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
