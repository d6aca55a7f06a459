// Which tensors tile kernels are for, and how their work is cut.
#pragma once

#include <c10/core/ScalarType.h>

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

// Groups of rows where there are too few tiles of columns to share out.
template <typename T>
int64_t row_groups(int64_t tiles, int64_t rows, const TileKernels<T>& kernels) {
  const int64_t most = std::max<int64_t>(ceil_div(rows, kernels.block_rows), 1);
  return std::clamp<int64_t>(8 / std::max<int64_t>(tiles, 1), 1, most);
}

}  // namespace hnetfast
