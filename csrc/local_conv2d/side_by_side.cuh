// Images side by side, and sums of what blocks or their parts have summed up.
#pragma once

#include "local_conv2d/cuda_common.cuh"

namespace hnetfast::local_conv2d {

// How N images are shared out: blocks of at most kImages, groups of TN (a thread's) in each.
struct Images {
  int blocks, block, groups, pitch;
};

template <typename T>
Images images_of(int images) {
  if (images == 1) return {1, 1, 1, 1};
  const int blocks = ceil_div(images, kImages), block = ceil_div(images, blocks);
  const int groups = ceil_div(block, kColumns<T>);
  return {blocks, block, groups, groups * kColumns<T>};
}

// to[set, block, m, n] = from[set, block·images + n, m], 0 for images beyond the last.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    side_by_side_kernel(const T* from, Acc<T>* to, int sets, int images, int64_t size, Images plan) {
  HNETFAST_SHARED(memory);
  constexpr int kSide = 32;
  Acc<T>* tile = reinterpret_cast<Acc<T>*>(memory);  // [n][kSide + 1]
  const int column = threadIdx.x % kSide, row = threadIdx.x / kSide;
  const int64_t tiles = ceil_div<int64_t>(size, kSide), all = tiles * plan.blocks * sets;
  for (int64_t i = blockIdx.x; i < all; i += gridDim.x) {
    const int64_t m0 = i % tiles * kSide, block = i / tiles % plan.blocks, set = i / tiles / plan.blocks;
    for (int n = row; n < plan.pitch; n += kThreads / kSide) {
      const int64_t image = block * plan.block + n;
      const bool there = n < plan.block && image < images && m0 + column < size;
      tile[n * (kSide + 1) + column] = there ? static_cast<Acc<T>>(from[(set * images + image) * size + m0 + column]) : Acc<T>(0);
    }
    __syncthreads();
    for (int m = row; m < kSide && m0 + m < size; m += kThreads / kSide) {
      if (column < plan.pitch) {
        to[((set * plan.blocks + block) * size + m0 + m) * plan.pitch + column] = tile[column * (kSide + 1) + m];
      }
    }
    __syncthreads();
  }
}

// out[i] = Σ of partial[s, i] in the order of s, plus a bias [set, i within an image] if there is one.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(const Acc<T>* partial, int parts, int64_t size, const T* bias, int64_t image, int images, T* out) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < size;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    Acc<T> sum = 0;
    for (int s = 0; s < parts; ++s) sum += partial[s * size + i];
    if (bias) sum += static_cast<Acc<T>>(bias[i / image / images * image + i % image]);
    out[i] = static_cast<T>(sum);
  }
}

// Adds up what shares of a block hold for the same results, and hands each to store(row, spot, group, k, sum). Spots
// are positions or pixels, groups those of images.
template <typename T, int TN, typename Store>
__device__ void add_shares(unsigned char* memory, const Acc<T> (&sums)[kRows][TN], int shares, int spots, int groups,
                           const Store& store) {
  const int thread = thread_again(), group = thread % groups, spot = thread / groups % spots;
  const int share = thread / groups / spots;
  Acc<T>* held = reinterpret_cast<Acc<T>*>(memory);  // [share][row][group][spot]
  const int size = kRows * groups * spots;
#pragma unroll
  for (int k = 0; k < TN; ++k) {
    __syncthreads();
    if (share < shares) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) held[share * size + (i * groups + group) * spots + spot] = sums[i][k];
    }
    __syncthreads();
    for (int i = thread; i < size; i += blockDim.x) {
      // Pairs first: their sums do not wait for each other.
      Acc<T> even = 0, odd = 0;
      for (int s = 0; s < shares; s += 2) {
        even += held[s * size + i];
        if (s + 1 < shares) odd += held[(s + 1) * size + i];
      }
      store(i / spots / groups, i % spots, i / spots % groups, k, even + odd);
    }
  }
}

}  // namespace hnetfast::local_conv2d
