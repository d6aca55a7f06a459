#include "mlp/product.h"

#include <ATen/ATen.h>

#include <memory>

#include "common/buffer_pool.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "tiles/tile_kernels.h"
#include "tiles/tile_types.h"

namespace hnetfast {
namespace {

using at::Tensor;

constexpr int64_t kDepth = 5 * kSumDepth;  // terms of the sums for which a matrix is packed at a time
constexpr int64_t kPanels = 4;             // of columns packed together: with kDepth, a part of the second-level cache
constexpr int64_t kRows = 512;             // of a result that one library call computes
constexpr int64_t kThin = 3;               // so many rows, or terms, at most are not worth packing a matrix for
constexpr int64_t kPart = 192;             // rows or columns of a product of thin matrices that a task computes
constexpr int64_t kReading = 4;            // multiply-adds that take as long as reading an element that is used once

// [depth, count] with rows `ld` apart to [depth, unit], padded with zeros.
template <typename T>
void copy_panel(const T* from, int64_t ld, int64_t depth, int64_t count, T* panel, int64_t unit) {
  for (int64_t t = 0; t < depth; ++t) {
    T* row = panel + t * unit;
    std::fill(std::copy(from + t * ld, from + t * ld + count, row), row + unit, T(0));
  }
}

// Columns [j0, j0 + count) of rows [p0, p0 + depth) of b to a panel [depth, unit], padded with zeros.
template <typename T>
void pack_panel(MatrixView<const T> b, int64_t p0, int64_t depth, int64_t j0, int64_t count, T* panel) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t unit = kernels.block_columns;
  if (b.step == 1) {
    copy_panel(b.row(p0) + j0, b.stride, depth, count, panel, unit);
  } else {  // the transpose has contiguous rows
    const MatrixView<const T> t = b.t();
    kernels.pack_transposed(panel, unit, t.row(j0), t.row(t.rows - 1) + t.cols, t.stride, count, {p0, 0, depth});
  }
}

// c = a·b for at most kSumDepth terms, by the matrices as they lie, rows of b contiguous. What is beyond whole vectors is
// packed.
template <typename T>
void unpacked_product(MatrixView<const T> a, MatrixView<const T> b, MatrixView<T> c, const T* bias, bool accumulate) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t lanes = kernels.lanes, M = a.rows, P = a.cols, N = b.cols, whole = N / lanes * lanes, rest = N - whole;
  if (whole) kernels.gemm(a, {b.data, P, whole, b.stride}, {c.data, M, whole, c.stride}, bias, accumulate);
  if (!rest) return;
  T *panel = scratch<T>((P + M + 1) * lanes), *result = panel + P * lanes, *start = result + M * lanes;
  copy_panel(b.data + whole, b.stride, P, rest, panel, lanes);
  std::fill(start, start + lanes, T(0));
  if (bias) std::copy(bias + whole, bias + N, start);
  for (int64_t m = 0; m < M && accumulate; ++m) std::copy(c.row(m) + whole, c.row(m) + N, result + m * lanes);
  kernels.gemm(a, {panel, P, lanes, lanes}, {result, M, lanes, lanes}, start, accumulate);
  for (int64_t m = 0; m < M; ++m) std::copy(result + m * lanes, result + m * lanes + rest, c.row(m) + whole);
}

// The same for any number of terms and few rows: the sums of which a long one is made are shared out among threads.
template <typename T>
void long_product(MatrixView<const T> a, MatrixView<const T> b, MatrixView<T> c, const T* bias, bool accumulate) {
  const int64_t M = a.rows, N = b.cols, blocks = ceil_div(a.cols, kSumDepth);
  const std::unique_ptr<T[]> sums(new T[blocks * M * N]);
  parallel(blocks, kReading * N * a.cols, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t p = i * kSumDepth, depth = std::min(kSumDepth, a.cols - p);
      const MatrixView<const T> left{a.data + p * a.step, M, depth, a.stride, a.step};
      const bool with_bias = bias && i == 0 && !accumulate;
      unpacked_product(left, b.some_rows(p, depth), {sums.get() + i * M * N, M, N, N}, with_bias ? bias : nullptr, false);
    }
  });
  for (int64_t i = 0; i < blocks; ++i) {
    for (int64_t m = 0; m < M; ++m) {
      const T* const from = sums.get() + (i * M + m) * N;
      if (i == 0 && !accumulate) {
        std::copy(from, from + N, c.row(m));
      } else {
        tile_kernels<T>().add(c.row(m), from, N);
      }
    }
  }
}

// c = a·b where there are few rows, or terms.
template <typename T>
void thin_product(MatrixView<const T> a, MatrixView<const T> b, MatrixView<T> c, const T* bias, bool accumulate) {
  const int64_t M = a.rows, N = b.cols;
  if (b.step == 1 && a.cols > kSumDepth) return long_product(a, b, c, bias, accumulate);
  const bool by_columns = M <= kThin;
  const int64_t size = by_columns ? N : M;
  parallel(ceil_div(size, kPart), kReading * std::max({M * N, N * a.cols, M * a.cols}), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * kPart, count = std::min(kPart, size - first);
      const MatrixView<T> columns{c.data + first, M, count, c.stride};
      if (b.step != 1) {
        tile_kernels<T>().dot_rows(a, b.t().some_rows(first, count), columns, bias ? bias + first : nullptr, accumulate);
      } else if (by_columns) {
        unpacked_product(a, {b.data + first, b.rows, count, b.stride}, columns, bias ? bias + first : nullptr, accumulate);
      } else if (bias || accumulate || a.cols == 0) {
        unpacked_product(a.some_rows(first, count), b, c.some_rows(first, count), bias, accumulate);
      } else {
        tile_kernels<T>().outer(a.some_rows(first, count), b, c.some_rows(first, count));
      }
    }
  });
}

// Whether `thin_product` suits, and adds up in the order of others.
template <typename T>
bool is_thin(const MatrixView<const T>& a, const MatrixView<const T>& b, bool accumulate) {
  if (b.step == 1) return a.rows <= kThin || a.cols <= kThin;
  return a.rows <= kThin && a.step == 1 && !(accumulate && a.cols > kSumDepth);
}

// c = a·b, each element summed by one thread, in an order that only the number of terms decides. Rows or columns of b, and
// rows of c, are contiguous.
template <typename T>
void tile_product(MatrixView<const T> a, MatrixView<const T> b, MatrixView<T> c, const T* bias, bool accumulate) {
  if (is_thin(a, b, accumulate)) return thin_product(a, b, c, bias, accumulate);
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t M = a.rows, N = b.cols, P = a.cols, unit = kernels.block_columns, all = ceil_div(N, unit);
  const int64_t panels = std::min(all, kPanels);
  const int64_t tiles = ceil_div(all, panels), groups = row_groups(tiles, M, kernels);
  const int64_t group_rows = round_up(ceil_div(M, groups), kernels.block_rows);
  const int64_t panel_size = (kDepth + 1) * unit;

  parallel(tiles * groups, M * N * P, [&](int64_t begin, int64_t end) {
    T* memory = scratch<T>(panels * panel_size + kernels.block_rows * unit);
    T* edge = memory + panels * panel_size;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % tiles * panels, last = std::min(first + panels, all);
      const int64_t row0 = task / tiles * group_rows, row_end = std::min(M, row0 + group_rows);
      int64_t p0 = 0;
      do {
        const int64_t depth = std::min(kDepth, P - p0);
        const bool add = accumulate || p0 > 0;
        for (int64_t p = first; p < last; ++p) {
          const int64_t j0 = p * unit, count = std::min(unit, N - j0);
          T *panel = memory + (p - first) * panel_size, *start = panel + kDepth * unit;
          pack_panel(b, p0, depth, j0, count, panel);
          std::fill(start, start + unit, T(0));
          if (bias) std::copy(bias + j0, bias + j0 + count, start);
        }
        for (int64_t m = row0; m < row_end; m += kernels.block_rows) {
          const int64_t height = std::min(kernels.block_rows, row_end - m);
          const MatrixView<const T> left{a.row(m) + p0 * a.step, height, depth, a.stride, a.step};
          for (int64_t p = first; p < last; ++p) {
            const int64_t j0 = p * unit, count = std::min(unit, N - j0);
            const T *panel = memory + (p - first) * panel_size, *start = panel + kDepth * unit;
            T* to = c.row(m) + j0;
            if (count == unit) {
              kernels.gemm(left, {panel, depth, unit, unit}, {to, height, unit, c.stride}, start, add);
              continue;
            }
            for (int64_t i = 0; i < height && add; ++i) std::copy(to + i * c.stride, to + i * c.stride + count, edge + i * unit);
            const int64_t padded = round_up(count, kernels.lanes);
            kernels.gemm(left, {panel, depth, padded, unit}, {edge, height, padded, unit}, start, add);
            for (int64_t i = 0; i < height; ++i) std::copy(edge + i * unit, edge + i * unit + count, to + i * c.stride);
          }
        }
        p0 += depth;
      } while (p0 < P);
    }
  });
}

// For fewer elements of B the library's choice of an algorithm depends on the rows of A, which may be few or many.
constexpr int64_t kSmallReduced = 1 << 12;

bool by_rows(const Tensor& matrix) { return matrix.stride(1) == 1 || matrix.size(1) == 1; }

template <typename T>
void tile_product(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate) {
  MatrixView<const T> right = view_of<T>(b);
  if (by_rows(b)) right.step = 1;  // of a single column
  tile_product<T>(view_of<T>(a), right, mutable_view_of<T>(out), bias.defined() ? bias.const_data_ptr<T>() : nullptr, accumulate);
}

void library_product(Tensor out, const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate) {
  if (accumulate) {
    out.addmm_(a, b);
  } else if (bias.defined()) {
    at::addmm_out(out, bias, a, b);
  } else {
    at::mm_out(out, a, b);
  }
}

// Half and bfloat16. Small matrices are multiplied as float32; of larger ones the bits of a row are the same for any number
// of rows from two on.
void reduced_product(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate) {
  if (b.numel() <= kSmallReduced) {
    Tensor result = product(a.to(at::kFloat), b.to(at::kFloat), bias.defined() ? bias.to(at::kFloat) : bias);
    out.copy_(accumulate ? result.add_(out) : result);
    return;
  }
  const Tensor right = by_rows(b) ? b : b.t().contiguous().t();
  if (a.size(0) > 1) return library_product(out, a, right, bias, accumulate);
  const Tensor twice = accumulate ? out.repeat({2, 1}) : at::empty({2, out.size(1)}, out.options());
  library_product(twice, a.repeat({2, 1}), right, bias, accumulate);
  out.copy_(twice.narrow(0, 0, 1));
}

// By library calls on blocks of rows, the same blocks for any number of threads; each call runs on one thread, as
// it is made from within a parallel region. (A call of its own may share the terms of one sum out among threads.)
void blocked_library_product(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate) {
  const int64_t rows = out.size(0), tasks = std::clamp<int64_t>(rows / kRows, 2, 64);
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;  // other threads start without the state of this one
    for (int64_t task = begin; task < end; ++task) {
      const int64_t start = rows * task / tasks, count = rows * (task + 1) / tasks - start;
      if (count == 0) continue;
      library_product(out.narrow(0, start, count), a.narrow(0, start, count), b, bias, accumulate);
    }
  });
}

}  // namespace

void product_out(const Tensor& out, const Tensor& a, const Tensor& b, const Tensor& bias, bool accumulate) {
  if (out.numel() == 0) return;
  if (!has_tile_kernels(a.scalar_type())) return reduced_product(out, a, b, bias, accumulate);
  // Columns of `a` that lie together suit the library, which rearranges both sides.
  const bool by_columns = !by_rows(a) && a.stride(0) == 1;
  if (by_columns && a.numel() * b.size(1) >= kSerialWork) return blocked_library_product(out, a, b, bias, accumulate);
  const Tensor left = by_columns || a.stride(1) == 1 ? a : a.contiguous();
  const Tensor right = by_rows(b) || b.stride(0) == 1 ? b : b.contiguous();
  const Tensor start = bias.defined() ? bias.contiguous() : bias;
  with_tile_type(a.scalar_type(), [&](auto zero) { tile_product<decltype(zero)>(out, left, right, start, accumulate); });
}

Tensor product(const Tensor& a, const Tensor& b, const Tensor& bias) {
  const Tensor out = empty_pooled({a.size(0), b.size(1)}, a.options());
  product_out(out, a, b, bias);
  return out;
}

}  // namespace hnetfast
