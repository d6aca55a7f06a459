// hnetfast::local_conv2d: checks, and which way the CPU computes it.
#include <ATen/OpMathType.h>
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

void check_needs(const c10::List<bool>& needs) {
  TORCH_CHECK_VALUE(needs.size() == 3, kBackwardOp, ": ", needs.size(), " needs for 3 tensors");
}

void check_grad(const Tensor& grad, const Tensor& weight, const Shape& s) {
  check_tensor(kBackwardOp, "grad_out", grad, weight.scalar_type(), {s.sets, s.images, s.outputs, s.out_h, s.out_w});
}

namespace {

// Few images leave most lanes of a vector of images empty; few positions those of a vector of positions.
template <typename T>
bool by_positions(const Shape& s) {
  return s.images <= kFewImages && s.positions() >= tile_kernels<T>().lanes;
}

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

// Σ_n grad[b, n, o, p], in an order that does not depend on the number of threads, as that of at::sum does.
Tensor bias_gradient(const Tensor& grad) {
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

std::vector<Tensor> backward(const Tensor& grad, const Tensor& input, const Tensor& weight, IntArrayRef kernel,
                             IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, IntArrayRef size, int64_t groups,
                             c10::List<bool> needs) {
  check_dense(kBackwardOp, "grad_out", grad);
  check_dense_arguments(kBackwardOp, input, weight);
  check_needs(needs);
  if (weight.dim() == 3) {
    return backward_without_sets(backward, grad, input, weight, kernel, stride, padding, dilation, size, groups, needs);
  }
  const bool need_input = needs[0], need_weight = needs[1];
  const Shape s = read_shape(input, weight, kernel, stride, padding, dilation, size, groups);
  check_grad(grad, weight, s);
  const at::ScalarType type = weight.scalar_type(), sums = at::toOpMathType(type);
  const Tensor g = grad.contiguous().to(sums), x = input.contiguous().to(sums), w = weight.contiguous();
  Tensor grad_input = at::empty({0}, x.options()), grad_weight = at::empty({0}, w.options());
  const Tensor grad_bias = needs[2] ? bias_gradient(grad) : at::empty({0}, w.options());
  if (need_weight) grad_weight = empty_pooled(w.sizes(), w.options());
  if (need_input) grad_input = empty_pooled(x.sizes(), x.options());
  if (g.numel() == 0) {
    if (need_weight) grad_weight.zero_();
    if (need_input) grad_input.zero_();
    return {grad_input.to(type), grad_weight, grad_bias};
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
  return {grad_input.to(type), grad_weight, grad_bias};
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("local_conv2d", &forward);
  m.impl("local_conv2d_backward", &backward);
}

}  // namespace
}  // namespace local_conv2d
}  // namespace hnetfast
