// Which tensors tile kernels are for, and how their work is cut.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>

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

// Groups of rows where there are too few tiles of columns to share out.
template <typename T>
int64_t row_groups(int64_t tiles, int64_t rows, const TileKernels<T>& kernels) {
  const int64_t most = std::max<int64_t>(ceil_div(rows, kernels.block_rows), 1);
  return std::clamp<int64_t>(8 / std::max<int64_t>(tiles, 1), 1, most);
}

}  // namespace hnetfast
