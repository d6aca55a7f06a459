// hnetfast::batched_lora: a low-rank adapter for each row of a batch, out[r] = base[r] + s·B[i(r)] (A[i(r)] x[r]).
//
// The adapters lie in rows of generated weights and are read where they are. Rows are sorted by adapter; where they do not
// lie that way, those of a block are copied one below the other. Blocks of rows and parts of columns are the same for any
// number of threads, and no row's sums know of other rows.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "common/buffer_pool.h"
#include "common/checks.h"
#include "common/scratch.h"
#include "tiles/parts.h"
#include "tiles/tile_types.h"

namespace hnetfast {
namespace {

using at::Tensor;

constexpr const char *kOp = "batched_lora", *kBackwardOp = "batched_lora_backward";

constexpr int64_t kRows = 64;      // rows of a block: few, so that a product stays in the caches
constexpr int64_t kColumns = 256;  // columns of B that are transposed at a time

struct Block {
  int64_t adapter, first, count;
};

// What there is to do, and which rows are whose.
struct Batch {
  int64_t rows, adapters, in, out, rank;
  const int64_t *offsets, *order;  // no order: sorted
  std::vector<Block> blocks;

  int64_t place(int64_t row) const { return order ? order[row] : row; }
  int64_t work(int64_t width) const { return rows * rank * width; }
};

// The matrices of all adapters, [N, rows, cols].
template <typename T>
struct Matrices {
  const T* data;
  int64_t step, stride, rows, cols;

  explicit Matrices(const Tensor& t)
      : data(t.const_data_ptr<T>()), step(t.stride(0)), stride(t.stride(1)), rows(t.size(1)), cols(t.size(2)) {}
  MatrixView<const T> operator[](int64_t i) const { return {data + i * step, rows, cols, stride}; }
};

// Rows in the order of the adapters.
template <typename T>
struct SortedRows {
  const T* data;
  int64_t stride;
  const Batch& batch;

  SortedRows(const Tensor& t, const Batch& batch) : data(t.const_data_ptr<T>()), stride(t.stride(0)), batch(batch) {}

  int64_t spare(int64_t count, int64_t width) const { return batch.order ? count * width : 0; }

  // Columns [begin, begin + width) of some rows: where they are, or copied to `spare`.
  MatrixView<const T> some(int64_t first, int64_t count, int64_t begin, int64_t width, T* spare) const {
    if (!batch.order) return {data + first * stride + begin, count, width, stride};
    for (int64_t r = 0; r < count; ++r) {
      const T* row = data + batch.order[first + r] * stride + begin;
      std::copy(row, row + width, spare + r * width);
    }
    return {spare, count, width, width};
  }
};

// c[m, n] += Σ_p a[m, p] b[n, p]
template <typename T>
void add_products(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t whole = a.cols / kernels.lanes * kernels.lanes;
  if (whole) kernels.add_dots({a.data, a.rows, whole, a.stride}, {b.data, b.rows, whole, b.stride}, c);
  if (whole == a.cols) return;
  for (int64_t m = 0; m < a.rows; ++m) {
    for (int64_t n = 0; n < b.rows; ++n) {
      T sum = 0;
      for (int64_t p = whole; p < a.cols; ++p) sum += a.row(m)[p] * b.row(n)[p];
      c.row(m)[n] += sum;
    }
  }
}

// tile[k, j] = matrix[first + j, from + k] for `width` rows and the columns [from, to).
template <typename T>
void transpose_rows(const MatrixView<const T>& matrix, int64_t first, int64_t width, int64_t from, int64_t to, T* tile,
                    int64_t pitch) {
  const T* start = matrix.row(first);
  const T* end = start + (width - 1) * matrix.stride + matrix.cols;
  tile_kernels<T>().pack_transposed(tile, pitch, start, end, matrix.stride, width, {from, 0, to - from});
}

// hidden[r] = A[i(r)] x[r]
template <typename T>
void hidden_kernel(const Batch& batch, const Tensor& x, const Tensor& a, const Tensor& hidden) {
  const SortedRows<T> rows(x, batch);
  const Matrices<T> matrices(a);
  T* to = hidden.mutable_data_ptr<T>();
  for_each_part(batch.blocks.size(), batch.rank, batch.work(batch.in), [&](int64_t task, int64_t from, int64_t last) {
    const auto [adapter, first, count] = batch.blocks[task];
    const auto inputs = rows.some(first, count, 0, batch.in, scratch<T>(rows.spare(count, batch.in)));
    const MatrixView<T> result{to + first * batch.rank + from, count, last - from, batch.rank};
    for (int64_t m = 0; m < count; ++m) std::fill_n(result.row(m), result.cols, T(0));
    add_products<T>(inputs, matrices[adapter].some_rows(from, last - from), result);
  });
}

// out[r] = base[r] + B[i(r)] hidden[r]
template <typename T>
void output_kernel(const Batch& batch, const Tensor& hidden, const Tensor& b, const Tensor& base, const Tensor& out) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const Matrices<T> matrices(b);
  const T *from = hidden.const_data_ptr<T>(), *start = base.defined() ? base.const_data_ptr<T>() : nullptr;
  const int64_t base_stride = start ? base.stride(0) : 0;
  T* to = out.mutable_data_ptr<T>();
  for_each_part(batch.blocks.size(), batch.out, batch.work(batch.out), [&](int64_t task, int64_t begin, int64_t end) {
    const auto [adapter, first, count] = batch.blocks[task];
    T* tile = scratch<T>((batch.rank + count) * kColumns);
    T* result = tile + batch.rank * kColumns;
    for (int64_t o = begin; o < end; o += kColumns) {
      const int64_t width = std::min(kColumns, end - o), pitch = round_up(width, kernels.lanes);
      transpose_rows<T>(matrices[adapter], o, width, 0, batch.rank, tile, pitch);
      kernels.gemm({from + first * batch.rank, count, batch.rank, batch.rank}, {tile, batch.rank, pitch, pitch},
                   {result, count, pitch, pitch}, nullptr, false);
      for (int64_t m = 0; m < count; ++m) {
        const int64_t row = batch.place(first + m);
        kernels.write_sum(to + row * batch.out + o, result + m * pitch, start ? start + row * base_stride + o : nullptr, width,
                          false);
      }
    }
  });
}

// grad_hidden[r] = B[i(r)]ᵀ grad[r]
template <typename T>
void grad_hidden_kernel(const Batch& batch, const Tensor& grad, const Tensor& b, const Tensor& grad_hidden) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const SortedRows<T> rows(grad, batch);
  const Matrices<T> matrices(b);
  T* to = grad_hidden.mutable_data_ptr<T>();
  for_each_part(batch.blocks.size(), batch.rank, batch.work(batch.out), [&](int64_t task, int64_t from, int64_t last) {
    const auto [adapter, first, count] = batch.blocks[task];
    T* tile = scratch<T>(batch.rank * kColumns + rows.spare(count, kColumns));
    T* spare = tile + batch.rank * kColumns;
    const MatrixView<T> result{to + first * batch.rank + from, count, last - from, batch.rank};
    for (int64_t m = 0; m < count; ++m) std::fill_n(result.row(m), result.cols, T(0));
    for (int64_t o = 0; o < batch.out; o += kColumns) {
      const int64_t width = std::min(kColumns, batch.out - o), pitch = round_up(width, kernels.lanes);
      transpose_rows<T>(matrices[adapter], o, width, from, last, tile, pitch);
      add_products<T>(rows.some(first, count, o, width, spare), {tile, last - from, width, pitch}, result);
    }
  });
}

// grad_x[r] = A[i(r)]ᵀ grad_hidden[r]
template <typename T>
void grad_input_kernel(const Batch& batch, const Tensor& grad_hidden, const Tensor& a, const Tensor& grad_x) {
  const Matrices<T> matrices(a);
  const T* from = grad_hidden.const_data_ptr<T>();
  T* to = grad_x.mutable_data_ptr<T>();
  for_each_part(batch.blocks.size(), batch.in, batch.work(batch.in), [&](int64_t task, int64_t begin, int64_t end) {
    const auto [adapter, first, count] = batch.blocks[task];
    const int64_t width = end - begin, spare = spare_of<T>(count, batch.rank);
    T* memory = scratch<T>(spare + (batch.order ? count * width : 0));
    const MatrixView<const T> matrix = matrices[adapter];
    MatrixView<T> result{to + first * batch.in + begin, count, width, batch.in};
    if (batch.order) result = {memory + spare, count, width, width};
    multiply<T>({from + first * batch.rank, count, batch.rank, batch.rank},
                {matrix.data + begin, batch.rank, width, matrix.stride}, result, false, memory);
    for (int64_t m = 0; batch.order && m < count; ++m) {
      std::copy_n(result.row(m), width, to + batch.place(first + m) * batch.in + begin);
    }
  });
}

// sums[i, k] = Σ_r factor[r, k] rows[r] over the rows of adapter i, or, `transposed`, sums[i, :, k].
template <typename T>
void sums_kernel(const Batch& batch, const Tensor& factor, const Tensor& matrix, const Tensor& sums, bool transposed) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const SortedRows<T> rows(matrix, batch);
  const int64_t rank = batch.rank, size = matrix.size(1);
  const MatrixView<const T> factors{factor.const_data_ptr<T>(), batch.rows, rank, rank};
  T* to = sums.mutable_data_ptr<T>();
  for_each_part(batch.adapters, size, batch.work(size), [&](int64_t i, int64_t begin, int64_t end) {
    const int64_t first = batch.offsets[i], last = batch.offsets[i + 1], spare = spare_of<T>(rank, kSumDepth);
    T* memory = scratch<T>(spare + kSumDepth * kColumns + rank * kColumns);
    T *copied = memory + spare, *tile = copied + kSumDepth * kColumns;
    for (int64_t c = begin; c < end; c += kColumns) {
      const int64_t width = std::min(kColumns, end - c), pitch = round_up(width, kernels.lanes);
      MatrixView<T> result{to + i * rank * size + c, rank, width, size};
      if (transposed) result = {tile, rank, width, pitch};
      int64_t r = first;
      do {
        const int64_t count = std::min(kSumDepth, last - r);
        multiply<T>(factors.some_rows(r, count).t(), rows.some(r, count, c, width, copied), result, r > first, memory);
        r += count;
      } while (r < last);
      if (!transposed) continue;
      const Columns all{0, 0, rank};
      kernels.unpack_transposed(tile, pitch, to + (i * size + c) * rank, rank, width, &all, 1);
    }
  });
}

void check(const char* op, const Tensor& x, const Tensor& a, const Tensor& b, const char* name, const std::optional<Tensor>& base,
           const Tensor& offsets, const std::optional<Tensor>& order) {
  check_dense(op, "x", x);
  check_dense(op, "a", a);
  check_dense(op, "b", b);
  if (base) check_dense(op, name, *base);
  for (const Tensor& t : {x, a, base ? *base : x}) {
    TORCH_CHECK_VALUE(at::isFloatingType(t.scalar_type()) && t.element_size() > 1, op, ": got ", t.scalar_type(),
                      ", accepted are float16, bfloat16, float32 and float64");
  }
  TORCH_CHECK_VALUE(x.dim() == 2 && a.dim() == 3 && a.size(2) == x.size(1), op, ": x has shape ", x.sizes(), ", a ", a.sizes(),
                    ", expected [rows, in] and [adapters, rank, in]");
  TORCH_CHECK_VALUE(b.dim() == 3 && b.size(0) == a.size(0) && b.size(2) == a.size(1) && b.scalar_type() == a.scalar_type(), op,
                    ": a is ", a.scalar_type(), " ", a.sizes(), ", b ", b.scalar_type(), " ", b.sizes(),
                    ", expected one dtype, [adapters, rank, in] and [adapters, out, rank]");
  if (base) check_tensor(op, name, *base, base->scalar_type(), {x.size(0), b.size(1)});
  check_tensor(op, "offsets", offsets, at::kLong, {a.size(0) + 1});
  if (order) check_tensor(op, "order", *order, at::kLong, {x.size(0)});
}

// Checks which rows are whose; `offsets` and `order` are to outlive the result.
Batch batch_of(const char* op, const Tensor& x, const Tensor& a, const Tensor& b, const Tensor& offsets, const Tensor* order) {
  Batch batch{x.size(0), a.size(0), x.size(1), b.size(1), a.size(1), offsets.const_data_ptr<int64_t>(), nullptr, {}};
  bool rises = batch.offsets[0] == 0 && batch.offsets[batch.adapters] == batch.rows;
  for (int64_t i = 0; i < batch.adapters; ++i) rises = rises && batch.offsets[i] <= batch.offsets[i + 1];
  TORCH_CHECK_VALUE(rises, op, ": offsets are ", offsets, ", expected to rise from 0 to ", batch.rows, " rows");
  if (order) {
    batch.order = order->const_data_ptr<int64_t>();
    std::vector<bool> seen(batch.rows);
    for (int64_t r = 0; r < batch.rows; ++r) {
      const int64_t row = batch.order[r];
      TORCH_CHECK_VALUE(row >= 0 && row < batch.rows && !seen[row], op, ": order[", r, "] is ", row,
                        ", expected every row from 0 to ", batch.rows - 1, " once");
      seen[row] = true;
    }
  }
  for (int64_t i = 0; i < batch.adapters; ++i) {
    for (int64_t r = batch.offsets[i]; r < batch.offsets[i + 1]; r += kRows) {
      batch.blocks.push_back({i, r, std::min(kRows, batch.offsets[i + 1] - r)});
    }
  }
  return batch;
}

at::ScalarType type_of(const Tensor& x, const Tensor& a, const Tensor& other) {
  return at::promote_types(at::promote_types(at::promote_types(at::kFloat, x.scalar_type()), a.scalar_type()),
                           other.scalar_type());
}

std::tuple<Tensor, Tensor> batched_lora(const Tensor& x, const Tensor& a, const Tensor& b, const std::optional<Tensor>& base,
                                        double scale, const Tensor& offsets, const std::optional<Tensor>& order) {
  check(kOp, x, a, b, "base", base, offsets, order);
  const Tensor starts = offsets.contiguous(), places = order ? order->contiguous() : Tensor();
  const Batch batch = batch_of(kOp, x, a, b, starts, order ? &places : nullptr);
  const Tensor& model = base ? *base : x;
  const at::ScalarType type = type_of(x, a, model);
  const at::TensorOptions options = x.options().dtype(type);
  const Tensor hidden = at::empty({batch.rows, batch.rank}, options);
  if (x.numel() == 0 || a.numel() == 0 || b.numel() == 0) {
    const Tensor out = at::zeros({batch.rows, batch.out}, model.options());
    return {base ? out.copy_(*base) : out, hidden.zero_()};
  }
  const Tensor out = empty_pooled({batch.rows, batch.out}, options);
  with_tile_type(type, [&](auto zero) {
    using T = decltype(zero);
    hidden_kernel<T>(batch, by_rows(x.to(type)), by_rows(a.to(type)), hidden);
    const Tensor start = base ? by_rows(base->to(type)) : Tensor();
    output_kernel<T>(batch, scale == 1 ? hidden : hidden * scale, by_rows(b.to(type)), start, out);
  });
  return {out.to(model.scalar_type()), hidden};
}

std::vector<Tensor> batched_lora_backward(const Tensor& grad_out, const Tensor& hidden, const Tensor& x, const Tensor& a,
                                          const Tensor& b, double scale, const Tensor& offsets,
                                          const std::optional<Tensor>& order, c10::List<bool> needs) {
  check(kBackwardOp, x, a, b, "grad_out", grad_out, offsets, order);
  const at::ScalarType type = type_of(x, a, grad_out);
  check_tensor(kBackwardOp, "hidden", hidden, type, {x.size(0), a.size(1)});
  TORCH_CHECK_VALUE(needs.size() == 4, kBackwardOp, ": ", needs.size(), " needs for 4 tensors");
  const Tensor starts = offsets.contiguous(), places = order ? order->contiguous() : Tensor();
  const Batch batch = batch_of(kBackwardOp, x, a, b, starts, order ? &places : nullptr);
  std::vector<Tensor> results;
  const bool nothing = x.numel() == 0 || a.numel() == 0 || b.numel() == 0;
  const Tensor tensors[] = {x, a, b};
  for (size_t i = 0; i < 3; ++i) {
    const at::TensorOptions options = tensors[i].options();
    results.push_back(!needs[i] ? at::empty({0}, options)
                      : nothing ? at::zeros(tensors[i].sizes(), options)
                                : empty_pooled(tensors[i].sizes(), options.dtype(type)));
  }
  if (nothing) return results;
  with_tile_type(type, [&](auto zero) {
    using T = decltype(zero);
    const Tensor grad = by_rows(grad_out.to(type));
    if (needs[0] || needs[1]) {
      Tensor grad_hidden = at::empty(hidden.sizes(), hidden.options());
      grad_hidden_kernel<T>(batch, grad, by_rows(b.to(type)), grad_hidden);
      if (scale != 1) grad_hidden.mul_(scale);
      if (needs[0]) grad_input_kernel<T>(batch, grad_hidden, by_rows(a.to(type)), results[0]);
      if (needs[1]) sums_kernel<T>(batch, grad_hidden, by_rows(x.to(type)), results[1], false);
    }
    if (needs[2]) {
      const Tensor factor = hidden.contiguous().resolve_neg();
      sums_kernel<T>(batch, scale == 1 ? factor : factor * scale, grad, results[2], true);
    }
  });
  for (size_t i = 0; i < 3; ++i) results[i] = results[i].to(tensors[i].scalar_type());
  return results;
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("batched_lora", &batched_lora);
  m.impl("batched_lora_backward", &batched_lora_backward);
}

}  // namespace
}  // namespace hnetfast
