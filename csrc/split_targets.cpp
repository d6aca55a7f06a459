// hnetfast::split_targets and split_stacked: the tensors of the target network, cut out of flat rows of generated
// weights, one list for every row or one list of tensors that hold those of all rows.
//
// Hundreds of tensors come out of one call, so each costs as little as a tensor can: they share the storage of the
// flat buffer and one node of the autograd graph, whose backward pass writes all their gradients into one buffer.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/safe_numerics.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/library.h>

#include <cstring>

#include "common/buffer_pool.h"
#include "common/checks.h"

namespace hnetfast {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kCopyGrain = 1 << 16;  // elements

// Shapes as the schema has them: all sizes in a row, and how many of them belong to each tensor.
struct Pieces {
  at::IntArrayRef dims, ranks;

  template <typename F>
  void for_each(const F& run) const {
    size_t next = 0;
    int64_t offset = 0;
    for (size_t t = 0; t < ranks.size(); ++t) {
      const at::IntArrayRef shape = dims.slice(next, ranks[t]);
      next += ranks[t];
      run(t, shape, offset);
      offset += c10::multiply_integers(shape);
    }
  }
};

variable_list views(const Tensor& flat, const Pieces& pieces) {
  const int64_t row = flat.size(1);
  variable_list result;
  result.reserve(flat.size(0) * pieces.ranks.size());
  c10::SmallVector<int64_t, 8> strides;
  for (int64_t b = 0; b < flat.size(0); ++b) {
    pieces.for_each([&](size_t, at::IntArrayRef shape, int64_t offset) {
      strides.resize(shape.size());
      int64_t stride = 1;
      for (size_t d = shape.size(); d-- > 0;) {
        strides[d] = stride;
        stride *= std::max<int64_t>(shape[d], 1);
      }
      result.push_back(flat.as_strided(shape, strides, flat.storage_offset() + b * row + offset));
    });
  }
  return result;
}

// The gradients side by side again, zeros where there is none.
Tensor join(const variable_list& grads, const Pieces& pieces, int64_t conditions, int64_t row, const at::TensorOptions& options) {
  if (at::GradMode::is_enabled() || options.device().type() != at::kCPU) {
    std::vector<Tensor> parts;
    parts.reserve(grads.size());
    for (int64_t b = 0; b < conditions; ++b) {
      pieces.for_each([&](size_t t, at::IntArrayRef shape, int64_t) {
        const Tensor& grad = grads[b * pieces.ranks.size() + t];
        parts.push_back(grad.defined() ? grad.reshape({-1}) : at::zeros({c10::multiply_integers(shape)}, options));
      });
    }
    return at::cat(parts).view({conditions, row});
  }
  const Tensor flat = empty_pooled({conditions, row}, options);
  const int64_t size = flat.element_size();
  auto* base = static_cast<char*>(flat.mutable_data_ptr());
  for (int64_t b = 0; b < conditions; ++b) {
    pieces.for_each([&](size_t t, at::IntArrayRef shape, int64_t offset) {
      const Tensor& grad = grads[b * pieces.ranks.size() + t];
      char* to = base + (b * row + offset) * size;
      const bool plain =
          grad.defined() && grad.is_contiguous() && grad.scalar_type() == flat.scalar_type() && !grad.is_neg() && !grad.is_conj();
      if (grad.defined() && !plain) {
        flat.view(-1).narrow(0, b * row + offset, c10::multiply_integers(shape)).view(shape).copy_(grad);
        return;
      }
      const char* from = grad.defined() ? static_cast<const char*>(grad.const_data_ptr()) : nullptr;
      at::parallel_for(0, c10::multiply_integers(shape), kCopyGrain, [&](int64_t begin, int64_t end) {
        if (from) {
          std::memcpy(to + begin * size, from + begin * size, (end - begin) * size);
        } else {
          std::memset(to + begin * size, 0, (end - begin) * size);
        }
      });
    });
  }
  return flat;
}

// What a stacked piece is: the same columns of all rows.
variable_list stacked_views(const Tensor& flat, const Pieces& pieces) {
  variable_list result;
  result.reserve(pieces.ranks.size());
  pieces.for_each([&](size_t, at::IntArrayRef shape, int64_t offset) {
    c10::SmallVector<int64_t, 8> sizes{flat.size(0)}, strides(shape.size() + 1);
    sizes.append(shape.begin(), shape.end());
    int64_t stride = 1;
    for (size_t d = shape.size(); d > 0; --d) {
      strides[d] = stride;
      stride *= std::max<int64_t>(shape[d - 1], 1);
    }
    strides[0] = flat.stride(0);
    result.push_back(flat.as_strided(sizes, strides, flat.storage_offset() + offset));
  });
  return result;
}

Tensor join_stacked(const variable_list& grads, const Pieces& pieces, int64_t conditions, int64_t row,
                    const at::TensorOptions& options) {
  if (at::GradMode::is_enabled() || options.device().type() != at::kCPU) {
    std::vector<Tensor> parts;
    parts.reserve(grads.size());
    pieces.for_each([&](size_t t, at::IntArrayRef shape, int64_t) {
      const int64_t size = c10::multiply_integers(shape);
      parts.push_back(grads[t].defined() ? grads[t].reshape({conditions, size}) : at::zeros({conditions, size}, options));
    });
    return at::cat(parts, 1);
  }
  const Tensor flat = empty_pooled({conditions, row}, options);
  variable_list sources(grads.size());
  for (size_t t = 0; t < grads.size(); ++t) {
    if (grads[t].defined()) sources[t] = grads[t].to(flat.scalar_type()).contiguous().resolve_neg().resolve_conj();
  }
  const int64_t size = flat.element_size();
  auto* base = static_cast<char*>(flat.mutable_data_ptr());
  const int64_t grain = std::max<int64_t>(kCopyGrain / std::max<int64_t>(row, 1), 1);
  at::parallel_for(0, conditions, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      pieces.for_each([&](size_t t, at::IntArrayRef shape, int64_t offset) {
        const int64_t bytes = c10::multiply_integers(shape) * size;
        char* to = base + (b * row + offset) * size;
        if (!sources[t].defined()) {
          std::memset(to, 0, bytes);
        } else {
          std::memcpy(to, static_cast<const char*>(sources[t].const_data_ptr()) + b * bytes, bytes);
        }
      });
    }
  });
  return flat;
}

void check_pieces(const char* op, const Tensor& flat, const Pieces& pieces) {
  const int64_t sizes = pieces.dims.size();
  int64_t next = 0, total = 0;
  bool fits = true;
  for (const int64_t rank : pieces.ranks) {
    TORCH_CHECK_VALUE(rank >= 0 && rank <= sizes - next, op, ": ranks is ", pieces.ranks, " for ", sizes,
                      " sizes in dims, expected numbers from 0 on that add up to these");
    int64_t extent = 1;  // of the strides, which leave sizes of 0 out
    bool empty = false;
    for (const int64_t size : pieces.dims.slice(next, rank)) {
      TORCH_CHECK_VALUE(size >= 0, op, ": dims holds ", size, ", accepted are sizes from 0 on");
      empty |= size == 0;
      fits = fits && !c10::mul_overflows(extent, std::max<int64_t>(size, 1), &extent);
    }
    next += rank;
    if (!empty) fits = fits && !c10::add_overflows(total, extent, &total);
  }
  TORCH_CHECK_VALUE(next == sizes, op, ": ranks is ", pieces.ranks, ", which is ", next, " of ", sizes,
                    " sizes in dims, expected all");
  TORCH_CHECK_VALUE(fits, op, ": the shapes hold more elements than 64 bits can count, flat has ", flat.size(1), " a condition");
  TORCH_CHECK_VALUE(total == flat.size(1), op, ": the shapes hold ", total, " elements, flat has ", flat.size(1), " a condition");
}

// One of the two ops, by what makes its results and what joins their gradients.
using MakeViews = variable_list (*)(const Tensor& flat, const Pieces& pieces);
using Join = Tensor (*)(const variable_list& grads, const Pieces& pieces, int64_t conditions, int64_t row,
                        const at::TensorOptions& options);

template <MakeViews make_views, Join join_grads>
class Split : public torch::autograd::Function<Split<make_views, join_grads>> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& flat, const std::vector<int64_t>& dims,
                               const std::vector<int64_t>& ranks) {
    ctx->set_materialize_grads(false);
    ctx->saved_data["dims"] = dims;
    ctx->saved_data["ranks"] = ranks;
    ctx->saved_data["shape"] = flat.sizes();
    ctx->saved_data["like"] = flat.new_empty({0});
    // The pieces do not overlap, so each is a tensor of its own for autograd and may be changed in place.
    at::AutoDispatchBelowADInplaceOrView guard;
    return make_views(flat, {dims, ranks});
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto dims = ctx->saved_data["dims"].toIntVector(), ranks = ctx->saved_data["ranks"].toIntVector();
    const auto shape = ctx->saved_data["shape"].toIntVector();
    const auto options = ctx->saved_data["like"].toTensor().options();
    return {join_grads(grads, {dims, ranks}, shape[0], shape[1], options), Tensor(), Tensor()};
  }

  static variable_list run(const char* op, const Tensor& flat, const Pieces& pieces) {
    check_pieces(op, flat, pieces);
    const variable_list results = of_own_history(flat, pieces);
    // As views do, so that a change in place is noticed wherever the graph holds one of them.
    if (!flat.is_inference()) {
      for (const Tensor& result : results)
        torch::autograd::impl::set_version_counter(result, torch::autograd::impl::version_counter(flat));
    }
    return results;
  }

 private:
  static variable_list of_own_history(const Tensor& flat, const Pieces& pieces) {
    if (!flat.requires_grad() || !at::GradMode::is_enabled()) {
      at::AutoDispatchBelowADInplaceOrView guard;
      return make_views(flat, pieces);
    }
    return Split::apply(flat, pieces.dims.vec(), pieces.ranks.vec());
  }
};

variable_list split_targets(const Tensor& flat, at::IntArrayRef dims, at::IntArrayRef ranks) {
  check_dense("split_targets", "flat", flat);
  TORCH_CHECK_VALUE(flat.dim() == 2 && flat.is_contiguous(), "split_targets: flat has shape ", flat.sizes(), " and strides ",
                    flat.strides(), ", expected a contiguous [conditions, outputs]");
  return Split<views, join>::run("split_targets", flat, {dims, ranks});
}

variable_list split_stacked(const Tensor& flat, at::IntArrayRef dims, at::IntArrayRef ranks) {
  check_dense("split_stacked", "flat", flat);
  TORCH_CHECK_VALUE(flat.dim() == 2 && flat.stride(1) == 1, "split_stacked: flat has shape ", flat.sizes(), " and strides ",
                    flat.strides(), ", expected [conditions, outputs] with contiguous rows");
  return Split<stacked_views, join_stacked>::run("split_stacked", flat, {dims, ranks});
}

// Composite: gradients come from the function above, on every device.
TORCH_LIBRARY_IMPL(hnetfast, CompositeImplicitAutograd, m) {
  m.impl("split_targets", &split_targets);
  m.impl("split_stacked", &split_stacked);
}

}  // namespace
}  // namespace hnetfast
