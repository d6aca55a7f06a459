// Locally connected convolution with vectors of images.
//
// At each position it is a product of matrices, filters [O, F] by what they see of the images, [F, N]. Images lie with
// N innermost, so that what entry f of the filters sees at position p of all images is a vector: nothing is unfolded.
// Weights [O, F, P] are read in place, each once for a block of images, in pieces that stay in the caches while all
// their positions pass by. Tiles do not change the order in which anything is summed, nor does the number of threads.
#include "local_conv2d/cpu.h"

namespace hnetfast::local_conv2d {
namespace {

constexpr int64_t kVectors = 4;  // of images, or of outputs, side by side
constexpr int64_t kTasksPerThread = 6;

std::vector<int64_t> multiples(int64_t count, int64_t step) {
  std::vector<int64_t> result(count);
  for (int64_t i = 0; i < count; ++i) result[i] = i * step;
  return result;
}

// Images that go through the weights together: by default as many vectors as fit side by side.
template <typename T>
Parts image_blocks(const Shape& s, int64_t vectors = kVectors) {
  return Parts(s.images, std::max<int64_t>(vectors * tile_kernels<T>().lanes, 32));
}

// A channel of some images in Layout.
template <typename T>
void turn_channel(const Shape& s, const Layout& layout, const std::vector<Columns>& rows, const T* from, const T* end,
                  int64_t images, T* to) {
  if (s.padding_h || s.padding_w) std::fill_n(to, layout.channel(), T(0));
  for (const Columns& row : rows) tile_kernels<T>().pack_transposed(to, layout.pitch, from, end, s.image(), images, row);
}

// Asks for share i of n of the weights that come next: `count` positions of `width` entries of the filters of `outputs`
// outputs. Later they are in the second-level cache.
template <typename S>
void prefetch(const S* from, int64_t outputs, int64_t F, int64_t P, int64_t width, int64_t count, int64_t i, int64_t n) {
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t f = width * i / n; f < width * (i + 1) / n; ++f) {
      const S* row = from + (o * F + f) * P;
      for (int64_t p = 0; p < count; p += 64 / sizeof(S)) __builtin_prefetch(row + p, 0, 2);
    }
  }
}

}  // namespace

template <typename S, typename T>
void forward_by_images(const Shape& s, Source<T> input, int64_t input_stride, const S* weight, const T* bias, T* out) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t F = s.fields(), P = s.positions(), per_group = s.outputs / s.groups, in_group = s.channels / s.groups;
  const int64_t input_sets = input_stride ? s.sets : 1, threads = at::get_num_threads();
  const Parts blocks = image_blocks<T>(s);
  const Layout layout(s, round_up(blocks.largest(), kernels.lanes));
  const int64_t pitch = layout.pitch;
  const std::vector<int64_t> shifts = layout.shifts(s), places = layout.places(s);
  const std::vector<Columns> rows = layout.rows(s);
  const at::Tensor turned = pooled<T>(input_sets * s.channels * layout.channel());
  T* const seen = turned.mutable_data_ptr<T>();

  constexpr bool kInPlace = std::is_same_v<S, T>;
  const Parts position_parts(P, P <= 48 || !kInPlace ? P : 32);
  const Parts output_parts(per_group, 13, s.sets * s.groups * position_parts.count % threads ? threads : 1);
  const int64_t most = output_parts.largest(), piece = kPieceBytes / static_cast<int64_t>(sizeof(T));
  const FieldPieces pieces(F, std::max<int64_t>(piece / (most * position_parts.largest()), 8));

  for (int64_t block = 0; block < blocks.count; ++block) {
    const int64_t n0 = blocks.begin(block), images = blocks.size(block);
    parallel(input_sets * s.channels, multiply_adds(s), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t channel = task % s.channels, b = task / s.channels;
        const T* from = input.data + b * input_stride + n0 * s.image() + channel * s.height * s.width;
        turn_channel(s, layout, rows, from, input.end, images, seen + task * layout.channel());
      }
    });
    parallel(s.sets * s.groups * output_parts.count * position_parts.count, multiply_adds(s), [&](int64_t begin, int64_t end) {
      const int64_t all_sums = most * position_parts.largest() * pitch;
      T* sums = scratch<T>(2 * all_sums + Piece<T>::template room<S>(most, pieces.largest() * P));  // [o, p, n]
      T *const others = sums + all_sums, *const room = others + all_sums;
      std::vector<int64_t> filter_rows(most), sum_rows(most);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t part = task % position_parts.count, rest = task / position_parts.count,
                      outputs_part = rest % output_parts.count;
        const int64_t g = rest / output_parts.count % s.groups, b = rest / output_parts.count / s.groups;
        const int64_t p0 = position_parts.begin(part), count = position_parts.size(part),
                      outputs = output_parts.size(outputs_part);
        const int64_t first = b * s.outputs + g * per_group + output_parts.begin(outputs_part);
        for (int64_t o = 0; o < outputs; ++o) sum_rows[o] = o * count * pitch;
        for (int64_t o = 0; o < outputs && bias; ++o) {
          for (int64_t p = 0; p < count; ++p) std::fill_n(sums + (o * count + p) * pitch, pitch, bias[(first + o) * P + p0 + p]);
        }
        const T* seen_by_group = seen + ((input_sets > 1 ? b : 0) * s.channels + g * in_group) * layout.channel();
        for (size_t i = 0; i < pieces.all.size(); ++i) {
          const auto [f0, width, to_sums, begins, ends] = pieces.all[i];
          const S* filters = weight + (first * F + f0) * P;
          const Piece<T> piece(filters, outputs, F * P, width * P, room);
          for (int64_t o = 0; o < outputs; ++o) filter_rows[o] = o * piece.ld;
          const int64_t next = kInPlace && count == P && i + 1 < pieces.all.size() ? pieces.all[i + 1].count : 0;
          T* const to = to_sums ? sums : others;
          for (int64_t p = 0; p < count; ++p) {
            prefetch(filters + width * P + p0, outputs, F, P, next, count, p, count);
            kernels.multiply_rows(outputs, pitch, width, {piece.data + p0 + p, filter_rows.data(), P},
                                  {seen_by_group + places[p0 + p], shifts.data() + f0}, {to + p * pitch, sum_rows.data()},
                                  !begins || (to_sums && bias));
          }
          if (ends && !to_sums) kernels.add(sums, others, outputs * count * pitch);
        }
        const Columns run{p0, 0, count};
        for (int64_t o = 0; o < outputs; ++o) {
          T* to = out + ((b * s.images + n0) * s.outputs + (first + o) % s.outputs) * P;
          kernels.unpack_transposed(sums + sum_rows[o], pitch, to, s.outputs * P, images, &run, 1);
        }
      }
    });
  }
}

// grad_weight[o, f, p] = Σ_n grad[n, o, p] x̂[n, f, p], with vectors of outputs.
template <typename S, typename T>
void weight_gradient_by_images(const Shape& s, Source<T> grad, Source<T> input, int64_t input_stride, S* grad_weight) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t F = s.fields(), P = s.positions(), per_group = s.outputs / s.groups, in_group = s.channels / s.groups;
  const int64_t padded = round_up(per_group, kernels.lanes), threads = at::get_num_threads();
  // Gradients with outputs innermost, for so many positions that they take a fortieth of what the call needs anyway, or
  // up to a twentieth if that makes a line of weights.
  const int64_t of_position = s.sets * s.groups * s.images * padded, weights = s.sets * s.outputs * F * P;
  const int64_t room = std::max<int64_t>((weights + s.sets * s.images * (s.image() + s.outputs * P)) / 20, 1 << 18);
  const int64_t in_line = std::min<int64_t>(64 / sizeof(T), 2 * room / of_position);
  const Parts chunks(P, std::clamp<int64_t>(std::max(room / of_position, in_line), 1, P));
  const Parts position_parts(chunks.largest(), chunks.largest() <= 32 ? 32 : 16);
  const at::Tensor turned = pooled<T>(of_position * chunks.largest());
  T* const grads = turned.mutable_data_ptr<T>();  // [sets, groups, n, p, o]
  const Parts field_parts(F, 104, std::min<int64_t>(threads * kTasksPerThread, (F + 11) / 12));
  const int64_t most = field_parts.largest(), most_channels = (most + s.kernel() - 2) / s.kernel() + 1;
  const int64_t most_outputs = std::min(kVectors * kernels.lanes, padded);

  for (int64_t chunk = 0; chunk < chunks.count; ++chunk) {
    const int64_t first_position = chunks.begin(chunk), positions = chunks.size(chunk);
    const Layout layout(s, round_up(s.images, kernels.lanes), first_position, first_position + positions);
    const std::vector<int64_t> shifts = layout.shifts(s), places = layout.places(s);
    const std::vector<Columns> rows = layout.rows(s);
    parallel(s.sets * s.images * s.groups, multiply_adds(s), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t n = task % s.images, g = task / s.images % s.groups, b = task / s.images / s.groups;
        const T* from = grad.data + ((b * s.images + n) * s.outputs + g * per_group) * P;
        T* to = grads + ((b * s.groups + g) * s.images + n) * positions * padded;
        kernels.pack_transposed(to, padded, from, grad.end, P, per_group, {first_position, 0, positions});
      }
    });
    const std::vector<int64_t> grad_rows = multiples(s.images, positions * padded);
    parallel(s.sets * s.groups * field_parts.count, multiply_adds(s), [&](int64_t begin, int64_t end) {
      const int64_t pixels = most_channels * layout.channel(), tile = most * position_parts.largest() * most_outputs;
      T* seen = scratch<T>(pixels + tile + (std::is_same_v<S, T> ? 0 : tile));
      T *sums = seen + pixels, *rounded = sums + tile;  // sums [f, p, o]
      std::vector<int64_t> seen_rows(most), sum_rows(most);
      std::vector<Columns> runs(most);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t part = task % field_parts.count, g = task / field_parts.count % s.groups,
                      b = task / field_parts.count / s.groups;
        const int64_t f0 = field_parts.begin(part), width = field_parts.size(part);
        const int64_t c0 = f0 / s.kernel(), c1 = (f0 + width - 1) / s.kernel() + 1;
        for (int64_t c = c0; c < c1; ++c) {
          const T* from = input.data + b * input_stride + (g * in_group + c) * s.height * s.width;
          turn_channel(s, layout, rows, from, input.end, s.images, seen + (c - c0) * layout.channel());
        }
        for (int64_t f = 0; f < width; ++f) seen_rows[f] = shifts[f0 + f] - c0 * layout.channel();
        const Parts parts(positions, position_parts.largest());
        for (int64_t o = 0; o < per_group; o += most_outputs) {
          const int64_t lanes = std::min(most_outputs, padded - o), outputs = std::min(lanes, per_group - o);
          for (int64_t q = 0; q < parts.count; ++q) {
            const int64_t begin_of_part = parts.begin(q), p0 = first_position + begin_of_part, count = parts.size(q);
            const T* grads_there = grads + ((b * s.groups + g) * s.images * positions + begin_of_part) * padded + o;
            for (int64_t f = 0; f < width; ++f) sum_rows[f] = f * count * lanes;
            for (int64_t p = 0; p < count; ++p) {
              kernels.multiply_rows(width, lanes, s.images, {seen + places[p0 + p], seen_rows.data()},
                                    {grads_there + p * padded, grad_rows.data()}, {sums + p * lanes, sum_rows.data()}, false);
            }
            S* to = grad_weight + ((b * s.outputs + g * per_group + o) * F + f0) * P + p0;
            // One run of columns where all positions are there, else one for each entry of the filters.
            const int64_t pieces = count == P ? 1 : width, length = count == P ? width * P : count;
            if constexpr (std::is_same_v<S, T>) {
              for (int64_t i = 0; i < pieces; ++i) runs[i] = {i * P, i * count, length};
              kernels.unpack_transposed(sums, lanes, to, F * P, outputs, runs.data(), pieces);
            } else {
              const Columns run{0, 0, width * count};
              kernels.unpack_transposed(sums, lanes, rounded, width * count, outputs, &run, 1);
              for (int64_t i = 0; i < outputs * width * count; ++i) {
                to[i / (width * count) * F * P + i / count % width * P + i % count] = static_cast<S>(rounded[i]);
              }
            }
          }
        }
      }
    });
  }
}

// grad_input at place(p) + shift(f) is the sum of weight[o, f, p] grad[n, o, p] over all o, f and p that meet there.
// Tasks are channels and some of the images: no two of them add to the same pixel.
template <typename S, typename T>
void input_gradient_by_images(const Shape& s, Source<T> grad, const S* weight, bool shared, T* grad_input) {
  const TileKernels<T>& kernels = tile_kernels<T>();
  const int64_t F = s.fields(), P = s.positions(), per_group = s.outputs / s.groups, in_group = s.channels / s.groups;
  const int64_t slots = shared ? 1 : s.sets, sets = shared ? s.sets : 1, threads = at::get_num_threads();
  // Few channels are shared out by images too, a vector to a task: then blocks of images need not be large.
  const int64_t tasks = slots * s.channels;
  const bool split = tasks < 4 * threads && tasks % threads != 0;
  const Parts blocks = image_blocks<T>(s, split ? std::min((2 * threads + tasks - 1) / tasks, kVectors) : kVectors);
  const int64_t pitch = round_up(blocks.largest(), kernels.lanes), vectors = pitch / kernels.lanes, splits = split ? vectors : 1;
  const at::Tensor turned = pooled<T>(s.sets * s.outputs * P * pitch);
  T* const grads = turned.mutable_data_ptr<T>();  // [sets, o, p, n]
  const Layout layout(s, (vectors + splits - 1) / splits * kernels.lanes);
  // Of positions side by side, weights share lines: these stay in the first-level cache.
  const int64_t line = std::min<int64_t>(P * sizeof(T), 128);
  const Parts output_parts(per_group, std::max<int64_t>(kPieceBytes / (s.kernel() * line), 4));
  const std::vector<int64_t> shifts = layout.shifts(s), places = layout.places(s), filter_rows = multiples(s.kernel(), P);
  const std::vector<int64_t> grad_rows = multiples(output_parts.largest(), P * pitch);
  const std::vector<Columns> rows = layout.rows(s);
  for (int64_t block = 0; block < blocks.count; ++block) {
    const int64_t n0 = blocks.begin(block), images = blocks.size(block);
    parallel(s.sets * s.outputs, multiply_adds(s), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const T* from = grad.data + ((task / s.outputs * s.images + n0) * s.outputs + task % s.outputs) * P;
        kernels.pack_transposed(grads + task * P * pitch, pitch, from, grad.end, s.outputs * P, images, {0, 0, P});
      }
    });
    parallel(tasks * splits, multiply_adds(s), [&](int64_t begin, int64_t end) {
      T* sums = scratch<T>(layout.channel() + Piece<T>::template room<S>(output_parts.largest(), s.kernel() * P));
      for (int64_t task = begin; task < end; ++task) {
        const int64_t first_image = task % splits * layout.pitch, channel = task / splits % s.channels,
                      slot = task / splits / s.channels;
        if (first_image >= images) continue;
        const int64_t group = channel / in_group, f0 = channel % in_group * s.kernel();
        std::fill_n(sums, layout.channel(), T(0));
        for (int64_t set = 0; set < sets; ++set) {
          for (int64_t i = 0; i < output_parts.count; ++i) {
            const int64_t outputs = output_parts.size(i);
            const int64_t output = (shared ? set : slot) * s.outputs + group * per_group + output_parts.begin(i);
            const S* filters = weight + (output * F + f0) * P;
            const Piece<T> piece(filters, outputs, F * P, s.kernel() * P, sums + layout.channel());
            const int64_t next = i + 1 < output_parts.count ? output_parts.size(i + 1) : 0;
            for (int64_t p = 0; p < P; ++p) {
              prefetch(filters + outputs * F * P, next, F, P, s.kernel(), P, p, P);
              kernels.multiply_rows(s.kernel(), layout.pitch, outputs, {piece.data + p, filter_rows.data(), piece.ld},
                                    {grads + (output * P + p) * pitch + first_image, grad_rows.data()},
                                    {sums + places[p], shifts.data()}, true);
            }
          }
        }
        T* to = grad_input + (slot * s.images + n0 + first_image) * s.image() + channel * s.height * s.width;
        kernels.unpack_transposed(sums, layout.pitch, to, s.image(), std::min(layout.pitch, images - first_image), rows.data(),
                                  static_cast<int64_t>(rows.size()));
      }
    });
  }
}

#define HN_INSTANTIATE(S, T)                                                                       \
  template void forward_by_images<S, T>(const Shape&, Source<T>, int64_t, const S*, const T*, T*); \
  template void weight_gradient_by_images<S, T>(const Shape&, Source<T>, Source<T>, int64_t, S*);  \
  template void input_gradient_by_images<S, T>(const Shape&, Source<T>, const S*, bool, T*);
HN_INSTANTIATE(float, float)
HN_INSTANTIATE(double, double)
HN_INSTANTIATE(at::Half, float)
HN_INSTANTIATE(at::BFloat16, float)

}  // namespace hnetfast::local_conv2d
