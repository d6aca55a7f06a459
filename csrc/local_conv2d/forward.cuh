// The forward pass of local_conv2d.
#pragma once

#include "local_conv2d/side_by_side.cuh"

namespace hnetfast::local_conv2d {

// What an entry adds to the pixel at which a position begins.
struct alignas(16) Entry {
  int pixel, dy, dx;
};

__device__ inline Entry entry_of(const DeviceShape& s, int f) {
  const int K = s.kernel(), dy = f % K / s.kernel_w * s.dilation_h, dx = f % s.kernel_w * s.dilation_w;
  return {(f / K * s.height + dy) * s.width + dx, dy, dx};
}

struct ForwardPlan {
  Images images;
  int tile, tiles, row_tiles;            // positions of a tile; tiles of positions and of outputs
  int shares, threads;                   // parts of the entries in a block
  int chunk, pitch, slab, stage, shift;  // entries staged at once, distances of entries, of outputs, of stages
  int part, parts;                       // entries of a block, blocks that share all of them
  int64_t blocks;
  int shared_bytes;
};

template <typename T>
ForwardPlan plan_forward(const DeviceShape& s) {
  ForwardPlan plan;
  const int P = s.positions(), F = s.fields();
  plan.images = images_of<T>(s.images);
  plan.tile = tile_of<T>(P);
  plan.tiles = ceil_div(P, plan.tile);
  plan.row_tiles = ceil_div(s.group_outputs(), kRows);
  plan.pitch = entry_pitch<T>(plan.tile, P);
  const int bytes = kRows * plan.pitch * static_cast<int>(sizeof(T)) + static_cast<int>(sizeof(Entry));
  const int most = least(least((kStageBytes - kRows * 48 - 32) / bytes, kThreads), F);
  plan.shares = greatest(least(kThreads / (plan.images.groups * plan.tile), most), 1);
  plan.chunk = most / plan.shares * plan.shares;
  plan.threads = ceil_div(plan.images.groups * plan.tile * plan.shares, 32) * 32;
  plan.slab = like_distance<T>(plan.chunk * plan.pitch + 2 * (kVector<T> - 1), static_cast<int64_t>(F) * P);
  plan.stage = plan.chunk * static_cast<int>(sizeof(Entry)) + size_of_runs<T>(kRows, plan.slab) * static_cast<int>(sizeof(T));
  plan.shift = lanes_shift<T>(plan.tile == P ? plan.chunk * P : plan.tile);
  const int64_t one = static_cast<int64_t>(s.sets) * s.groups * plan.row_tiles * plan.tiles * plan.images.blocks;
  const int64_t results = static_cast<int64_t>(s.sets) * s.images * s.outputs * P;
  plan.part = part_of(F, plan.chunk, one, results, static_cast<int64_t>(s.sets) * s.outputs * F * P);
  plan.parts = ceil_div(F, plan.part);
  plan.blocks = one * plan.parts;
  const int held = plan.shares * kRows * plan.images.groups * plan.tile * static_cast<int>(sizeof(Acc<T>));
  plan.shared_bytes = greatest(kStages * plan.stage, held);
  return plan;
}

// What a block works on: positions [p0, p0 + count), outputs [o0, o0 + num_rows).
struct ForwardPlace {
  int block, tile, rows, g, part, set, p0, count, o0, num_rows;
  __device__ ForwardPlace(const DeviceShape& s, const ForwardPlan& plan, Index index)
      : block(index.take(plan.images.blocks)),  // blocks that read the same weights or pixels are near each other
        tile(index.take(plan.tiles)),
        rows(index.take(plan.row_tiles)),
        g(index.take(s.groups)),
        part(index.take(plan.parts)),
        set(static_cast<int>(index.rest)),
        p0(tile * plan.tile),
        count(least(plan.tile, s.positions() - p0)),
        o0(g * s.group_outputs() + rows * kRows),
        num_rows(least(kRows, s.group_outputs() - rows * kRows)) {}
};

// Takes the sums of a block to the result, or to the partial sums where blocks share the entries.
template <typename T, int TN>
struct ForwardStore {
  const DeviceShape& s;
  const ForwardPlan& plan;
  const T* bias;
  T* out;
  Acc<T>* partial;
  const ForwardPlace to;

  __device__ void operator()(int i, int spot, int group, int k, Acc<T> sum) const {
    const int within = TN == 1 ? 0 : image_of<T>(k, group, plan.images.groups), P = s.positions();
    const int n = to.block * plan.images.block + within;
    if (i >= to.num_rows || spot >= to.count || within >= plan.images.block || n >= s.images) return;
    const int64_t filter = static_cast<int64_t>(to.set) * s.outputs + to.o0 + i;
    const int64_t map = (static_cast<int64_t>(to.set) * s.images + n) * s.outputs + to.o0 + i;
    const int p = to.p0 + spot;
    if (partial) {
      const int64_t maps = static_cast<int64_t>(s.sets) * s.images * s.outputs;
      partial[(to.part * maps + map) * P + p] = sum;
    } else {
      if (bias) sum += static_cast<Acc<T>>(bias[filter * P + p]);
      out[map * P + p] = static_cast<T>(sum);
    }
  }
};

template <typename T, int TN>
__global__ void __launch_bounds__(kThreads, 2)
    forward_kernel(DeviceShape s, ForwardPlan plan, const Seen<T, TN>* __restrict__ seen, const T* __restrict__ weight,
                   const T* weight_end, const T* __restrict__ bias, T* __restrict__ out, Acc<T>* __restrict__ partial) {
  HNETFAST_SHARED(memory);
  constexpr int V = kVector<T>;
  const int P = s.positions(), F = s.fields();
  const ForwardPlace at(s, plan, {blockIdx.x});
  const int begin = at.part * plan.part, end = least(begin + plan.part, F), chunks = ceil_div(end - begin, plan.chunk);

  const int groups = plan.images.groups, group = threadIdx.x % groups, spot = threadIdx.x / groups % plan.tile;
  const int share = threadIdx.x / groups / plan.tile;
  const bool works = share < plan.shares && spot < at.count;
  const int p = at.p0 + spot, y0 = p / s.out_w * s.stride_h - s.padding_h, x0 = p % s.out_w * s.stride_w - s.padding_w;
  const int64_t images = static_cast<int64_t>(s.shared ? 0 : at.set) * plan.images.blocks + at.block;
  const Seen<T, TN>* mine =
      seen + group * kVector<Acc<T>> + (images * s.groups + at.g) * s.group_channels() * s.pixels() * plan.images.pitch;
  const int corner = y0 * s.width + x0;

  // First weight of the tile; the phases of all others follow.
  const int64_t row = static_cast<int64_t>(F) * P;
  const T* first = weight + (static_cast<int64_t>(at.set) * s.outputs + at.o0) * row + at.p0;
  const int base = phase_of(first);
  const auto phase = [&](int f) { return (base + (f & (V - 1)) * (P & (V - 1))) & (V - 1); };
  const auto entries_of = [&](int c) { return reinterpret_cast<Entry*>(memory + c % kStages * plan.stage); };

  const bool whole = plan.tile == P;
  const auto stage = [&](int c) {
    const int f0 = begin + c * plan.chunk, n = least(plan.chunk, end - f0);
    Entry* entries = entries_of(c);
    T* weights = reinterpret_cast<T*>(entries + plan.chunk);
    for (int j = threadIdx.x; j < n; j += blockDim.x) entries[j] = entry_of(s, f0 + j);
    const int runs = kRows * (whole ? 1 : n), length = whole ? n * P : at.count;
    for (int run = threadIdx.x >> plan.shift; run < runs; run += blockDim.x >> plan.shift) {
      const int i = run % kRows, j = run / kRows, lane = threadIdx.x & ((1 << plan.shift) - 1);
      if (i >= at.num_rows) continue;
      copy_run(weights, phase(f0) + i * plan.slab + j * plan.pitch, first + i * row + static_cast<int64_t>(f0 + j) * P, length,
               weight, weight_end, lane, 1 << plan.shift);
    }
  };

  Acc<T> sums[kRows][TN];
  clear(sums);
  for (int c = 0; c < kStages - 1; ++c) {
    if (c < chunks) stage(c);
    end_group_of_copies();
  }
  for (int c = 0; c < chunks; ++c) {
    wait_for_copies(kStages - 2);
    __syncthreads();  // chunk c is there, and nobody reads chunk c - 1 any more, whose place is taken
    if (c + kStages - 1 < chunks) stage(c + kStages - 1);
    end_group_of_copies();
    if (!works) continue;
    const int f0 = begin + c * plan.chunk, n = least(plan.chunk, end - f0);
    const Entry* entries = entries_of(c);
    const T* weights = reinterpret_cast<const T*>(entries + plan.chunk) + phase(f0) + spot;
    const auto look = [&](int j, Acc<T>(&x)[TN]) {
      const Entry entry = entries[j];
      const bool there = static_cast<unsigned>(y0 + entry.dy) < static_cast<unsigned>(s.height) &&
                         static_cast<unsigned>(x0 + entry.dx) < static_cast<unsigned>(s.width);
      load_images_if<T, TN>(there, mine + int64_t{corner + entry.pixel} * plan.images.pitch, groups * kVector<Acc<T>>, x);
    };
    Acc<T> x[TN], next[TN];
    if (share < n) look(share, next);
    for (int j = share; j < n; j += plan.shares) {
#pragma unroll
      for (int k = 0; k < TN; ++k) x[k] = next[k];
      if (j + plan.shares < n) look(j + plan.shares, next);  // a step ahead of its use
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const Acc<T> w = static_cast<Acc<T>>(weights[j * plan.pitch + i * plan.slab]);
#pragma unroll
        for (int k = 0; k < TN; ++k) sums[i][k] += w * x[k];
      }
    }
  }
  wait_for_copies(0);

  const ForwardStore<T, TN> store{s, plan, bias, out, partial, ForwardPlace(s, plan, {block_again()})};
  add_shares<T, TN>(memory, sums, plan.shares, plan.tile, groups, store);
}

}  // namespace hnetfast::local_conv2d
