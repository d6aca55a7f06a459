// Which tensors tile kernels are for, and how their work is cut.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <numeric>

#include "common/rounding.h"
#include "tiles/tile_kernels.h"

namespace hnetfast {

inline bool has_tile_kernels(at::ScalarType type) { return type == at::kFloat || type == at::kDouble; }

// Calls run(T()) for a type that has tile kernels.
template <typename F>
void with_tile_type(at::ScalarType type, const F& run) {
  if (type == at::kFloat) {
    run(float());
  } else {
    run(double());
  }
}

template <typename T>
MatrixView<const T> view_of(const at::Tensor& matrix) {
  return {matrix.const_data_ptr<T>(), matrix.size(0), matrix.size(1), matrix.stride(0), matrix.stride(1)};
}

template <typename T>
MatrixView<T> mutable_view_of(const at::Tensor& matrix) {
  return {matrix.mutable_data_ptr<T>(), matrix.size(0), matrix.size(1), matrix.stride(0), matrix.stride(1)};
}

constexpr int64_t kShares = 4;  // equal ones, of few tasks, that there should be for threads

// Groups of rows where there are too few tiles of columns to share out, or a number that is not to be shared evenly. Each
// group packs its tiles, which many rows pay for.
template <typename T>
int64_t row_groups(int64_t tiles, int64_t rows, const TileKernels<T>& kernels) {
  constexpr int64_t kManyRows = 64;
  const int64_t most = std::max<int64_t>(ceil_div(rows, kernels.block_rows), 1), count = std::max<int64_t>(tiles, 1);
  const int64_t even = count < 4 * kShares ? kShares / std::gcd(count, kShares) : 1;
  return std::clamp<int64_t>(std::max(8 / count, rows >= even * kManyRows ? even : 1), 1, most);
}

}  // namespace hnetfast
