// What the kernels of local_conv2d share: sizes, tiles, and copies to shared memory.
#pragma once

#include <cstdint>

#ifdef HNETFAST_CUDA_ON_HOST
#include "cuda_on_host.h"
#define HNETFAST_SHARED(name) unsigned char* name = cuda_on_host::shared_memory()
#else
#define HNETFAST_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace hnetfast::local_conv2d {

constexpr int kThreads = 256, kRows = 8, kImages = 32, kTile = 32;
constexpr int kSharedBytes = 46 * 1024;  // of 48 KiB that a block gets without asking
constexpr int kStages = 3;               // chunks of weights: two under way, one in use
constexpr int kStageBytes = kSharedBytes / kStages;
constexpr int kBlocks = 512;         // wanted; not read off the device, so that all devices add alike
constexpr int64_t kSmall = 1 << 20;  // partial sums that are allowed whatever the weights' number

template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <typename T>
using Acc = typename Accumulator<T>::type;

// Elements of 16 bytes.
template <typename T>
constexpr int kVector = 16 / sizeof(T);
// Images, or entries, of a thread where there are many.
template <typename T>
constexpr int kColumns = sizeof(Acc<T>) == 8 ? 4 : 8;

template <bool choice, typename A, typename B>
struct Choice {
  using type = A;
};
template <typename A, typename B>
struct Choice<false, A, B> {
  using type = B;
};
// Images side by side are a copy in the type of the sums; a single image is read where it lies.
template <typename T, int TN>
using Seen = typename Choice<TN == 1, T, Acc<T>>::type;

template <typename T>
struct alignas(16) Vector {
  T at[16 / sizeof(T)];
};

// As Shape of local_conv2d.h; `shared`: all sets see the same images. What is int was checked to fit.
struct DeviceShape {
  int sets, images, channels, height, width, outputs, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h,
      dilation_w, out_h, out_w, groups;
  bool shared;
  __host__ __device__ int kernel() const { return kernel_h * kernel_w; }
  __host__ __device__ int group_channels() const { return channels / groups; }
  __host__ __device__ int group_outputs() const { return outputs / groups; }
  __host__ __device__ int fields() const { return group_channels() * kernel(); }
  __host__ __device__ int positions() const { return out_h * out_w; }
  __host__ __device__ int pixels() const { return height * width; }
};

template <typename I>
__host__ __device__ I ceil_div(I a, I b) {
  return (a + b - 1) / b;
}
template <typename I>
__host__ __device__ I least(I a, I b) {
  return a < b ? a : b;
}
template <typename I>
__host__ __device__ I greatest(I a, I b) {
  return a < b ? b : a;
}

// Splits a block's number into indices, the fastest first.
struct Index {
  unsigned rest;
  __device__ int take(int count) {
    const int i = static_cast<int>(rest % count);
    rest /= count;
    return i;
  }
};

// The number of the block and of the thread, for the compiler others: it works out anew what follows from them, rather
// than keep that in registers through the loop over the weights.
__device__ inline unsigned block_again() {
#ifdef HNETFAST_CUDA_ON_HOST
  return blockIdx.x;
#else
  unsigned block;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(block));
  return block;
#endif
}

__device__ inline unsigned thread_again() {
#ifdef HNETFAST_CUDA_ON_HOST
  return threadIdx.x;
#else
  unsigned thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
#endif
}

__device__ inline void copy_16_bytes(void* to, const void* from) {
#ifdef HNETFAST_CUDA_ON_HOST
  *static_cast<Vector<float>*>(to) = *static_cast<const Vector<float>*>(from);
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(address), "l"(from) : "memory");
#endif
}

__device__ inline void end_group_of_copies() {
#ifndef HNETFAST_CUDA_ON_HOST
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}

// Waits for all groups of copies but the last `but`, 0 or 1.
__device__ inline void wait_for_copies(int but) {
#ifndef HNETFAST_CUDA_ON_HOST
  if (but) {
    asm volatile("cp.async.wait_group 1;\n" ::: "memory");
  } else {
    asm volatile("cp.async.wait_group 0;\n" ::: "memory");
  }
#endif
}

// Elements of `pointer` behind an address of 16 bytes.
template <typename T>
__device__ int phase_of(const T* pointer) {
  return static_cast<int>(reinterpret_cast<uintptr_t>(pointer) / sizeof(T) & (kVector<T> - 1));
}

// Copies [from, from + length) to shared[at], where at has from's phase, with the part `lane` of `lanes` threads.
// Blocks of 16 bytes are copied whole, with neighbours, unless these lie outside of the tensor [begin, end).
template <typename T>
__device__ void copy_run(T* shared, int at, const T* from, int length, const T* begin, const T* end, int lane, int lanes) {
  constexpr int V = kVector<T>;
  for (int i = at / V * V + lane * V; i < at + length; i += lanes * V) {
    const T* source = from + (i - at);
    if (source >= begin && source + V <= end) {
      copy_16_bytes(shared + i, source);
    } else {
      for (int e = greatest(i, at); e < least(i + V, at + length); ++e) shared[e] = from[e - at];
    }
  }
}

// The way back: shared[at] and on, `length` elements, to `to`, of whose phase `at` is. Blocks that are not the run's alone are
// stored by elements.
template <typename T>
__device__ void store_run(T* to, const T* shared, int at, int length, int lane, int lanes) {
  constexpr int V = kVector<T>;
  for (int i = at / V * V + lane * V; i < at + length; i += lanes * V) {
    if (i >= at && i + V <= at + length) {
      *reinterpret_cast<Vector<float>*>(to + (i - at)) = *reinterpret_cast<const Vector<float>*>(shared + i);
    } else {
      for (int e = greatest(i, at); e < least(i + V, at + length); ++e) to[e - at] = shared[e];
    }
  }
}

// Logarithm of the threads of a warp that share a run of at most `length` elements.
template <typename T>
int lanes_shift(int length) {
  int shift = 0;
  while (shift < 5 && 1 << shift < (length + kVector<T> - 1) / kVector<T> + 1) ++shift;
  return shift;
}

// A distance of runs in shared memory, at_least or little more, that changes phases as `distance` does.
template <typename T>
int like_distance(int at_least, int64_t distance) {
  constexpr int V = kVector<T>;
  return at_least + static_cast<int>((distance % V - at_least % V + V) % V);
}

// Elements of `count` runs, whose last is at most as long as `distance`, in shared memory, rounded to whole vectors.
template <typename T>
int size_of_runs(int count, int distance) {
  return ceil_div(count * distance + 2 * kVector<T>, kVector<T>) * kVector<T>;
}

// TN images of a pixel or a position, from the images' thread group on. `step`: elements between its vectors.
template <typename T, int TN>
__device__ void load_images(const Seen<T, TN>* from, int step, Acc<T> (&to)[TN]) {
  if constexpr (TN == 1) {
    to[0] = static_cast<Acc<T>>(*from);
  } else {
    constexpr int V = kVector<Acc<T>>;
#pragma unroll
    for (int k = 0; k < TN; k += V) {
      const Vector<Acc<T>> vector = *reinterpret_cast<const Vector<Acc<T>>*>(from + k / V * step);
#pragma unroll
      for (int e = 0; e < V; ++e) to[k + e] = vector.at[e];
    }
  }
}

// The same where `there` is such a pixel, else zeros.
template <typename T, int TN>
__device__ void load_images_if(bool there, const Seen<T, TN>* from, int step, Acc<T> (&to)[TN]) {
  if (there) {
    load_images<T, TN>(from, step, to);
  } else {
#pragma unroll
    for (int k = 0; k < TN; ++k) to[k] = 0;
  }
}

template <typename A, int rows, int columns>
__device__ void clear(A (&sums)[rows][columns]) {
#pragma unroll
  for (int i = 0; i < rows; ++i) {
#pragma unroll
    for (int k = 0; k < columns; ++k) sums[i][k] = 0;
  }
}

// Image k of thread group `group`, as load_images() reads them.
template <typename T>
__device__ int image_of(int k, int group, int groups) {
  constexpr int V = kVector<Acc<T>>;
  return k / V * V * groups + group * V + k % V;
}

// Positions of a tile: all, or about as many in each, and aligned as the first.
template <typename T>
int tile_of(int positions) {
  if (positions <= kTile) return positions;
  return ceil_div(ceil_div(positions, ceil_div(positions, kTile)), kVector<T>) * kVector<T>;
}

// Distance between entries of a tile in shared memory; those of whole positions lie as in the tensor.
template <typename T>
int entry_pitch(int tile, int positions) {
  return tile == positions ? positions : like_distance<T>(tile + 2 * (kVector<T> - 1), positions);
}

// Length of the parts into which `total` is cut where `blocks` blocks are few; partial sums of `results` each shall
// not need much more memory than `weights` do.
inline int part_of(int total, int chunk, int64_t blocks, int64_t results, int64_t weights) {
  const int64_t room = greatest<int64_t>(weights / 8, kSmall) / greatest<int64_t>(results, 1);
  const int64_t parts = least<int64_t>(ceil_div<int64_t>(kBlocks, blocks), greatest<int64_t>(room, 1));
  const int64_t part = ceil_div<int64_t>(total, greatest<int64_t>(parts, 1));
  return static_cast<int>(least<int64_t>(ceil_div<int64_t>(part, chunk) * chunk, total));
}

}  // namespace hnetfast::local_conv2d
