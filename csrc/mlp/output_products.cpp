#include "mlp/output_products.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "common/buffer_pool.h"
#include "common/parallel.h"
#include "mlp/product.h"

namespace hnetfast {

using at::Tensor;

namespace {

constexpr size_t kManyBlocks = 16;  // products enough to keep all threads busy, one each

struct Block {
  Tensor flat;  // a part of the flat result (or its gradient) as a matrix [rows, columns]
  int64_t first_row, rows, columns;
};

// All of it where chunks fill it evenly, else the whole chunks and the cut one of each condition.
std::vector<Block> blocks(const Tensor& flat, const Sizes& sizes) {
  const int64_t S = sizes.chunk_size, n = sizes.outputs, whole = S ? n / S : 0, tail = n - whole * S;
  if (tail == 0 && whole == sizes.chunks) return {{flat.view({sizes.rows(), S}), 0, sizes.rows(), S}};
  std::vector<Block> result;
  for (int64_t b = 0; b < sizes.conditions; ++b) {
    const int64_t row = b * sizes.chunks, start = flat.storage_offset() + b * n;
    if (whole) result.push_back({flat.as_strided({whole, S}, {S, 1}, start), row, whole, S});
    if (tail) result.push_back({flat.as_strided({1, tail}, {n, 1}, start + whole * S), row + whole, 1, tail});
  }
  return result;
}

// Runs over the blocks, on all threads where there are many: each product is then a task, else it is shared out.
template <typename F>
void for_each_block(const std::vector<Block>& parts, int64_t work, const F& run) {
  const auto some = [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;  // other threads start without the state of this one
    for (int64_t i = begin; i < end; ++i) run(parts[i]);
  };
  if (parts.size() < kManyBlocks) {
    some(0, parts.size());
  } else {
    parallel(parts.size(), work, some);
  }
}

void product_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Sizes& sizes, const Tensor& out) {
  for_each_block(blocks(out, sizes), x.size(0) * weight.numel(), [&](const Block& block) {
    const Tensor rows = x.narrow(0, block.first_row, block.rows);
    const Tensor w = weight.narrow(0, 0, block.columns).t();
    product_out(block.flat, rows, w, bias.defined() ? bias.narrow(0, 0, block.columns) : bias);
  });
}

// What the blocks give to rows [begin, end) of the gradients of matrix and bias, one block after the other; the
// first replaces what is in that of the matrix where `overwrite`. The type is that of the gradients.
void add_parameter_grads(const std::vector<Block>& parts, const Tensor& x, int64_t begin, int64_t end, bool overwrite,
                         LastGrads& grads) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const Block& block = parts[i];
    const int64_t count = std::min(end, block.columns) - begin;
    if (count <= 0) continue;
    const bool first = overwrite && i == 0;
    const Tensor& like = grads.weight.defined() ? grads.weight : grads.bias;
    const Tensor flat = block.flat.narrow(1, begin, count).to(like.scalar_type());
    if (grads.weight.defined()) {
      const Tensor rows = x.narrow(0, block.first_row, block.rows).to(like.scalar_type());
      product_out(grads.weight.narrow(0, begin, count), flat.t(), rows, {}, !first);
    }
    if (grads.bias.defined()) grads.bias.narrow(0, begin, count).add_(flat.sum(0));
  }
}

void product_backward(const Tensor& grad, const Tensor& x, const Tensor& weight, const Sizes& sizes, LastGrads& grads) {
  const auto parts = grad.numel() > 0 ? blocks(grad, sizes) : std::vector<Block>();
  const int64_t work = x.size(0) * weight.numel();
  int64_t covered = 0;
  for (const Block& block : parts) covered += block.rows;
  const bool all_columns = !parts.empty() && parts[0].columns == sizes.chunk_size;
  if (grads.weight.defined() && !all_columns) grads.weight.zero_();
  if (grads.bias.defined()) grads.bias.zero_();
  if (grads.x.defined() && covered < x.size(0)) grads.x.zero_();
  if (grads.y.defined()) grads.y.zero_();
  if (grads.x.defined()) {
    for_each_block(parts, work, [&](const Block& block) {
      product_out(grads.x.narrow(0, block.first_row, block.rows), block.flat, weight.narrow(0, 0, block.columns));
    });
  }
  if (!grads.weight.defined() && !grads.bias.defined()) return;
  // Half and bfloat16 would round what a block adds to the sum of those before it.
  const bool widen = parts.size() > 1 && grad.scalar_type() != at::kFloat && grad.scalar_type() != at::kDouble;
  const auto sum_of = [&](const Tensor& t) { return t.defined() && widen ? t.to(at::kFloat) : t; };
  LastGrads sums{sum_of(grads.weight), sum_of(grads.bias), {}, {}};
  const int64_t columns = sizes.chunk_size, tasks = parts.size() < kManyBlocks ? 1 : std::clamp<int64_t>(columns / 256, 2, 8);
  parallel(tasks, work, [&](int64_t begin, int64_t end) {
    at::AutoDispatchBelowADInplaceOrView guard;
    for (int64_t task = begin; task < end; ++task) {
      add_parameter_grads(parts, x, columns * task / tasks, columns * (task + 1) / tasks, all_columns, sums);
    }
  });
  if (!widen) return;
  if (grads.weight.defined()) grads.weight.copy_(sums.weight);
  if (grads.bias.defined()) grads.bias.copy_(sums.bias);
}

// --- chunks in pieces

Sizes unplaced(const Sizes& sizes) { return {sizes.conditions, sizes.chunks, sizes.chunk_size, sizes.chunks * sizes.chunk_size}; }

// Calls run(element of the product [B, N·S], element of the outputs [B, n], count) for all pieces that have a place.
template <typename F>
void for_each_piece(const Sizes& sizes, const Placement& placement, const F& run) {
  constexpr int64_t kWork = 8;  // of an element, in multiply-adds
  parallel(sizes.rows(), sizes.rows() * sizes.chunk_size * kWork, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t* places = placement.places + r % sizes.chunks * placement.pieces;
      for (int64_t s = 0; s < placement.pieces; ++s) {
        if (places[s] < 0) continue;
        const int64_t from = placement.bounds[s];
        run(r * sizes.chunk_size + from, r / sizes.chunks * sizes.outputs + places[s], placement.bounds[s + 1] - from);
      }
    }
  });
}

void place_pieces(const Tensor& raw, const Sizes& sizes, const Placement& placement, const Tensor& out) {
  const int64_t size = out.element_size();
  const auto* from = static_cast<const char*>(raw.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  for_each_piece(sizes, placement,
                 [&](int64_t i, int64_t o, int64_t count) { std::memcpy(to + o * size, from + i * size, count * size); });
}

// The gradient of the product: zeros where an output has no place.
Tensor collect_pieces(const Tensor& grad, const Sizes& sizes, const Placement& placement) {
  const Tensor raw = empty_pooled({sizes.conditions, sizes.chunks * sizes.chunk_size}, grad.options()).zero_();
  const int64_t size = grad.element_size();
  const auto* from = static_cast<const char*>(grad.const_data_ptr());
  auto* to = static_cast<char*>(raw.mutable_data_ptr());
  for_each_piece(sizes, placement,
                 [&](int64_t i, int64_t o, int64_t count) { std::memcpy(to + i * size, from + o * size, count * size); });
  return raw;
}

}  // namespace

void products_forward(const Tensor& x, const Tensor& weight, const Tensor& bias, const Sizes& sizes, const Placement& placement,
                      const Tensor& out) {
  if (!placement.pieces) return product_forward(x, weight, bias, sizes, out);
  const Sizes all = unplaced(sizes);
  const Tensor raw = empty_pooled({all.conditions, all.outputs}, out.options());
  product_forward(x, weight, bias, all, raw);
  place_pieces(raw, sizes, placement, out);
}

void products_backward(const Tensor& grad, const Tensor& x, const Tensor& weight, const Sizes& sizes, const Placement& placement,
                       LastGrads& grads) {
  if (!placement.pieces) return product_backward(grad, x, weight, sizes, grads);
  product_backward(collect_pieces(grad, sizes, placement), x, weight, unplaced(sizes), grads);
}

}  // namespace hnetfast
