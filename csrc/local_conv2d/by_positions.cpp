// Locally connected convolution with vectors of positions, for few images: reading the weights is all it costs.
//
// Weights [O, F, P] are read in place, by vectors of which the last ends at P, and meet what filters see of an image,
// gathered into vectors of the same positions.
#include "local_conv2d/cpu.h"

namespace hnetfast::local_conv2d {
namespace {

// P positions by vectors, of which the last ends at P and overlaps the one before: the same sums come out twice.
struct Vectors {
  int64_t positions, lanes, padded;

  Vectors(int64_t positions, int64_t lanes) : positions(positions), lanes(lanes), padded(round_up(positions, lanes)) {}
  int64_t start(int64_t slot) const { return std::min(slot, positions - lanes); }
  int64_t slot(int64_t p) const { return p < padded - lanes ? p : p + padded - positions; }

  template <typename T>
  void spread(const T* from, T* to) const {
    for (int64_t v = 0; v < padded; v += lanes) std::memcpy(to + v, from + start(v), lanes * sizeof(T));
  }
  template <typename T>
  void collect(const T* from, T* to) const {
    for (int64_t v = 0; v < padded; v += lanes) std::memcpy(to + start(v), from + v, lanes * sizeof(T));
  }
};

// What filters see, [sets, n, groups, f, p], by vectors of positions.
template <typename T>
at::Tensor gather(const Shape& s, const Vectors& vectors, Source<T> input, int64_t input_stride) {
  const int64_t sets = input_stride ? s.sets : 1;
  const Layout layout(s, 1);
  const std::vector<int64_t> shifts = layout.shifts(s), places = layout.places(s);
  std::vector<int64_t> place_of(vectors.padded);
  vectors.spread(places.data(), place_of.data());
  const std::vector<Columns> rows = layout.rows(s);
  const at::Tensor gathered = pooled<T>(sets * s.images * s.channels * s.kernel() * vectors.padded);
  T* const fields = gathered.mutable_data_ptr<T>();
  parallel(sets * s.images * s.channels, multiply_adds(s), [&](int64_t begin, int64_t end) {
    T* padded = scratch<T>(layout.channel());
    std::fill_n(padded, layout.channel(), T(0));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / s.channels / s.images;
      const T* image = input.data + b * input_stride + (task - b * s.images * s.channels) * s.height * s.width;
      for (const Columns& row : rows) std::memcpy(padded + row.to, image + row.from, row.width * sizeof(T));
      T* to = fields + task * s.kernel() * vectors.padded;
      for (int64_t k = 0; k < s.kernel(); ++k, to += vectors.padded) {
        for (int64_t i = 0; i < vectors.padded; ++i) to[i] = padded[shifts[k] + place_of[i]];
      }
    }
  });
  return gathered;
}

// Rows of P of a tensor, by vectors.
template <typename T>
at::Tensor spread(const Vectors& vectors, const T* from, int64_t rows, int64_t work) {
  const at::Tensor result = pooled<T>(rows * vectors.padded);
  T* const to = result.mutable_data_ptr<T>();
  parallel(rows, work, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) vectors.spread(from + row * vectors.positions, to + row * vectors.padded);
  });
  return result;
}

}  // namespace

template <typename S, typename T>
void forward_by_positions(const Shape& s, Source<T> input, int64_t input_stride, const S* weight, const T* bias, T* out) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t F = s.fields(), P = s.positions(), per_group = s.outputs / s.groups, input_sets = input_stride ? s.sets : 1;
  const Vectors vectors(P, kernels.lanes);
  const at::Tensor gathered = gather(s, vectors, input, input_stride);
  const T* const fields = gathered.const_data_ptr<T>();
  const int64_t all_fields = s.channels * s.kernel() * vectors.padded;
  const int64_t tasks = s.sets * s.groups, threads = at::get_num_threads();
  const Parts output_parts(per_group, 4, tasks % threads ? threads : 1);
  const int64_t most = output_parts.largest(), sums_of_output = s.images * vectors.padded;
  const FieldPieces pieces(F, std::max<int64_t>(kPieceBytes / static_cast<int64_t>(sizeof(T)) / (most * P), 8));
  parallel(tasks * output_parts.count, multiply_adds(s), [&](int64_t begin, int64_t end) {
    T* sums = scratch<T>(2 * most * sums_of_output + Piece<T>::template room<S>(most, pieces.largest() * P));  // [o, n, p]
    T *const others = sums + most * sums_of_output, *const room = others + most * sums_of_output;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task % output_parts.count, g = task / output_parts.count % s.groups,
                    b = task / output_parts.count / s.groups;
      const int64_t outputs = output_parts.size(part), first = b * s.outputs + g * per_group + output_parts.begin(part);
      const T* seen = fields + (input_sets > 1 ? b : 0) * s.images * all_fields + g * F * vectors.padded;
      for (int64_t i = 0; i < outputs * s.images && bias; ++i) {
        vectors.spread(bias + (first + i / s.images) * P, sums + i * vectors.padded);
      }
      for (const auto& [f0, width, to_sums, begins, ends] : pieces.all) {
        const Piece<T> piece(weight + (first * F + f0) * P, outputs, F * P, width * P, room);
        kernels.multiply_positions(P, {piece.data, outputs, width, piece.ld, P},
                                   {seen + f0 * vectors.padded, s.images, width, all_fields, vectors.padded},
                                   {to_sums ? sums : others, outputs, s.images, sums_of_output, vectors.padded},
                                   !begins || (to_sums && bias), false);
        if (ends && !to_sums) kernels.add(sums, others, outputs * sums_of_output);
      }
      for (int64_t i = 0; i < outputs * s.images; ++i) {
        const int64_t o = (first + i / s.images) % s.outputs, n = i % s.images;
        vectors.collect(sums + i * vectors.padded, out + ((b * s.images + n) * s.outputs + o) * P);
      }
    }
  });
}

// grad_weight[o, f, p] = Σ_n grad[n, o, p] x̂[n, f, p], written as it lies.
template <typename S, typename T>
void weight_gradient_by_positions(const Shape& s, Source<T> grad, Source<T> input, int64_t input_stride, S* grad_weight) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  constexpr int64_t kOutputs = 4;
  const int64_t F = s.fields(), P = s.positions(), per_group = s.outputs / s.groups, threads = at::get_num_threads();
  const Vectors vectors(P, kernels.lanes);
  const at::Tensor gathered = gather(s, vectors, input, input_stride);
  const at::Tensor turned = spread(vectors, grad.data, s.sets * s.images * s.outputs, multiply_adds(s));
  const T *const fields = gathered.const_data_ptr<T>(), *const grads = turned.const_data_ptr<T>();
  const int64_t all_fields = s.channels * s.kernel() * vectors.padded, tasks = s.sets * s.groups;
  constexpr bool kInPlace = std::is_same_v<S, T>;
  const Parts output_parts(per_group, kOutputs, tasks % threads ? threads : 1);
  const Parts field_parts(F, kInPlace ? F : std::max<int64_t>(kPieceBytes / static_cast<int64_t>(sizeof(T)) / (kOutputs * P), 1));
  parallel(tasks * output_parts.count, multiply_adds(s), [&](int64_t begin, int64_t end) {
    T* copy = scratch<T>(Piece<T>::template room<S>(output_parts.largest(), field_parts.largest() * P) + 1);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task % output_parts.count, g = task / output_parts.count % s.groups,
                    b = task / output_parts.count / s.groups;
      const int64_t outputs = output_parts.size(part), output = g * per_group + output_parts.begin(part);
      const T* seen = fields + (input_stride ? b : 0) * s.images * all_fields + g * F * vectors.padded;
      for (int64_t i = 0; i < field_parts.count; ++i) {
        const int64_t f0 = field_parts.begin(i), width = field_parts.size(i);
        S* to = grad_weight + ((b * s.outputs + output) * F + f0) * P;
        const auto multiply = [&](T* sums, int64_t ld) {
          const T* grads_there = grads + (b * s.images * s.outputs + output) * vectors.padded;
          kernels.multiply_positions(P, {seen + f0 * vectors.padded, width, s.images, vectors.padded, all_fields},
                                     {grads_there, outputs, s.images, vectors.padded, s.outputs * vectors.padded},
                                     {sums, width, outputs, P, ld}, false, true);
        };
        if constexpr (kInPlace) {
          multiply(to, F * P);
        } else {
          multiply(copy, width * P);
          for (int64_t o = 0; o < outputs; ++o) {
            for (int64_t j = 0; j < width * P; ++j) to[o * F * P + j] = static_cast<S>(copy[o * width * P + j]);
          }
        }
      }
    }
  });
}

template <typename S, typename T>
void input_gradient_by_positions(const Shape& s, Source<T> grad, const S* weight, bool shared, T* grad_input) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  constexpr int64_t kOutputs = 8;
  const int64_t F = s.fields(), P = s.positions(), per_group = s.outputs / s.groups;
  const int64_t slots = shared ? 1 : s.sets, sets = shared ? s.sets : 1, threads = at::get_num_threads();
  const Vectors vectors(P, kernels.lanes);
  const at::Tensor turned = spread(vectors, grad.data, s.sets * s.images * s.outputs, multiply_adds(s));
  const at::Tensor summed = pooled<T>(slots * s.groups * F * s.images * vectors.padded);
  const T* const grads = turned.const_data_ptr<T>();  // [sets, n, o, p]
  T* const fields = summed.mutable_data_ptr<T>();     // [slots, groups, f, n, p]
  const Parts field_parts(F, std::max<int64_t>(kPieceBytes / static_cast<int64_t>(sizeof(T)) / (s.images * vectors.padded), 4),
                          threads);
  parallel(slots * s.groups * field_parts.count, multiply_adds(s), [&](int64_t begin, int64_t end) {
    T* copy = scratch<T>(Piece<T>::template room<S>(kOutputs, field_parts.largest() * P) + 1);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task % field_parts.count, g = task / field_parts.count % s.groups,
                    slot = task / field_parts.count / s.groups;
      const int64_t f0 = field_parts.begin(part), width = field_parts.size(part);
      T* sums = fields + ((slot * s.groups + g) * F + f0) * s.images * vectors.padded;
      for (int64_t set = 0; set < sets; ++set) {
        const int64_t b = shared ? set : slot;
        for (int64_t o = 0; o < per_group; o += kOutputs) {
          const int64_t outputs = std::min(kOutputs, per_group - o), output = g * per_group + o;
          const Piece<T> piece(weight + ((b * s.outputs + output) * F + f0) * P, outputs, F * P, width * P, copy);
          const T* grads_there = grads + (b * s.images * s.outputs + output) * vectors.padded;
          kernels.multiply_positions(P, {piece.data, width, outputs, P, piece.ld},
                                     {grads_there, s.images, outputs, s.outputs * vectors.padded, vectors.padded},
                                     {sums, width, s.images, s.images * vectors.padded, vectors.padded}, set > 0 || o > 0, false);
        }
      }
    }
  });
  const Layout layout(s, 1);
  const std::vector<int64_t> shifts = layout.shifts(s), places = layout.places(s);
  const std::vector<Columns> rows = layout.rows(s);
  parallel(slots * s.channels * s.images, multiply_adds(s), [&](int64_t begin, int64_t end) {
    T* padded = scratch<T>(layout.channel());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task % s.images, channel = task / s.images % s.channels, slot = task / s.images / s.channels;
      std::fill_n(padded, layout.channel(), T(0));
      for (int64_t k = 0; k < s.kernel(); ++k) {
        const T* from = fields + (((slot * s.channels + channel) * s.kernel() + k) * s.images + n) * vectors.padded;
        T* to = padded + shifts[k];
        for (int64_t p = 0; p < P; ++p) to[places[p]] += from[vectors.slot(p)];
      }
      T* image = grad_input + ((slot * s.images + n) * s.channels + channel) * s.height * s.width;
      for (const Columns& row : rows) std::memcpy(image + row.from, padded + row.to, row.width * sizeof(T));
    }
  });
}

#define HN_INSTANTIATE(S, T)                                                                          \
  template void forward_by_positions<S, T>(const Shape&, Source<T>, int64_t, const S*, const T*, T*); \
  template void weight_gradient_by_positions<S, T>(const Shape&, Source<T>, Source<T>, int64_t, S*);  \
  template void input_gradient_by_positions<S, T>(const Shape&, Source<T>, const S*, bool, T*);
HN_INSTANTIATE(float, float)
HN_INSTANTIATE(double, double)
HN_INSTANTIATE(at::Half, float)
HN_INSTANTIATE(at::BFloat16, float)

}  // namespace hnetfast::local_conv2d
