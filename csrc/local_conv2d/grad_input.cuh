// The gradient of local_conv2d to the input.
#pragma once

#include "local_conv2d/side_by_side.cuh"

namespace hnetfast::local_conv2d {

struct InputPlan {
  Images images;
  int tile, tiles, row_tiles;  // pixels of a tile; tiles of pixels and of channels
  int shares, threads;
  bool staged, whole;                      // weights go through shared memory; all of a channel's at once
  int chunk, pitch, slab, stages, shift;   // outputs staged at once, distances of kernel entries and of outputs
  int ky_step, py_step, kx_step, px_step;  // see Matches
  int terms, part, parts;                  // outputs summed over, those of a block, blocks that share all of them
  int64_t blocks;
  int shared_bytes;
};

// Positions begin, begin + 1, ... from which a kernel entry sees a tile of rows of pixels.
struct Span {
  int begin, length;
};

inline int greatest_divisor(int a, int b) { return b ? greatest_divisor(b, a % b) : a; }

// What a block works on: pixels [q0, q0 + count) in the order of column_of(), channels [c0, c0 + num_rows) of a group.
struct alignas(16) InputPlace {
  int block, tile, rows, g, part, slot, q0, count, c0, num_rows;
  __device__ InputPlace(const DeviceShape& s, const InputPlan& plan, Index index)
      : block(index.take(plan.images.blocks)),
        tile(index.take(plan.tiles)),
        rows(index.take(plan.row_tiles)),
        g(index.take(s.groups)),
        part(index.take(plan.parts)),
        slot(static_cast<int>(index.rest)),
        q0(tile * plan.tile),
        count(least(plan.tile, s.pixels() - q0)),
        c0(rows * kRows),
        num_rows(least(kRows, s.group_channels() - c0)) {}
};

// Rows of positions from which kernel entry k sees the rows of a tile.
__device__ inline Span span_of(const DeviceShape& s, const InputPlan& plan, const InputPlace& place, int k) {
  const int top = place.q0 / s.width, bottom = top + place.count / s.width, shift = s.padding_h - k / s.kernel_w * s.dilation_h;
  const int first = ceil_div(greatest(top + shift, 0), s.stride_h);
  const int last = least(ceil_div(greatest(bottom + shift, 0), s.stride_h), s.out_h);
  return {plan.whole ? 0 : first * s.out_w, greatest(last - first, 0) * s.out_w};
}

template <typename T>
InputPlan plan_input(const DeviceShape& s) {
  constexpr int V = kVector<T>, kBytes = sizeof(T), kMostPixels = 128, kMostKernel = 256;
  InputPlan plan;
  const int gcd_h = greatest_divisor(s.stride_h, s.dilation_h), gcd_w = greatest_divisor(s.stride_w, s.dilation_w);
  plan.ky_step = s.stride_h / gcd_h;
  plan.py_step = s.dilation_h / gcd_h;
  plan.kx_step = s.stride_w / gcd_w;
  plan.px_step = s.dilation_w / gcd_w;
  const int P = s.positions(), K = s.kernel();
  plan.images = images_of<T>(s.images);
  const int most = least(kThreads / plan.images.groups, kMostPixels);
  plan.row_tiles = ceil_div(s.group_channels(), kRows);
  plan.terms = s.group_outputs() * (s.shared ? s.sets : 1);
  plan.staged = false;
  if (s.width <= most && K <= kMostKernel) {
    plan.tiles = ceil_div(s.height, least(s.height, most / s.width));
    const int height = ceil_div(s.height, plan.tiles);
    plan.tiles = ceil_div(s.height, height);
    plan.tile = height * s.width;
    plan.whole = plan.tiles == 1;
    const int64_t longest = static_cast<int64_t>(least(s.out_h, (height - 1) / s.stride_h + 1)) * s.out_w;
    // A Span keeps the phase of where it begins in a run, so there is one more vector than in entry_pitch().
    const int64_t pitch = plan.whole ? P : longest + 4 * V;
    if (pitch * K * kBytes < kSharedBytes) {
      plan.shift = lanes_shift<T>(static_cast<int>(longest));
      plan.pitch = plan.whole ? P : like_distance<T>(static_cast<int>(longest) + 3 * (V - 1), P);
      plan.slab = size_of_runs<T>(least(kRows, s.group_channels()) * K, plan.pitch);
      const int table = K * static_cast<int>(sizeof(Span)) + static_cast<int>(sizeof(InputPlace));
      const int bytes = plan.slab * kBytes;
      plan.chunk = least(greatest((kStageBytes - table) / bytes, 1), plan.terms);
      plan.stages = kStages * plan.chunk * bytes + table <= kSharedBytes ? kStages : 2;
      plan.shared_bytes = plan.stages * plan.chunk * bytes + table;
      plan.staged = plan.shared_bytes <= kSharedBytes;
    }
  }
  if (!plan.staged) {
    plan.whole = false;
    plan.tiles = ceil_div(s.pixels(), least(most, s.pixels()));
    plan.tile = ceil_div(s.pixels(), plan.tiles);
    plan.tiles = ceil_div(s.pixels(), plan.tile);
    plan.chunk = plan.terms;
    plan.pitch = P;
    plan.slab = plan.shift = 0;
    plan.shared_bytes = sizeof(InputPlace);
    plan.stages = 2;
  }
  plan.shares = greatest(least(kThreads / (plan.images.groups * plan.tile), plan.chunk), 1);
  plan.chunk = plan.staged ? plan.chunk / plan.shares * plan.shares : plan.shares;
  plan.threads = ceil_div(plan.images.groups * plan.tile * plan.shares, 32) * 32;
  const int slots = s.shared ? 1 : s.sets;
  const int64_t one = static_cast<int64_t>(slots) * s.groups * plan.row_tiles * plan.tiles * plan.images.blocks;
  const int64_t results = static_cast<int64_t>(slots) * s.images * s.channels * s.pixels();
  plan.part = part_of(plan.terms, plan.chunk, one, results, static_cast<int64_t>(s.sets) * s.outputs * s.fields() * P);
  plan.parts = ceil_div(plan.terms, plan.part);
  plan.blocks = one * plan.parts;
  const int held = plan.shares * kRows * plan.images.groups * plan.tile * static_cast<int>(sizeof(Acc<T>));
  plan.shared_bytes = greatest(plan.shared_bytes, held);
  return plan;
}

// Kernel entries that see a pixel along one axis: first + a·(stride / gcd) for a < count, each from the position
// a·(dilation / gcd) before `position`.
struct Matches {
  int count, first, position;
};

__device__ inline Matches matches_of(int pixel, int kernel, int stride, int padding, int dilation, int size) {
  Matches m{0, 0, 0};
  for (int k = 0, at = pixel + padding; k < kernel && at >= 0; ++k, at -= dilation) {
    if (at % stride || at / stride >= size) continue;
    if (m.count++ == 0) m = {1, k, at / stride};
  }
  return m;
}

// Column `i` of an image, in an order in which columns that the same kernel entries see follow each other: threads of
// a warp then do the same, and what they read is side by side.
__device__ inline int column_of(int i, int width, int stride) {
  int rest = 0;
  for (int count; i >= (count = (width - rest + stride - 1) / stride); ++rest) i -= count;
  return rest + i * stride;
}

// Takes the sums of a block to the result, or to the partial sums where blocks share the outputs.
template <typename T, int TN>
struct InputStore {
  const DeviceShape& s;
  const InputPlan& plan;
  T* grad_input;
  Acc<T>* partial;
  const InputPlace to;

  __device__ void operator()(int i, int spot, int group, int k, Acc<T> sum) const {
    const int within = TN == 1 ? 0 : image_of<T>(k, group, plan.images.groups);
    const int n = to.block * plan.images.block + within;
    if (i >= to.num_rows || spot >= to.count || within >= plan.images.block || n >= s.images) return;
    const int q = to.q0 + spot, column = column_of(q % s.width, s.width, s.stride_w);
    const int pixel = q / s.width * s.width + column;
    const int64_t image = static_cast<int64_t>(to.slot) * s.images + n;
    const int64_t map = image * s.channels + to.g * s.group_channels() + to.c0 + i;
    if (partial) {
      const int64_t maps = static_cast<int64_t>(s.shared ? 1 : s.sets) * s.images * s.channels;
      partial[(to.part * maps + map) * s.pixels() + pixel] = sum;
    } else {
      grad_input[map * s.pixels() + pixel] = static_cast<T>(sum);
    }
  }
};

// Term t of a block is an output of its group, in the sets one after another where these see the same images.
template <typename T>
struct InputTerms {
  const DeviceShape& s;
  const InputPlace& place;
  const T* weight;

  __device__ int set_of(int t) const { return s.shared ? t / s.group_outputs() : place.slot; }
  __device__ int output_of(int t) const { return place.g * s.group_outputs() + (s.shared ? t % s.group_outputs() : t); }
  __device__ const T* weights_of(int t) const {
    const int64_t filter = static_cast<int64_t>(set_of(t)) * s.outputs + output_of(t);
    return weight + (filter * s.fields() + place.c0 * s.kernel()) * s.positions();
  }
};

// Takes the weights of terms [t0, t0 + n) to shared memory, from element `to` of it on.
template <typename T>
__device__ inline void stage_weights(const InputTerms<T>& terms, const InputPlan& plan, const Span* spans, int t0, int n,
                                     T* stages, int to, const T* weight_end) {
  constexpr int V = kVector<T>;
  const int P = terms.s.positions(), K = terms.s.kernel(), num_rows = terms.place.num_rows;
  const int lane = threadIdx.x & ((1 << plan.shift) - 1), team = threadIdx.x >> plan.shift;
  const int teams = blockDim.x >> plan.shift, first_k = team % K, step_k = teams % K;  // at most one division a stage
  for (int j = 0; j < n; ++j) {
    const T* from = terms.weights_of(t0 + j);
    const int at = to + j * plan.slab + phase_of(from);
    if (plan.whole) {
      copy_run(stages, at, from, num_rows * K * P, terms.weight, weight_end, threadIdx.x, blockDim.x);
      continue;
    }
    for (int run = team, k = first_k; run < num_rows * K; run += teams) {
      const Span span = spans[k];
      copy_run(stages, at + run * plan.pitch + (span.begin & (V - 1)), from + static_cast<int64_t>(run) * P + span.begin,
               span.length, terms.weight, weight_end, lane, 1 << plan.shift);
      k += step_k;
      if (k >= K) k -= K;
    }
  }
}

// Kernel entries that see a thread's pixel, and the first of them: its place among the weights, and its position.
struct PixelMatches {
  Matches y{0, 0, 0}, x{0, 0, 0};
  int first_at = 0, first_p = 0;

  __device__ PixelMatches(const DeviceShape& s, const InputPlan& plan, int pixel, bool works) {
    if (works) {
      const int column = column_of(pixel % s.width, s.width, s.stride_w);
      y = matches_of(pixel / s.width, s.kernel_h, s.stride_h, s.padding_h, s.dilation_h, s.out_h);
      x = matches_of(column, s.kernel_w, s.stride_w, s.padding_w, s.dilation_w, s.out_w);
    }
    first_at = (y.first * s.kernel_w + x.first) * plan.pitch;
    first_p = y.position * s.out_w + x.position;
  }
};

// Adds what a term gives to a pixel of `num_rows` channels and TN images: weights w times slopes.
template <typename T, int TN, bool staged>
__device__ inline void add_term(const DeviceShape& s, const InputPlan& plan, const PixelMatches& m, const Span* spans,
                                int num_rows, const T* w, const Seen<T, TN>* slopes, Acc<T> (&sums)[kRows][TN]) {
  const int channel = s.kernel() * plan.pitch, groups = plan.images.groups;
  for (int a = 0; a < m.y.count; ++a) {
    const int ky = a * plan.ky_step;
    int p = m.first_p - a * plan.py_step * s.out_w, at = m.first_at + ky * s.kernel_w * plan.pitch + p;
    if constexpr (staged) at -= spans[(m.y.first + ky) * s.kernel_w].begin & ~(kVector<T> - 1);
    for (int b = 0; b < m.x.count; ++b, p -= plan.px_step, at += plan.kx_step * plan.pitch - plan.px_step) {
      Acc<T> slope[TN];
      load_images<T, TN>(slopes + static_cast<int64_t>(p) * plan.images.pitch, groups * kVector<Acc<T>>, slope);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const Acc<T> value = i < num_rows ? static_cast<Acc<T>>(w[at + i * channel]) : Acc<T>(0);
#pragma unroll
        for (int e = 0; e < TN; ++e) sums[i][e] += value * slope[e];
      }
    }
  }
}

// `staged`: weights go through shared memory; else, of images too wide for a tile of whole rows or of kernels too
// large, they are read where they lie.
template <typename T, int TN, bool staged>
__global__ void __launch_bounds__(kThreads, 2)
    grad_input_kernel(DeviceShape s, InputPlan plan, const Seen<T, TN>* __restrict__ grad, const T* __restrict__ weight,
                      const T* weight_end, T* __restrict__ grad_input, Acc<T>* __restrict__ partial) {
  HNETFAST_SHARED(memory);
  const InputPlace found(s, plan, {blockIdx.x});
  // In shared memory, as registers are scarce.
  InputPlace* const held = reinterpret_cast<InputPlace*>(memory);
  if (threadIdx.x == 0) *held = found;
  const InputTerms<T> terms{s, *held, weight};
  const int num_rows = found.num_rows;
  const int begin = found.part * plan.part, end = least(begin + plan.part, plan.terms);
  const int chunks = staged ? ceil_div(end - begin, plan.chunk) : 1;

  const int groups = plan.images.groups, group = threadIdx.x % groups, spot = threadIdx.x / groups % plan.tile;
  const int share = threadIdx.x / groups / plan.tile;
  const PixelMatches matches(s, plan, found.q0 + spot, share < plan.shares && spot < found.count);

  T* stages = reinterpret_cast<T*>(memory + sizeof(InputPlace));
  Span* spans = reinterpret_cast<Span*>(stages + (staged ? plan.stages * plan.chunk * plan.slab : 0));
  if constexpr (staged) {
    for (int k = threadIdx.x; k < s.kernel(); k += blockDim.x) spans[k] = span_of(s, plan, found, k);
  }
  __syncthreads();
  const auto stage = [&](int c) {
    const int t0 = begin + c * plan.chunk, to = c % plan.stages * plan.chunk * plan.slab;
    stage_weights(terms, plan, spans, t0, least(plan.chunk, end - t0), stages, to, weight_end);
  };

  Acc<T> sums[kRows][TN];
  clear(sums);
  if constexpr (staged) {
    for (int c = 0; c < plan.stages - 1; ++c) {
      if (c < chunks) stage(c);
      end_group_of_copies();
    }
  }
  for (int c = 0; c < chunks; ++c) {
    if constexpr (staged) {
      wait_for_copies(plan.stages - 2);
      __syncthreads();
      if (c + plan.stages - 1 < chunks) stage(c + plan.stages - 1);
      end_group_of_copies();
    }
    const int t0 = begin + c * plan.chunk, n = staged ? least(plan.chunk, end - t0) : end - begin;
    for (int j = share; j < n; j += plan.shares) {
      const T* w = terms.weights_of(t0 + j);
      if constexpr (staged) w = stages + (c % plan.stages * plan.chunk + j) * plan.slab + phase_of(w);
      const int64_t images = static_cast<int64_t>(terms.set_of(t0 + j)) * plan.images.blocks + terms.place.block;
      const int64_t maps = images * s.outputs + terms.output_of(t0 + j);
      const Seen<T, TN>* slopes = grad + maps * s.positions() * plan.images.pitch + group * kVector<Acc<T>>;
      add_term<T, TN, staged>(s, plan, matches, spans, num_rows, w, slopes, sums);
    }
  }
  wait_for_copies(0);

  const InputStore<T, TN> store{s, plan, grad_input, partial, InputPlace(s, plan, {block_again()})};
  add_shares<T, TN>(memory, sums, plan.shares, plan.tile, groups, store);
}

}  // namespace hnetfast::local_conv2d
