// Products of matrices of any width, and how those of many matrices are shared out.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "common/parallel.h"
#include "common/rounding.h"
#include "tiles/tile_kernels.h"

namespace hnetfast {

// Elements of memory that `multiply` needs for the columns beyond whole vectors.
template <typename T>
int64_t spare_of(int64_t rows, int64_t depth) {
  return (rows + depth) * tile_kernels<T>().lanes;
}

// c (+)= a·b, rows of b and c contiguous.
template <typename T>
void multiply(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c, bool accumulate, T* spare) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t M = a.rows, N = b.cols, P = a.cols, whole = N / kernels.lanes * kernels.lanes, rest = N - whole;
  if (whole) kernels.gemm(a, {b.data, P, whole, b.stride}, {c.data, M, whole, c.stride}, nullptr, accumulate);
  if (!rest) return;
  T *panel = spare, *edge = panel + P * kernels.lanes;
  for (int64_t p = 0; p < P; ++p) {
    T* row = panel + p * kernels.lanes;
    std::fill(std::copy(b.row(p) + whole, b.row(p) + N, row), row + kernels.lanes, T(0));
  }
  kernels.gemm(a, {panel, P, kernels.lanes, kernels.lanes}, {edge, M, kernels.lanes, kernels.lanes}, nullptr, false);
  for (int64_t m = 0; m < M; ++m) {
    T* to = c.row(m) + whole;
    for (int64_t n = 0; n < rest; ++n) to[n] = edge[m * kernels.lanes + n] + (accumulate ? to[n] : T(0));
  }
}

// Runs run(set, first, last) on parts [first, last) of `size` for every set.
template <typename F>
void for_each_part(int64_t sets, int64_t size, int64_t work, const F& run) {
  constexpr int64_t kTasks = 16, kUnit = 16;  // fixed: parts do not depend on the number of threads
  const int64_t most = std::max<int64_t>(size / kUnit, 1);
  const int64_t parts = std::clamp<int64_t>(kTasks / std::max<int64_t>(sets, 1), 1, most);
  const int64_t width = round_up(ceil_div(size, parts), kUnit);
  parallel(sets * parts, work, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % parts * width, last = std::min(size, first + width);
      if (first < last) run(task / parts, first, last);
    }
  });
}

// Contiguous in the last dimension, and with rows that do not overlap.
inline at::Tensor by_rows(const at::Tensor& tensor) {
  const at::Tensor t = tensor.resolve_neg();
  return t.stride(-1) == 1 && t.stride(-2) >= t.size(-1) ? t : t.contiguous();
}

}  // namespace hnetfast
