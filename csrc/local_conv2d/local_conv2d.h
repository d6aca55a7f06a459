// What hnetfast::local_conv2d computes, whatever computes it.
//
// out[b, n, o, p] = bias[b, o, p] + Σ_f weight[b, o, f, p] x̂[b, n, f, p] for sets of weights b, images n, outputs o,
// positions p = (y, x) of the output and entries f = (channel, ky, kx) of a filter. What entry f sees at p is
// x̂ = input[b, n, c, y·stride_h − padding_h + ky·dilation_h, x·stride_w − padding_w + kx·dilation_w], 0 outside.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

namespace hnetfast::local_conv2d {

// Sizes of one call. Images [sets or 1, images, channels, height, width], weights [sets, outputs, F, P].
struct Shape {
  int64_t sets, images, channels, height, width, outputs, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w,
      dilation_h, dilation_w, out_h, out_w, groups;
  int64_t kernel() const { return kernel_h * kernel_w; }
  int64_t fields() const { return channels / groups * kernel(); }
  int64_t positions() const { return out_h * out_w; }
  int64_t image() const { return channels * height * width; }
};

// Whether the arguments of an op have sizes to speak of; raises TypeError otherwise.
void check_dense_arguments(const char* op, const at::Tensor& input, const at::Tensor& weight);
// Sizes of a call whose tensors fit each other; raises ValueError otherwise.
Shape read_shape(const at::Tensor& input, const at::Tensor& weight, at::IntArrayRef kernel, at::IntArrayRef stride,
                 at::IntArrayRef padding, at::IntArrayRef dilation, at::IntArrayRef size, int64_t groups);
void check_bias(const std::optional<at::Tensor>& bias, const at::Tensor& weight, const Shape& s);
void check_needs(const c10::List<bool>& needs);
void check_grad(const at::Tensor& grad, const at::Tensor& weight, const Shape& s);

// Elements between the images of two sets, 0 where all sets see the same.
inline int64_t set_stride(const at::Tensor& input) { return input.size(0) == 1 ? 0 : input.stride(0); }

// One set of weights, [O, F, P], and images without a dimension for sets: what `run` makes of them with that dimension.
template <typename F, typename... Sizes>
at::Tensor without_sets(const F& run, const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                        const Sizes&... sizes) {
  return run(input.unsqueeze(0), weight.unsqueeze(0), bias ? std::optional(bias->unsqueeze(0)) : bias, sizes...).squeeze(0);
}

template <typename F, typename... Rest>
std::vector<at::Tensor> backward_without_sets(const F& run, const at::Tensor& grad, const at::Tensor& input,
                                              const at::Tensor& weight, const Rest&... rest) {
  std::vector<at::Tensor> grads = run(grad.unsqueeze(0), input.unsqueeze(0), weight.unsqueeze(0), rest...);
  for (at::Tensor& grad : grads) grad = grad.squeeze(0);
  return grads;
}

}  // namespace hnetfast::local_conv2d
