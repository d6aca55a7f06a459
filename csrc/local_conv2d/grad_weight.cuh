// The gradient of local_conv2d to the weights.
#pragma once

#include "local_conv2d/cuda_common.cuh"

namespace hnetfast::local_conv2d {

struct WeightPlan {
  int tile, tiles, row_tiles, teams, threads;  // teams of threads of a tile's positions, kColumns entries each
  int chunk, chunks, pitch, slab, shift;       // as in ForwardPlan
  int64_t blocks;
  int shared_bytes;
};

constexpr int kRowsOfRound = kRows / 2;  // outputs that leave at once

template <typename T>
WeightPlan plan_weight(const DeviceShape& s) {
  constexpr int TF = kColumns<T>;
  WeightPlan plan;
  const int P = s.positions(), F = s.fields();
  plan.tile = tile_of<T>(P);
  plan.tiles = ceil_div(P, plan.tile);
  plan.row_tiles = ceil_div(s.group_outputs(), kRows);
  plan.chunks = ceil_div(F, kThreads / plan.tile * TF);
  plan.teams = ceil_div(ceil_div(F, plan.chunks), TF);
  plan.chunk = plan.teams * TF;
  plan.chunks = ceil_div(F, plan.chunk);
  plan.threads = ceil_div(plan.teams * plan.tile, 32) * 32;
  plan.pitch = entry_pitch<T>(plan.tile, P);
  plan.slab = like_distance<T>(plan.chunk * plan.pitch + 2 * (kVector<T> - 1), static_cast<int64_t>(F) * P);
  plan.shift = lanes_shift<T>(plan.tile == P ? plan.chunk * P : plan.tile);
  plan.blocks = static_cast<int64_t>(s.sets) * s.groups * plan.row_tiles * plan.tiles * plan.chunks;
  plan.shared_bytes = size_of_runs<T>(kRowsOfRound, plan.slab) * static_cast<int>(sizeof(T));
  return plan;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 2) grad_weight_kernel(DeviceShape s, WeightPlan plan, const T* __restrict__ grad,
                                                                  const T* __restrict__ input, T* __restrict__ grad_weight) {
  HNETFAST_SHARED(memory);
  constexpr int TF = kColumns<T>;
  const int P = s.positions(), F = s.fields(), K = s.kernel();
  Index index{blockIdx.x};
  const int tile = index.take(plan.tiles), c = index.take(plan.chunks), rows = index.take(plan.row_tiles);
  const int g = index.take(s.groups), set = static_cast<int>(index.rest);
  const int p0 = tile * plan.tile, count = least(plan.tile, P - p0);
  const int o0 = g * s.group_outputs() + rows * kRows, num_rows = least(kRows, s.group_outputs() - rows * kRows);
  const int f0 = c * plan.chunk, entries = least(plan.chunk, F - f0);

  const int spot = threadIdx.x % plan.tile, team = threadIdx.x / plan.tile, p = p0 + spot;
  const bool works = team < plan.teams && spot < count;
  Acc<T> sums[kRows][TF];
  clear(sums);
  if (works) {
    const int y0 = p / s.out_w * s.stride_h - s.padding_h, x0 = p % s.out_w * s.stride_w - s.padding_w;
    int pixel[TF];  // -1: outside
#pragma unroll
    for (int q = 0; q < TF; ++q) {
      const int f = f0 + team * TF + q, y = y0 + f % K / s.kernel_w * s.dilation_h;
      const int x = x0 + f % s.kernel_w * s.dilation_w;
      const bool inside = f < F && y >= 0 && y < s.height && x >= 0 && x < s.width;
      pixel[q] = inside ? (f / K * s.height + y) * s.width + x : -1;
    }
    const int64_t image = static_cast<int64_t>(s.channels) * s.pixels();
    const T* x = input + static_cast<int64_t>(s.shared ? 0 : set) * s.images * image +
                 static_cast<int64_t>(g) * s.group_channels() * s.pixels();
    const T* d = grad + (static_cast<int64_t>(set) * s.images * s.outputs + o0) * P + p;
    for (int n = 0; n < s.images; ++n, x += image, d += static_cast<int64_t>(s.outputs) * P) {
      Acc<T> seen[TF], slope[kRows];
#pragma unroll
      for (int q = 0; q < TF; ++q) seen[q] = pixel[q] >= 0 ? static_cast<Acc<T>>(x[pixel[q]]) : Acc<T>(0);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        slope[i] = i < num_rows ? static_cast<Acc<T>>(d[static_cast<int64_t>(i) * P]) : Acc<T>(0);
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int q = 0; q < TF; ++q) sums[i][q] += slope[i] * seen[q];
      }
    }
  }

  // Through shared memory, laid out as forward_kernel stages weights, so that whole blocks of 16 bytes are stored.
  T* held = reinterpret_cast<T*>(memory);
  const int64_t row = static_cast<int64_t>(F) * P;
  T* first = grad_weight + (static_cast<int64_t>(set) * s.outputs + o0) * row + static_cast<int64_t>(f0) * P + p0;
  const bool whole = plan.tile == P;
  const int runs = whole ? 1 : entries, length = whole ? entries * P : count;
  const int lanes = 1 << plan.shift, lane = threadIdx.x & (lanes - 1), teams = blockDim.x >> plan.shift;
#pragma unroll
  for (int round = 0; round < kRows; round += kRowsOfRound) {
    if (round) __syncthreads();
    const int phase = phase_of(first + round * row);
#pragma unroll
    for (int i = round; i < round + kRowsOfRound; ++i) {
      const int at = phase + (i - round) * plan.slab + team * TF * plan.pitch + spot;
#pragma unroll
      for (int q = 0; q < TF; ++q) {
        if (works) held[at + q * plan.pitch] = static_cast<T>(sums[i][q]);
      }
    }
    __syncthreads();
    const int num = greatest(least(kRowsOfRound, num_rows - round), 0);
    for (int run = threadIdx.x >> plan.shift; run < num * runs; run += teams) {
      const int i = run / runs, j = run % runs;
      const int at = phase + i * plan.slab + j * plan.pitch;
      store_run(first + (round + i) * row + static_cast<int64_t>(j) * P, held, at, length, lane, lanes);
    }
  }
}

}  // namespace hnetfast::local_conv2d
