// hnetfast::local_conv2d on CUDA: tensors in, launches of kernels.cuh out.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "common/checks.h"
#include "local_conv2d/kernels.cuh"
#include "local_conv2d/local_conv2d.h"

namespace hnetfast::local_conv2d {
namespace {

using at::IntArrayRef;
using at::Tensor;

// Launches on the current stream; what is allocated returns to PyTorch's allocator, which keeps to that stream's order.
struct Device {
  const at::TensorOptions options;
  const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
  std::vector<Tensor> memory = {};

  template <typename T>
  T* allocate(int64_t count) {
    memory.push_back(at::empty({count}, options.dtype(c10::CppTypeToScalarType<T>::value)));
    return memory.back().mutable_data_ptr<T>();
  }

  template <typename... Parameters, typename... Arguments>
  void launch(int64_t blocks, int threads, int shared, void (*kernel)(Parameters...), Arguments... arguments) const {
    TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "local_conv2d: ", blocks, " thread blocks are too many");
    kernel<<<static_cast<unsigned>(blocks), threads, shared, stream>>>(static_cast<Parameters>(arguments)...);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
  }
};

// The kernels count what belongs to one image with 32 bits, and everything else with 64.
DeviceShape sizes_of(const Shape& s, const Tensor& input) {
  const auto check = [](const char* what, double size) {
    TORCH_CHECK(size < std::numeric_limits<int32_t>::max(), "local_conv2d: ", what, " is ", size,
                ", more than is accepted on CUDA");
  };
  const double height = double(s.height) + 2.0 * s.padding_h, width = double(s.width) + 2.0 * s.padding_w;
  check("the number of filters", double(s.outputs) * s.sets);
  check("the number of images", s.images);
  check("the number of entries of a filter", s.fields());
  check("the number of weights of a few channels of a filter", double(kRows) * s.kernel() * s.positions());
  check("the number of elements of a padded image", height * width * s.channels);
  for (const int64_t step : {s.stride_h, s.stride_w, s.dilation_h, s.dilation_w}) check("a stride or dilation", step);
  const auto i = [](int64_t size) { return static_cast<int>(size); };
  return {i(s.sets),       i(s.images),     i(s.channels), i(s.height),   i(s.width),     i(s.outputs),
          i(s.kernel_h),   i(s.kernel_w),   i(s.stride_h), i(s.stride_w), i(s.padding_h), i(s.padding_w),
          i(s.dilation_h), i(s.dilation_w), i(s.out_h),    i(s.out_w),    i(s.groups),    input.size(0) == 1};
}

template <typename F>
void with_type(at::ScalarType type, const F& run) {
  switch (type) {
    case at::kFloat: return run(float());
    case at::kDouble: return run(double());
    case at::kHalf: return run(at::Half());
    case at::kBFloat16: return run(at::BFloat16());
    default: TORCH_CHECK(false, "local_conv2d: ", type, " is not accepted on CUDA");
  }
}

void check_device(const Tensor& tensor, const Tensor& weight, const char* name) {
  TORCH_CHECK_VALUE(tensor.device() == weight.device(), "local_conv2d: ", name, " is on ", tensor.device(), " and weight on ",
                    weight.device());
}

Tensor forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef kernel,
               IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, IntArrayRef size, int64_t groups) {
  check_dense_arguments("local_conv2d", input, weight);
  if (weight.dim() == 3) {
    return without_sets(forward, input, weight, bias, kernel, stride, padding, dilation, size, groups);
  }
  const Shape s = read_shape(input, weight, kernel, stride, padding, dilation, size, groups);
  check_bias(bias, weight, s);
  check_device(input, weight, "input");
  if (bias) check_device(*bias, weight, "bias");
  const c10::cuda::CUDAGuard guard(weight.device());
  const Tensor x = input.contiguous(), w = weight.contiguous(), b = bias ? bias->contiguous() : Tensor();
  const Tensor out = at::empty({s.sets, s.images, s.outputs, s.out_h, s.out_w}, w.options());
  if (out.numel() == 0) return out;
  const DeviceShape sizes = sizes_of(s, x);
  with_type(w.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Device device{w.options()};
    run_forward<T>(sizes, x.const_data_ptr<T>(), w.const_data_ptr<T>(), b.defined() ? b.const_data_ptr<T>() : nullptr,
                   out.mutable_data_ptr<T>(), device);
  });
  return out;
}

std::vector<Tensor> backward(const Tensor& grad, const Tensor& input, const Tensor& weight, IntArrayRef kernel,
                             IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, IntArrayRef size, int64_t groups,
                             c10::List<bool> needs) {
  check_dense("local_conv2d_backward", "grad_out", grad);
  check_dense_arguments("local_conv2d_backward", input, weight);
  check_needs(needs);
  if (weight.dim() == 3) {
    return backward_without_sets(backward, grad, input, weight, kernel, stride, padding, dilation, size, groups, needs);
  }
  const bool need_input = needs[0], need_weight = needs[1];
  const Shape s = read_shape(input, weight, kernel, stride, padding, dilation, size, groups);
  check_grad(grad, weight, s);
  check_device(input, weight, "input");
  check_device(grad, weight, "grad_out");
  const c10::cuda::CUDAGuard guard(weight.device());
  const Tensor g = grad.contiguous(), x = input.contiguous(), w = weight.contiguous();
  const Tensor grad_input = at::empty(need_input ? x.sizes() : IntArrayRef{0}, x.options());
  const Tensor grad_weight = at::empty(need_weight ? w.sizes() : IntArrayRef{0}, w.options());
  const Tensor grad_bias = needs[2] ? grad.sum(1).flatten(2) : at::empty({0}, w.options());
  if (g.numel() == 0) return {grad_input.zero_(), grad_weight.zero_(), grad_bias};
  const DeviceShape sizes = sizes_of(s, x);
  with_type(w.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    Device device{w.options()};
    const T* slopes = g.const_data_ptr<T>();
    if (need_weight) {
      run_grad_weight<T>(sizes, slopes, x.const_data_ptr<T>(), grad_weight.mutable_data_ptr<T>(), device);
    }
    if (need_input) {
      run_grad_input<T>(sizes, slopes, w.const_data_ptr<T>(), grad_input.mutable_data_ptr<T>(), device);
    }
  });
  return {grad_input, grad_weight, grad_bias};
}

TORCH_LIBRARY_IMPL(hnetfast, CUDA, m) {
  m.impl("local_conv2d", &forward);
  m.impl("local_conv2d_backward", &backward);
}

}  // namespace
}  // namespace hnetfast::local_conv2d
