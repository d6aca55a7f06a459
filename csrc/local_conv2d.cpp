// hnetfast::local_conv2d on the CPU: a convolution whose every output position has filters of its own.
//
// Weights [O, F, P] have the P positions side by side, so a vector holds some of them and multiplies what the filters of
// as many positions see. That is gathered for a tile of positions and some of the F inputs of a filter at a time, into
// memory that stays in the caches: neither the unfolded images nor products are ever held whole, and every weight is
// read once for each block of images.
#include <ATen/ATen.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>

#include "buffer_pool.h"
#include "tasks.h"
#include "tile_kernels.h"

namespace hnetfast {
namespace {

using at::IntArrayRef;
using at::Tensor;

constexpr const char* kOp = "local_conv2d";
constexpr int64_t kTile = 64;          // positions
constexpr int64_t kImages = 32;        // that go through the weights together
constexpr int64_t kFieldBytes = 192 << 10;

// Sizes of one call. Images [sets or 1, images, channels, height, width], weights [sets, outputs, F, P].
struct Shape {
  int64_t sets, images, channels, height, width, outputs, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w,
      dilation_h, dilation_w, out_h, out_w, groups;
  int64_t fields() const { return channels / groups * kernel_h * kernel_w; }
  int64_t positions() const { return out_h * out_w; }
};

// Calls run(set, group, first position, count of positions, first output of the group, last) for every task. Outputs are
// shared out too where positions are too few for the threads; each is computed in the same way whoever does it.
template <typename F>
void for_each_task(const Shape& s, int64_t rows, const F& run) {
  const int64_t tiles = (s.positions() + kTile - 1) / kTile, base = s.sets * s.groups * tiles;
  const int64_t threads = at::get_num_threads(), wanted = base % threads ? threads : 1;  // tasks of equal size for all
  const int64_t splits = base >= 4 * threads ? 1 : std::clamp<int64_t>(wanted, 1, std::max<int64_t>(rows, 1));
  const int64_t work = s.sets * s.images * s.outputs * s.fields() * s.positions();
  parallel(base * splits, work, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t split = task % splits, rest = task / splits;
      const int64_t p0 = rest % tiles * kTile, g = rest / tiles % s.groups, b = rest / tiles / s.groups;
      run(b, g, p0, std::min(kTile, s.positions() - p0), rows * split / splits, rows * (split + 1) / splits);
    }
  });
}

// What the filters of positions [p0, p0 + count) see of an image through entries [f0, f1) of the filter, [f, pitch].
template <typename T, typename F>
void for_each_field(const Shape& s, int64_t g, int64_t f0, int64_t f1, int64_t p0, int64_t count, const F& run) {
  const int64_t per_group = s.channels / s.groups;
  for (int64_t f = f0; f < f1; ++f) {
    const int64_t c = g * per_group + f / (s.kernel_h * s.kernel_w), k = f % (s.kernel_h * s.kernel_w);
    const int64_t dy = k / s.kernel_w * s.dilation_h - s.padding_h, dx = k % s.kernel_w * s.dilation_w - s.padding_w;
    for (int64_t i = 0; i < count;) {  // a row of outputs at a time
      const int64_t y = (p0 + i) / s.out_w, x = (p0 + i) % s.out_w, length = std::min(s.out_w - x, count - i);
      const int64_t in_y = y * s.stride_h + dy, in_x = x * s.stride_w + dx;
      if (in_y >= 0 && in_y < s.height) {
        // Positions whose input lies in the image: 0 ≤ in_x + t·stride < width.
        const int64_t first = in_x >= 0 ? 0 : (-in_x + s.stride_w - 1) / s.stride_w;
        const int64_t last = in_x >= s.width ? 0 : (s.width - 1 - in_x) / s.stride_w + 1;
        const int64_t from = std::min(first, length), to = std::clamp(last, from, length);
        if (to > from) run(f - f0, i + from, to - from, (c * s.height + in_y) * s.width + in_x + from * s.stride_w);
      }
      i += length;
    }
  }
}

template <typename T>
void gather(const Shape& s, const T* image, int64_t g, int64_t f0, int64_t f1, int64_t p0, int64_t count, int64_t pitch, T* fields) {
  std::fill(fields, fields + (f1 - f0) * pitch, T(0));
  for_each_field<T>(s, g, f0, f1, p0, count, [&](int64_t f, int64_t i, int64_t n, int64_t from) {
    T* to = fields + f * pitch + i;
    if (s.stride_w == 1) {
      std::memcpy(to, image + from, n * sizeof(T));
    } else if (s.stride_w == 2) {
      for (int64_t t = 0; t < n; ++t) to[t] = image[from + 2 * t];
    } else {
      for (int64_t t = 0; t < n; ++t) to[t] = image[from + t * s.stride_w];
    }
  });
}

// Rows of `count` elements, `ld` apart, to rows `pitch` apart that end in zeros, and back.
template <typename T>
void pack(const T* from, int64_t rows, int64_t ld, int64_t count, int64_t pitch, T* to) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * pitch, from + r * ld, count * sizeof(T));
    std::fill(to + r * pitch + count, to + (r + 1) * pitch, T(0));
  }
}

template <typename T>
int64_t fields_at_once(const Shape& s, int64_t images, int64_t pitch) {
  const int64_t fitting = kFieldBytes / static_cast<int64_t>(sizeof(T)) / std::max<int64_t>(images * pitch, 1);
  return std::clamp<int64_t>(fitting, 1, std::max<int64_t>(s.fields(), 1));
}

template <typename T>
void forward_impl(const Shape& s, const T* input, int64_t set_stride, const T* weight, const T* bias, T* out) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t F = s.fields(), P = s.positions(), image = s.channels * s.height * s.width, per_group = s.outputs / s.groups;
  for_each_task(s, per_group, [&](int64_t b, int64_t g, int64_t p0, int64_t count, int64_t o0, int64_t o1) {
    const int64_t pitch = round_up(count, kernels.lanes), rows = o1 - o0, whole = count / kernels.lanes * kernels.lanes;
    for (int64_t n0 = 0; n0 < s.images; n0 += kImages) {
      const int64_t images = std::min(kImages, s.images - n0), step = fields_at_once<T>(s, images, pitch);
      T* fields = scratch<T>((images * step + rows * images + 4 * step) * pitch);
      T *sums = fields + images * step * pitch, *packed = sums + rows * images * pitch;  // sums [o, n, pitch]
      for (int64_t o = o0; o < o1; ++o) {
        T* to = sums + (o - o0) * images * pitch;
        if (bias) pack(bias + (b * s.outputs + g * per_group + o) * P + p0, 1, P, count, pitch, to);
        else std::fill(to, to + pitch, T(0));
        for (int64_t n = 1; n < images; ++n) std::copy(to, to + pitch, to + n * pitch);
      }
      for (int64_t f0 = 0; f0 < F; f0 += step) {
        const int64_t width = std::min(step, F - f0);
        for (int64_t n = 0; n < images; ++n) {
          gather(s, input + b * set_stride + (n0 + n) * image, g, f0, f0 + width, p0, count, pitch, fields + n * step * pitch);
        }
        for (int64_t o = o0; o < o1; o += 4) {
          const int64_t some = std::min<int64_t>(4, o1 - o);
          const T* rows_of_o = weight + ((b * s.outputs + g * per_group + o) * F + f0) * P + p0;
          T* to = sums + (o - o0) * images * pitch;
          // Whole vectors are read where they are, the rest from a padded copy.
          if (whole > 0) {
            kernels.multiply_positions(some, images, width, whole, rows_of_o, F * P, P, fields, step * pitch, pitch, to,
                                       images * pitch, pitch, true);
          }
          if (whole == count) continue;
          const int64_t left = pitch - whole;
          for (int64_t i = 0; i < some; ++i) pack(rows_of_o + i * F * P + whole, width, P, count - whole, left, packed + i * step * left);
          kernels.multiply_positions(some, images, width, left, packed, step * left, left, fields + whole, step * pitch, pitch,
                                     to + whole, images * pitch, pitch, true);
        }
      }
      for (int64_t o = o0; o < o1; ++o) {
        for (int64_t n = 0; n < images; ++n) {
          std::memcpy(out + ((b * s.images + n0 + n) * s.outputs + g * per_group + o) * P + p0,
                      sums + ((o - o0) * images + n) * pitch, count * sizeof(T));
        }
      }
    }
  });
}

// grad_weight[o, f, p] = Σ_n grad[n, o, p] fields[n, f, p]
template <typename T>
void weight_impl(const Shape& s, const T* grad, const T* input, int64_t set_stride, T* grad_weight) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t F = s.fields(), P = s.positions(), image = s.channels * s.height * s.width, per_group = s.outputs / s.groups;
  for_each_task(s, per_group, [&](int64_t b, int64_t g, int64_t p0, int64_t count, int64_t o0, int64_t o1) {
    const int64_t pitch = round_up(count, kernels.lanes), rows = o1 - o0, step = fields_at_once<T>(s, s.images, pitch);
    const int64_t whole = count / kernels.lanes * kernels.lanes, left = pitch - whole;
    T* fields = scratch<T>((s.images * step + rows * s.images + 4 * step) * pitch);
    T *g_rows = fields + s.images * step * pitch, *sums = g_rows + rows * s.images * pitch;  // g_rows [o, n, pitch]
    for (int64_t o = o0; o < o1; ++o) {
      for (int64_t n = 0; n < s.images; ++n) {
        pack(grad + ((b * s.images + n) * s.outputs + g * per_group + o) * P + p0, 1, P, count, pitch, g_rows + ((o - o0) * s.images + n) * pitch);
      }
    }
    for (int64_t f0 = 0; f0 < F; f0 += step) {
      const int64_t width = std::min(step, F - f0);
      for (int64_t n = 0; n < s.images; ++n) {
        gather(s, input + b * set_stride + n * image, g, f0, f0 + width, p0, count, pitch, fields + n * step * pitch);
      }
      for (int64_t o = o0; o < o1; o += 4) {
        const int64_t some = std::min<int64_t>(4, o1 - o);
        const T* g_of_o = g_rows + (o - o0) * s.images * pitch;
        T* to = grad_weight + ((b * s.outputs + g * per_group + o) * F + f0) * P + p0;
        // Whole vectors are written where they belong, the rest by way of a padded copy.
        if (whole > 0) {
          kernels.multiply_positions(some, width, s.images, whole, g_of_o, s.images * pitch, pitch, fields, pitch, step * pitch,
                                     to, F * P, P, false);
        }
        if (left == 0) continue;
        kernels.multiply_positions(some, width, s.images, left, g_of_o + whole, s.images * pitch, pitch, fields + whole, pitch,
                                   step * pitch, sums, step * left, left, false);
        for (int64_t i = 0; i < some; ++i) {
          for (int64_t f = 0; f < width; ++f) {
            std::memcpy(to + (i * F + f) * P + whole, sums + (i * step + f) * left, (count - whole) * sizeof(T));
          }
        }
      }
    }
  });
}

// fields[n, f, p] = Σ_o weight[o, f, p] grad[n, o, p], added up where they come from. Tasks are channels: no two of them
// add to the same input.
template <typename T>
void input_impl(const Shape& s, const T* grad, const T* weight, bool shared, T* grad_input) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t F = s.fields(), P = s.positions(), per_group = s.outputs / s.groups, kernel = s.kernel_h * s.kernel_w;
  const int64_t image = s.channels * s.height * s.width, in_group = s.channels / s.groups;
  const int64_t slots = shared ? 1 : s.sets, sets = shared ? s.sets : 1;
  parallel(slots * s.channels, s.sets * s.images * s.outputs * F * P, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t channel = task % s.channels, slot = task / s.channels, g = channel / in_group;
      const int64_t f0 = channel % in_group * kernel;
      for (int64_t set = 0; set < sets; ++set) {
        const int64_t b = shared ? set : slot;
        for (int64_t p0 = 0; p0 < P; p0 += kTile) {
          const int64_t count = std::min(kTile, P - p0), pitch = round_up(count, kernels.lanes);
          const int64_t whole = count / kernels.lanes * kernels.lanes, left = pitch - whole;
          for (int64_t n0 = 0; n0 < s.images; n0 += kImages) {
            const int64_t images = std::min(kImages, s.images - n0);
            T* fields = scratch<T>((images * kernel + 4 * images + 4 * kernel) * pitch);  // [n, f, pitch]
            T *g_rows = fields + images * kernel * pitch, *packed = g_rows + 4 * images * pitch;
            const int64_t first = b * s.outputs + g * per_group;
            if (whole > 0) {
              kernels.multiply_positions(images, kernel, per_group, whole, grad + ((b * s.images + n0) * s.outputs + g * per_group) * P + p0,
                                         s.outputs * P, P, weight + (first * F + f0) * P + p0, P, F * P, fields, kernel * pitch,
                                         pitch, false);
            }
            for (int64_t o = 0; o < per_group && left > 0; o += 4) {
              const int64_t some = std::min<int64_t>(4, per_group - o);
              for (int64_t i = 0; i < some; ++i) {
                const int64_t output = g * per_group + o + i;
                pack(weight + ((b * s.outputs + output) * F + f0) * P + p0 + whole, kernel, P, count - whole, left, packed + i * kernel * left);
                for (int64_t n = 0; n < images; ++n) {
                  pack(grad + ((b * s.images + n0 + n) * s.outputs + output) * P + p0 + whole, 1, P, count - whole, left,
                       g_rows + (i * images + n) * left);
                }
              }
              kernels.multiply_positions(images, kernel, some, left, g_rows, left, images * left, packed, left, kernel * left,
                                         fields + whole, kernel * pitch, pitch, o > 0);
            }
            for (int64_t n = 0; n < images; ++n) {
              T* target = grad_input + (slot * s.images + n0 + n) * image;
              const T* source = fields + n * kernel * pitch;
              for_each_field<T>(s, g, f0, f0 + kernel, p0, count, [&](int64_t f, int64_t i, int64_t length, int64_t to) {
                for (int64_t t = 0; t < length; ++t) target[to + t * s.stride_w] += source[f * pitch + i + t];
              });
            }
          }
        }
      }
    }
  });
}

Shape read_shape(const Tensor& input, const Tensor& weight, IntArrayRef kernel, IntArrayRef stride, IntArrayRef padding,
                 IntArrayRef dilation, IntArrayRef size, int64_t groups) {
  TORCH_CHECK_VALUE(input.dim() == 5 && weight.dim() == 4, kOp, ": input has shape ", input.sizes(), " and weight ", weight.sizes(),
                    ", expected [sets or 1, N, C, H, W] and [sets, O, F, P]");
  TORCH_CHECK_VALUE(input.scalar_type() == weight.scalar_type() && (input.scalar_type() == at::kFloat || input.scalar_type() == at::kDouble),
                    kOp, ": input is ", input.scalar_type(), " and weight ", weight.scalar_type(), ", expected Float or Double");
  for (const auto& [name, pair] : {std::pair("kernel_size", kernel), std::pair("stride", stride), std::pair("dilation", dilation), std::pair("output_size", size)}) {
    TORCH_CHECK_VALUE(pair.size() == 2 && pair[0] > 0 && pair[1] > 0, kOp, ": ", name, " is ", pair, ", expected two positive integers");
  }
  TORCH_CHECK_VALUE(padding.size() == 2 && padding[0] >= 0 && padding[1] >= 0, kOp, ": padding is ", padding, ", expected two integers");
  const Shape s{weight.size(0), input.size(1), input.size(2), input.size(3), input.size(4), weight.size(1), kernel[0], kernel[1],
                stride[0], stride[1], padding[0], padding[1], dilation[0], dilation[1], size[0], size[1], groups};
  TORCH_CHECK_VALUE(input.size(0) == 1 || input.size(0) == s.sets, kOp, ": input has ", input.size(0), " sets, weight ", s.sets);
  TORCH_CHECK_VALUE(groups > 0 && s.channels % groups == 0 && s.outputs % groups == 0, kOp, ": groups is ", groups, " for ",
                    s.channels, " and ", s.outputs, " channels");
  TORCH_CHECK_VALUE(weight.size(2) == s.fields() && weight.size(3) == s.positions(), kOp, ": weight has shape ", weight.sizes(),
                    ", expected [", s.sets, ", ", s.outputs, ", ", s.fields(), ", ", s.positions(), "]");
  return s;
}

template <typename F>
void with_type(at::ScalarType type, const F& run) {
  if (type == at::kFloat) run(float());
  else run(double());
}

int64_t set_stride(const Tensor& input) { return input.size(0) == 1 ? 0 : input.stride(0); }

Tensor forward(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, IntArrayRef kernel, IntArrayRef stride,
               IntArrayRef padding, IntArrayRef dilation, IntArrayRef size, int64_t groups) {
  const Shape s = read_shape(input, weight, kernel, stride, padding, dilation, size, groups);
  TORCH_CHECK_VALUE(!bias || (bias->sizes() == IntArrayRef({s.sets, s.outputs, s.positions()}) && bias->scalar_type() == weight.scalar_type()),
                    kOp, ": bias does not fit the weight");
  const Tensor x = input.contiguous(), w = weight.contiguous(), b = bias ? bias->contiguous() : Tensor();
  const Tensor out = empty_pooled({s.sets, s.images, s.outputs, s.out_h, s.out_w}, w.options());
  if (out.numel() == 0) return out;
  with_type(w.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    forward_impl<T>(s, x.const_data_ptr<T>(), set_stride(x), w.const_data_ptr<T>(), b.defined() ? b.const_data_ptr<T>() : nullptr,
                    out.mutable_data_ptr<T>());
  });
  return out;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& input, const Tensor& weight, IntArrayRef kernel,
                                    IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation, IntArrayRef size, int64_t groups,
                                    bool need_input, bool need_weight) {
  const Shape s = read_shape(input, weight, kernel, stride, padding, dilation, size, groups);
  TORCH_CHECK_VALUE(grad.sizes() == IntArrayRef({s.sets, s.images, s.outputs, s.out_h, s.out_w}) && grad.scalar_type() == weight.scalar_type(),
                    kOp, "_backward: grad is ", grad.scalar_type(), " ", grad.sizes());
  const Tensor g = grad.contiguous(), x = input.contiguous(), w = weight.contiguous();
  Tensor grad_input = at::empty({0}, w.options()), grad_weight = grad_input;
  if (need_weight) grad_weight = empty_pooled(w.sizes(), w.options());
  if (need_input) grad_input = at::zeros(x.sizes(), x.options());
  with_type(w.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    if (need_weight && s.images == 0) grad_weight.zero_();
    else if (need_weight) weight_impl<T>(s, g.const_data_ptr<T>(), x.const_data_ptr<T>(), set_stride(x), grad_weight.mutable_data_ptr<T>());
    if (need_input) input_impl<T>(s, g.const_data_ptr<T>(), w.const_data_ptr<T>(), x.size(0) == 1 && s.sets > 1, grad_input.mutable_data_ptr<T>());
  });
  return {grad_input, grad_weight};
}

TORCH_LIBRARY_IMPL(hnetfast, CPU, m) {
  m.impl("local_conv2d", &forward);
  m.impl("local_conv2d_backward", &backward);
}

}  // namespace
}  // namespace hnetfast
