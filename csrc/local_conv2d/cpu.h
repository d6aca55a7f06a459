// The two ways of the CPU to compute hnetfast::local_conv2d: with vectors of images, or of positions for few images.
// S is the type of the weights, T that of everything else and of the sums: float for reduced precision.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "common/buffer_pool.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "local_conv2d/local_conv2d.h"
#include "tiles/tile_kernels.h"

namespace hnetfast::local_conv2d {

// An array of which reading may go on to the end.
template <typename T>
struct Source {
  const T *data, *end;
  explicit Source(const at::Tensor& tensor) : data(tensor.const_data_ptr<T>()), end(data + tensor.numel()) {}
};

template <typename S, typename T>
void forward_by_images(const Shape& s, Source<T> input, int64_t input_stride, const S* weight, const T* bias, T* out);
template <typename S, typename T>
void forward_by_positions(const Shape& s, Source<T> input, int64_t input_stride, const S* weight, const T* bias, T* out);
template <typename S, typename T>
void weight_gradient_by_images(const Shape& s, Source<T> grad, Source<T> input, int64_t input_stride, S* grad_weight);
template <typename S, typename T>
void weight_gradient_by_positions(const Shape& s, Source<T> grad, Source<T> input, int64_t input_stride, S* grad_weight);
// Where `shared`, all sets have seen the same images.
template <typename S, typename T>
void input_gradient_by_images(const Shape& s, Source<T> grad, const S* weight, bool shared, T* grad_input);
template <typename S, typename T>
void input_gradient_by_positions(const Shape& s, Source<T> grad, const S* weight, bool shared, T* grad_input);

// What both share.

constexpr int64_t kFieldsAtOnce = 64;      // of a sum; longer ones are sums of such sums, which round less
constexpr int64_t kPieceBytes = 28 << 10;  // of weights that pass through the first-level cache together

inline int64_t multiply_adds(const Shape& s) { return s.sets * s.images * s.outputs * s.fields() * s.positions(); }

template <typename T>
at::Tensor pooled(int64_t count) {
  return empty_pooled({count}, at::TensorOptions(c10::CppTypeToScalarType<T>::value));
}

// Parts of about equal size, none larger than `most`; their number is a multiple of `multiple` unless that is too many.
struct Parts {
  int64_t total, count;

  Parts(int64_t total, int64_t most, int64_t multiple = 1)
      : total(total), count(std::min(round_up((total + most - 1) / most, multiple), total)) {}
  int64_t begin(int64_t i) const { return total * i / count; }
  int64_t size(int64_t i) const { return begin(i + 1) - begin(i); }
  int64_t largest() const { return (total + count - 1) / count; }
};

// The fields of a filter in pieces of at most `most`. The first kFieldsAtOnce or so are summed up in place; each sum of as
// many others, which some pieces begin and end, is added to them. Which these are depends on the number of fields alone.
struct FieldPieces {
  struct FieldPiece {
    int64_t first, count;
    bool in_place, begins, ends;
  };
  std::vector<FieldPiece> all;

  FieldPieces(int64_t fields, int64_t most) {
    const Parts sums(fields, kFieldsAtOnce);
    for (int64_t i = 0; i < sums.count; ++i) {
      const Parts pieces(sums.size(i), most);
      for (int64_t j = 0; j < pieces.count; ++j) {
        all.push_back({sums.begin(i) + pieces.begin(j), pieces.size(j), i == 0, j == 0, j + 1 == pieces.count});
      }
    }
  }
  int64_t largest() const {
    int64_t result = 0;
    for (const FieldPiece& piece : all) result = std::max(result, piece.count);
    return result;
  }
};

// A band of rows of padded images, the elements of a pixel `pitch` apart: [channels, height, width, pitch].
struct Layout {
  int64_t top = 0, height, width, pitch;

  Layout(const Shape& s, int64_t pitch) : height(s.height + 2 * s.padding_h), width(s.width + 2 * s.padding_w), pitch(pitch) {}
  // What filters at positions [begin, end) see.
  Layout(const Shape& s, int64_t pitch, int64_t begin, int64_t end) : Layout(s, pitch) {
    top = begin / s.out_w * s.stride_h;
    height = (end - 1) / s.out_w * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1 - top;
  }
  int64_t channel() const { return height * width * pitch; }

  // Where what filter entry f of a group sees is, from where its position is.
  std::vector<int64_t> shifts(const Shape& s) const {
    std::vector<int64_t> result(s.fields());
    for (int64_t f = 0; f < s.fields(); ++f) {
      const int64_t c = f / s.kernel(), ky = f % s.kernel() / s.kernel_w, kx = f % s.kernel_w;
      result[f] = c * channel() + (ky * s.dilation_h * width + kx * s.dilation_w) * pitch;
    }
    return result;
  }

  // Where positions are; those that see other rows are not in the band.
  std::vector<int64_t> places(const Shape& s) const {
    std::vector<int64_t> result(s.positions());
    for (int64_t p = 0; p < s.positions(); ++p) {
      result[p] = ((p / s.out_w * s.stride_h - top) * width + p % s.out_w * s.stride_w) * pitch;
    }
    return result;
  }

  // Pixels [from, from + width) of a channel are pixels `to` and on of a padded one.
  std::vector<Columns> rows(const Shape& s) const {
    const int64_t first = std::max<int64_t>(top - s.padding_h, 0), end = std::min(top + height - s.padding_h, s.height);
    const int64_t to = s.padding_h - top;  // where row 0 is, or would be
    std::vector<Columns> result;
    if (first >= end) return result;
    if (width == s.width) return {{first * width, (first + to) * width, (end - first) * width}};
    for (int64_t y = first; y < end; ++y) result.push_back({y * s.width, (y + to) * width + s.padding_w, s.width});
    return result;
  }
};

// Weights in the type of the sums: `rows` runs of `width`, `ld` apart; where they are, or converted into `copy`.
template <typename T>
struct Piece {
  const T* data;
  int64_t ld;

  template <typename S>
  static int64_t room(int64_t rows, int64_t width) {
    return std::is_same_v<S, T> ? 0 : rows * width;
  }

  template <typename S>
  Piece(const S* from, int64_t rows, int64_t from_ld, int64_t width, T* copy) {
    if constexpr (std::is_same_v<S, T>) {
      data = from, ld = from_ld;
    } else {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t i = 0; i < width; ++i) copy[r * width + i] = static_cast<T>(from[r * from_ld + i]);
      }
      data = copy, ld = width;
    }
  }
};

}  // namespace hnetfast::local_conv2d
