// hnetfast::batched_linear: a linear layer evaluated for many sets of weights, out[b] = x[b]·W[b]ᵀ + bias[b].
//
// The matrices usually lie in rows of generated weights, W[b] one row behind W[b − 1]; they are read where they are.
// One thread computes a set, or part of one where there are few: no element depends on the number of threads.
#include <ATen/ATen.h>
#include <torch/library.h>

#include "common/buffer_pool.h"
#include "common/checks.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "tiles/parts.h"

namespace hnetfast {
namespace {

using at::Tensor;

constexpr const char *kOp = "batched_linear", *kBackwardOp = "batched_linear_backward";

// Fewer rows are dot products with the rows of the matrices, for which the library needs no more than their bytes.
constexpr int64_t kFewRows = 4;

struct Layers {
  int64_t sets, rows, in, out;
  int64_t work() const { return sets * rows * in * out; }
};

Layers layers(const Tensor& x, const Tensor& weight) { return {weight.size(0), x.size(1), x.size(2), weight.size(1)}; }

// out[b]ᵀ = W[b]·x[b]ᵀ: W is read row by row as it lies, x is packed, once where all sets share it.
template <typename T>
void forward_kernel(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& out) {
  const Layers s = layers(x, weight);
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t pitch = round_up(s.rows, kernels.lanes);
  const bool shared = x.stride(0) == 0 || s.sets == 1;
  const T *xs = x.const_data_ptr<T>(), *w = weight.const_data_ptr<T>();
  const T* biases = bias.defined() ? bias.const_data_ptr<T>() : nullptr;
  const int64_t bias_step = bias.defined() ? bias.stride(0) : 0;
  T* results = out.mutable_data_ptr<T>();

  const auto pack = [&](int64_t b, T* to) {
    const T* from = xs + b * x.stride(0);
    const T* end = from + (s.rows - 1) * x.stride(1) + s.in;
    kernels.pack_transposed(to, pitch, from, end, x.stride(1), s.rows, {0, 0, s.in});
  };
  at::DataPtr memory;
  T* packed = nullptr;
  if (shared) {
    memory = at::getCPUAllocator()->allocate(pitch * s.in * sizeof(T));
    packed = static_cast<T*>(memory.get());
    pack(0, packed);
  }
  for_each_part(s.sets, s.out, s.work(), [&](int64_t b, int64_t first, int64_t last) {
    const int64_t count = last - first;
    T* result = scratch<T>(pitch * (count + (shared ? 0 : s.in)));
    const T* inputs = packed;
    if (!shared) {
      pack(b, result + pitch * count);
      inputs = result + pitch * count;
    }
    kernels.gemm({w + b * weight.stride(0) + first * weight.stride(1), count, s.in, weight.stride(1)},
                 {inputs, s.in, pitch, pitch}, {result, count, pitch, pitch}, nullptr, false);
    T* to = results + b * s.rows * s.out;
    const T* shift = biases ? biases + b * bias_step : nullptr;
    for (int64_t n = 0; n < s.rows; ++n) {
      for (int64_t o = first; o < last; ++o) {
        to[n * s.out + o] = result[(o - first) * pitch + n] + (shift ? shift[o] : T(0));
      }
    }
  });
}

template <typename T>
void grad_input_kernel(const Tensor& grad, const Tensor& weight, const Tensor& out) {
  const Layers s = layers(out, weight);
  const T *g = grad.const_data_ptr<T>(), *w = weight.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  for_each_part(s.sets, s.in, s.work(), [&](int64_t b, int64_t first, int64_t last) {
    multiply<T>({g + b * s.rows * s.out, s.rows, s.out, s.out},
                {w + b * weight.stride(0) + first, s.out, last - first, weight.stride(1)},
                {to + b * s.rows * s.in + first, s.rows, last - first, s.in}, false, scratch<T>(spare_of<T>(s.rows, s.out)));
  });
}

template <typename T>
void grad_weight_kernel(const Tensor& grad, const Tensor& x, const Tensor& out) {
  const Layers s = layers(x, out);
  const T *g = grad.const_data_ptr<T>(), *xs = x.const_data_ptr<T>();
  T* to = out.mutable_data_ptr<T>();
  for_each_part(s.sets, s.out, s.work(), [&](int64_t b, int64_t first, int64_t last) {
    const MatrixView<const T> some{g + b * s.rows * s.out + first, s.rows, last - first, s.out};
    multiply<T>(some.t(), {xs + b * x.stride(0), s.rows, s.in, x.stride(1)},
                {to + (b * s.out + first) * s.in, last - first, s.in, s.in}, false, scratch<T>(spare_of<T>(s.out, s.rows)));
  });
}

void check(const char* op, const Tensor& x, const Tensor& weight) {
  check_dense(op, "x", x);
  check_dense(op, "weight", weight);
  TORCH_CHECK_VALUE(x.dim() == 3 && weight.dim() == 3 && x.size(0) == weight.size(0) && x.size(2) == weight.size(2), op,
                    ": x has shape ", x.sizes(), ", weight ", weight.sizes(), ", expected [sets, batch, in] and [sets, out, in]");
  check_tensor(op, "weight", weight, x.scalar_type(), weight.sizes());
  TORCH_CHECK_VALUE(at::isFloatingType(x.scalar_type()), op, ": x is ", x.scalar_type(), ", expected floating point");
}

bool has_kernel(const Tensor& x) { return x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble; }

Tensor batched_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  check(kOp, x, weight);
  if (bias) check_tensor(kOp, "bias", *bias, x.scalar_type(), weight.sizes().slice(0, 2));
  if (x.size(1) < kFewRows || !has_kernel(x)) {
    // The library multiplies a single matrix in another order than several, so it is given twice.
    const int64_t sets = weight.size(0), batch = sets == 1 ? 2 : sets;
    const Tensor xs = x.expand({batch, -1, -1}), transposed = weight.expand({batch, -1, -1}).transpose(1, 2);
    const Tensor out = bias ? at::baddbmm(bias->expand({batch, -1}).unsqueeze(1), xs, transposed) : at::bmm(xs, transposed);
    return out.narrow(0, 0, sets);
  }
  const Tensor out = empty_pooled({weight.size(0), x.size(1), weight.size(1)}, x.options());
  if (out.numel() == 0) return out;
  const Tensor start = bias ? (bias->stride(1) == 1 ? *bias : bias->contiguous()).resolve_neg() : Tensor();
  const auto compute = x.scalar_type() == at::kFloat ? forward_kernel<float> : forward_kernel<double>;
  compute(by_rows(x), by_rows(weight), start, out);
  return out;
}

std::vector<Tensor> batched_linear_backward(const Tensor& grad_out, const Tensor& x, const Tensor& weight,
                                            c10::List<bool> needs) {
  check(kBackwardOp, x, weight);
  check_tensor(kBackwardOp, "grad_out", grad_out, x.scalar_type(), {x.size(0), x.size(1), weight.size(1)});
  TORCH_CHECK_VALUE(needs.size() == 3, kBackwardOp, ": ", needs.size(), " needs for 3 tensors");
  const Tensor grad = grad_out.contiguous().resolve_neg(), none = at::empty({0}, x.options());
  const bool single = x.scalar_type() == at::kFloat, by_library = !has_kernel(x) || grad.numel() == 0 || x.numel() == 0;
  std::vector<Tensor> results{none, none, needs[2] ? grad.sum(1) : none};
  if (needs[0]) {
    results[0] = by_library ? at::bmm(grad, weight) : empty_pooled(x.sizes(), x.options());
    if (!by_library) (single ? grad_input_kernel<float> : grad_input_kernel<double>)(grad, by_rows(weight), results[0]);
  }
  if (needs[1]) {
    results[1] = by_library ? at::bmm(grad.transpose(1, 2), x) : empty_pooled(weight.sizes(), weight.options());
    if (!by_library) (single ? grad_weight_kernel<float> : grad_weight_kernel<double>)(grad, by_rows(x), results[1]);
  }
  return results;
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("batched_linear", &batched_linear);
  m.impl("batched_linear_backward", &batched_linear_backward);
}

}  // namespace
}  // namespace hnetfast
