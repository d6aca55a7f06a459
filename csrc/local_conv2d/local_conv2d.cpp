// hnetfast::local_conv2d: checks, derivatives, and which way the CPU computes it.
#include <ATen/OpMathType.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>

#include "common/checks.h"
#include "local_conv2d/cpu.h"

namespace hnetfast {
namespace local_conv2d {

using at::IntArrayRef;
using at::Tensor;

namespace {
constexpr const char *kOp = "local_conv2d", *kBackwardOp = "local_conv2d_backward";
constexpr int64_t kFewImages = 4;
}  // namespace

void check_dense_arguments(const char* op, const Tensor& input, const Tensor& weight) {
  check_dense(op, "input", input);
  check_dense(op, "weight", weight);
}

Shape read_shape(const Tensor& input, const Tensor& weight, IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding,
                 IntArrayRef dilation, IntArrayRef size, int64_t groups) {
  TORCH_CHECK_VALUE(input.dim() == 5 && weight.dim() == 4, kOp, ": input has shape ", input.sizes(), " and weight ",
                    weight.sizes(), ", expected [sets or 1, N, C, H, W] and [sets, O, F, P]");
  TORCH_CHECK_VALUE(input.scalar_type() == weight.scalar_type() && at::isFloatingType(input.scalar_type()), kOp, ": input is ",
                    input.scalar_type(), " and weight ", weight.scalar_type(), ", expected the same floating point");
  for (const auto& [name, pair] : {std::pair("kernel_size", kernel), std::pair("stride", stride), std::pair("dilation", dilation),
                                   std::pair("output_size", size)}) {
    TORCH_CHECK_VALUE(pair.size() == 2 && pair[0] > 0 && pair[1] > 0, kOp, ": ", name, " is ", pair,
                      ", expected two positive integers");
  }
  TORCH_CHECK_VALUE(padding.size() == 2 && padding[0] >= 0 && padding[1] >= 0, kOp, ": padding is ", padding,
                    ", expected two integers");
  TORCH_CHECK_VALUE(input.size(2) > 0 && input.size(3) > 0 && input.size(4) > 0, kOp, ": input has shape ", input.sizes(),
                    ", expected images of at least one channel and one pixel");
  const Shape s{weight.size(0), input.size(1), input.size(2), input.size(3), input.size(4), weight.size(1),
                kernel[0],      kernel[1],     stride[0],     stride[1],     padding[0],    padding[1],
                dilation[0],    dilation[1],   size[0],       size[1],       groups};
  TORCH_CHECK_VALUE(input.size(0) == 1 || input.size(0) == s.sets, kOp, ": input has ", input.size(0), " sets, weight ", s.sets);
  TORCH_CHECK_VALUE(groups > 0 && s.channels % groups == 0 && s.outputs % groups == 0, kOp, ": groups is ", groups, " for ",
                    s.channels, " and ", s.outputs, " channels");
  for (const auto [n, k, d, st, p, out] : {std::array{s.height, s.kernel_h, s.dilation_h, s.stride_h, s.padding_h, s.out_h},
                                           std::array{s.width, s.kernel_w, s.dilation_w, s.stride_w, s.padding_w, s.out_w}}) {
    const double reach = (k - 1.0) * d, room = n + 2.0 * p;
    TORCH_CHECK_VALUE((out - 1.0) * st + reach < room, kOp, ": output_size is ", size, ", more than there is room for");
    TORCH_CHECK_VALUE(double(out) * st + reach >= room, kOp, ": output_size is ", size, ", less than there is room for");
  }
  // Of these, products of sizes are made; as real numbers they can be compared with what 64 bits hold.
  const double pixels = (s.height + 2.0 * s.padding_h) * (s.width + 2.0 * s.padding_w);
  TORCH_CHECK_VALUE((s.sets + 1.0) * s.channels * (s.images + 64.0) * pixels < 0x1p60, kOp, ": padding is ", padding,
                    ", too much to be held in memory");
  TORCH_CHECK_VALUE(weight.size(2) == s.fields() && weight.size(3) == s.positions(), kOp, ": weight has shape ", weight.sizes(),
                    ", expected [", s.sets, ", ", s.outputs, ", ", s.fields(), ", ", s.positions(), "]");
  return s;
}

void check_bias(const std::optional<Tensor>& bias, const Tensor& weight, const Shape& s) {
  if (bias) check_tensor(kOp, "bias", *bias, weight.scalar_type(), {s.sets, s.outputs, s.positions()});
}

void check_grad(const Tensor& grad, const Tensor& weight, const Shape& s) {
  check_tensor(kBackwardOp, "grad", grad, weight.scalar_type(), {s.sets, s.images, s.outputs, s.out_h, s.out_w});
}

namespace {

// Few images leave most lanes of a vector of images empty; few positions those of a vector of positions.
template <typename T>
bool by_positions(const Shape& s) {
  return s.images <= kFewImages && s.positions() >= tile_kernels<T>().lanes;
}

// Sizes that are not those of tensors; kept for the backward pass as one list.
struct Geometry {
  std::vector<int64_t> kernel, stride, padding, dilation, size;
  int64_t groups;

  Geometry(IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, IntArrayRef size, int64_t groups)
      : kernel(kernel.vec()),
        stride(stride.vec()),
        padding(padding.vec()),
        dilation(dilation.vec()),
        size(size.vec()),
        groups(groups) {
    for (const IntArrayRef pair : {kernel, stride, padding, dilation, size}) {  // those of tensors that hold nothing, too
      TORCH_CHECK_VALUE(pair.size() == 2, kOp, ": a size is ", pair, ", expected two integers");
    }
  }
  explicit Geometry(IntArrayRef all)
      : Geometry(all.slice(0, 2), all.slice(2, 2), all.slice(4, 2), all.slice(6, 2), all.slice(8, 2), all[10]) {}
  std::vector<int64_t> pack() const {
    std::vector<int64_t> all;
    for (const auto* pair : {&kernel, &stride, &padding, &dilation, &size}) all.insert(all.end(), pair->begin(), pair->end());
    all.push_back(groups);
    return all;
  }
};

// Calls run(zero of the type of the weights, zero of the type of the sums).
template <typename F>
void with_types(at::ScalarType type, const F& run) {
  switch (type) {
    case at::kFloat: return run(float(), float());
    case at::kDouble: return run(double(), double());
    case at::kHalf: return run(at::Half(), float());
    case at::kBFloat16: return run(at::BFloat16(), float());
    default: TORCH_CHECK_TYPE(false, kOp, ": Float, Double, Half and BFloat16 are accepted, got ", type);
  }
}

Tensor forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef kernel,
               IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, IntArrayRef size, int64_t groups) {
  check_dense_arguments(kOp, input, weight);
  if (weight.dim() == 3) return without_sets(forward, input, weight, bias, kernel, stride, padding, dilation, size, groups);
  const Shape s = read_shape(input, weight, kernel, stride, padding, dilation, size, groups);
  check_bias(bias, weight, s);
  const at::ScalarType type = weight.scalar_type(), sums = at::toOpMathType(type);
  const Tensor x = input.contiguous().to(sums), w = weight.contiguous(), b = bias ? bias->contiguous().to(sums) : Tensor();
  const Tensor out = empty_pooled({s.sets, s.images, s.outputs, s.out_h, s.out_w}, x.options());
  if (out.numel() == 0) return out.to(type);
  with_types(type, [&](auto weight_zero, auto zero) {
    using S = decltype(weight_zero);
    using T = decltype(zero);
    const auto compute = by_positions<T>(s) ? forward_by_positions<S, T> : forward_by_images<S, T>;
    compute(s, Source<T>(x), set_stride(x), w.const_data_ptr<S>(), b.defined() ? b.const_data_ptr<T>() : nullptr,
            out.mutable_data_ptr<T>());
  });
  return out.to(type);
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& input, const Tensor& weight, IntArrayRef kernel,
                                    IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, IntArrayRef size,
                                    int64_t groups, bool need_input, bool need_weight) {
  check_dense(kBackwardOp, "grad", grad);
  check_dense_arguments(kBackwardOp, input, weight);
  if (weight.dim() == 3) {
    return backward_without_sets(backward, grad, input, weight, kernel, stride, padding, dilation, size, groups, need_input,
                                 need_weight);
  }
  const Shape s = read_shape(input, weight, kernel, stride, padding, dilation, size, groups);
  check_grad(grad, weight, s);
  const at::ScalarType type = weight.scalar_type(), sums = at::toOpMathType(type);
  const Tensor g = grad.contiguous().to(sums), x = input.contiguous().to(sums), w = weight.contiguous();
  Tensor grad_input = at::empty({0}, x.options()), grad_weight = at::empty({0}, w.options());
  if (need_weight) grad_weight = empty_pooled(w.sizes(), w.options());
  if (need_input) grad_input = empty_pooled(x.sizes(), x.options());
  if (g.numel() == 0) {
    if (need_weight) grad_weight.zero_();
    if (need_input) grad_input.zero_();
    return {grad_input.to(type), grad_weight};
  }
  with_types(type, [&](auto weight_zero, auto zero) {
    using S = decltype(weight_zero);
    using T = decltype(zero);
    const bool few = by_positions<T>(s);
    if (need_weight) {
      const auto compute = few ? weight_gradient_by_positions<S, T> : weight_gradient_by_images<S, T>;
      compute(s, Source<T>(g), Source<T>(x), set_stride(x), grad_weight.mutable_data_ptr<S>());
    }
    if (!need_input) return;
    const auto compute = few ? input_gradient_by_positions<S, T> : input_gradient_by_images<S, T>;
    compute(s, Source<T>(g), w.const_data_ptr<S>(), x.size(0) == 1 && s.sets > 1, grad_input.mutable_data_ptr<T>());
  });
  return {grad_input.to(type), grad_weight};
}

// Σ_n grad[b, n, o, p], in an order that does not depend on the number of threads, as that of at::sum does.
Tensor bias_gradient(const Tensor& grad) {
  check_dense(kOp, "grad", grad);
  if (grad.dim() == 4) return bias_gradient(grad.unsqueeze(0)).squeeze(0);
  TORCH_CHECK_VALUE(grad.dim() == 5 && at::isFloatingType(grad.scalar_type()), kOp, "_bias_gradient: grad is ",
                    grad.scalar_type(), " ", grad.sizes(), ", expected floating point [sets, N, O, H, W]");
  constexpr int64_t kBlock = 16;      // images that are added up first, so that rounding errors do not
  constexpr int64_t kColumns = 2048;  // whose sums stay in the first-level cache
  const int64_t sets = grad.size(0), images = grad.size(1), columns = grad.size(2) * grad.size(3) * grad.size(4);
  const Tensor g = grad.contiguous().to(at::toOpMathType(grad.scalar_type()));
  const Tensor result = at::zeros({sets, grad.size(2), grad.size(3) * grad.size(4)}, g.options());
  if (g.numel() == 0) return result.to(grad.scalar_type());
  with_types(grad.scalar_type(), [&](auto, auto zero) {
    using T = decltype(zero);
    const T* const from = g.const_data_ptr<T>();
    T* const to = result.mutable_data_ptr<T>();
    const auto add = tile_kernels<T>().add;
    const Parts parts(columns, kColumns);
    parallel(sets * parts.count, g.numel(), [&](int64_t begin, int64_t end) {
      T* block = scratch<T>(kColumns);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t b = task / parts.count, first = parts.begin(task % parts.count), width = parts.size(task % parts.count);
        for (int64_t n = 0; n < images; n += kBlock) {
          std::fill_n(block, width, T(0));
          for (int64_t i = n; i < std::min(n + kBlock, images); ++i) add(block, from + (b * images + i) * columns + first, width);
          add(to + b * columns + first, block, width);
        }
      }
    });
  });
  return result.to(grad.scalar_type());
}

// --- derivatives, on every device ---

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The gradients by operations that have derivatives themselves, and rules for autograd's is_grads_batched.
std::pair<Tensor, Tensor> differentiable_gradients(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                                   const Geometry& geometry, bool need_input, bool need_weight) {
  const int64_t sets = weight.size(0), images = input.size(1), groups = geometry.groups, outputs = weight.size(1) / groups;
  const int64_t channels = input.size(2), fields = weight.size(2), positions = weight.size(3);
  const at::IntArrayRef size = input.sizes().slice(3);
  const Tensor g = grad.reshape({sets, images, groups, outputs, positions});
  Tensor grad_input, grad_weight;
  if (need_weight) {
    const Tensor seen = at::im2col(input.reshape({input.size(0) * images, channels, size[0], size[1]}), geometry.kernel,
                                   geometry.dilation, geometry.padding, geometry.stride)
                            .reshape({input.size(0), images, groups, fields, positions});
    const Tensor products =
        at::matmul(g.permute({0, 2, 4, 3, 1}), seen.permute({0, 2, 4, 1, 3}));  // [sets, groups, P, O/groups, F]
    grad_weight = products.permute({0, 1, 3, 4, 2}).reshape(weight.sizes());
  }
  if (need_input) {
    const Tensor filters = weight.reshape({sets, groups, outputs, fields, positions});
    const Tensor products = at::matmul(g.permute({0, 2, 4, 1, 3}), filters.permute({0, 1, 4, 2, 3}));  // [sets, groups, P, N, F]
    const Tensor parts = products.permute({0, 3, 1, 4, 2}).reshape({sets * images, groups * fields, positions});
    grad_input = at::col2im(parts, size, geometry.kernel, geometry.dilation, geometry.padding, geometry.stride)
                     .reshape({sets, images, channels, size[0], size[1]});
    if (input.size(0) == 1) grad_input = grad_input.sum(0, true);
  }
  return {grad_input, grad_weight};
}

class LocalConv2d : public torch::autograd::Function<LocalConv2d> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                        const Geometry& geometry) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("hnetfast::local_conv2d", "").typed<decltype(local_conv2d::forward)>();
    ctx->save_for_backward({input, weight});
    ctx->saved_data["geometry"] = geometry.pack();
    ctx->saved_data["has_bias"] = bias.has_value();
    at::AutoDispatchBelowADInplaceOrView guard;
    return op.call(input, weight, bias, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, geometry.size,
                   geometry.groups);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("hnetfast::local_conv2d_backward", "")
                               .typed<decltype(local_conv2d::backward)>();
    static const auto bias_op = c10::Dispatcher::singleton()
                                    .findSchemaOrThrow("hnetfast::local_conv2d_bias_gradient", "")
                                    .typed<decltype(bias_gradient)>();
    const auto saved = ctx->get_saved_variables();
    const Tensor &input = saved[0], &weight = saved[1], &grad = grads[0];
    const Geometry geometry(ctx->saved_data["geometry"].toIntVector());
    const bool need_input = ctx->needs_input_grad(0), need_weight = ctx->needs_input_grad(1);
    const bool need_bias = ctx->saved_data["has_bias"].toBool() && ctx->needs_input_grad(2);
    variable_list results(4);
    if (!grad.defined()) return results;
    if (need_input || need_weight) {
      if (at::GradMode::is_enabled()) {
        const bool single = weight.dim() == 3;
        const auto add = [&](const Tensor& t) { return single ? t.unsqueeze(0) : t; };
        std::tie(results[0], results[1]) =
            differentiable_gradients(add(grad), add(input), add(weight), geometry, need_input, need_weight);
        for (Tensor& t : results) t = single && t.defined() ? t.squeeze(0) : t;
      } else {
        std::tie(results[0], results[1]) = op.call(grad, input, weight, geometry.kernel, geometry.stride, geometry.padding,
                                                   geometry.dilation, geometry.size, geometry.groups, need_input, need_weight);
      }
    }
    if (!need_input) results[0] = Tensor();
    if (!need_weight) results[1] = Tensor();
    std::vector<int64_t> bias_sizes = weight.sizes().vec();  // less the dimension of the entries of filters
    bias_sizes.erase(bias_sizes.end() - 2);
    if (need_bias) results[2] = at::GradMode::is_enabled() ? grad.sum(-4).reshape(bias_sizes) : bias_op.call(grad);
    return results;
  }
};

Tensor with_derivatives(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef kernel,
                        IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, IntArrayRef size, int64_t groups) {
  check_dense_arguments(kOp, input, weight);
  return LocalConv2d::apply(input, weight, bias, Geometry(kernel, stride, padding, dilation, size, groups));
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("local_conv2d", &forward);
  m.impl("local_conv2d_backward", &backward);
  m.impl("local_conv2d_bias_gradient", &bias_gradient);
}

TORCH_LIBRARY_IMPL(hnetfast, Autograd, m) { m.impl("local_conv2d", &with_derivatives); }

}  // namespace
}  // namespace local_conv2d
}  // namespace hnetfast
