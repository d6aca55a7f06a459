// A matrix in memory that somebody else owns.
#pragma once

#include <cstdint>

namespace hnetfast {

template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0, cols = 0;
  int64_t stride = 0;  // elements from a row to the next,
  int64_t step = 1;    // and from a column to the next

  T* row(int64_t r) const { return data + r * stride; }
  MatrixView t() const { return {data, cols, rows, step, stride}; }
  // `count` rows from `first` on.
  MatrixView some_rows(int64_t first, int64_t count) const { return {row(first), count, cols, stride, step}; }
};

}  // namespace hnetfast
