// Kernels of hnetfast::local_conv2d for CUDA, and how they are launched; no ATen, so that a host can run them too.
//
// A weight is used once for each image: for N images of float, 4 bytes are read and 2·N operations done. Up to about
// 32 images the bytes bound a GPU, beyond that the operations; so 32 images are one pass over the weights. A thread
// holds 8 outputs × 8 images (double: 4) of one position: per entry 8 weights from shared memory and two 128-bit loads
// of pixels, whose images lie side by side in a copy made before, feed 64 multiply-adds. Weights are copied to shared
// memory asynchronously in blocks of 16 bytes, 2 to 3 chunks deep; a run of any alignment keeps its phase there, so
// that all blocks but those across the ends of the tensor are 128-bit. A tile is at most 32 positions (all if P ≤ 32:
// then a chunk of entries is one run), two blocks of 256 threads fit an SM at 128 registers. What is left of a block's
// threads, and more blocks if these are few, share out the entries; the sums meet in a fixed order, without atomics.
// The gradient to the input is the same with outputs summed over and channels held; the one to the weights holds
// 8 outputs × 8 entries, sums over images and leaves through shared memory as whole runs.
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
constexpr int kSharedBytes = 46 * 1024;              // of 48 KiB that a block gets without asking
constexpr int kStages = 3;                           // chunks of weights: two under way, one in use
constexpr int kStageBytes = kSharedBytes / kStages;
constexpr int kBlocks = 512;                   // wanted; not read off the device, so that all devices add alike
constexpr int64_t kSmall = 1 << 20;            // partial sums that are allowed whatever the weights' number

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
struct Sizes {
  int sets, images, channels, height, width, outputs, kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w,
      dilation_h, dilation_w, out_h, out_w, groups;
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

// --- copies to shared memory ----------------------------------------------------------------------

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
__device__ void copy_run(T* shared, int at, const T* from, int length, const T* begin, const T* end, int lane,
                         int lanes) {
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

// Image k of thread group `group`, as load_images() reads them.
template <typename T>
__device__ int image_of(int k, int group, int groups) {
  constexpr int V = kVector<Acc<T>>;
  return k / V * V * groups + group * V + k % V;
}

// --- images side by side --------------------------------------------------------------------------

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
__global__ void __launch_bounds__(kThreads) side_by_side_kernel(const T* from, Acc<T>* to, int sets, int images,
                                                                int64_t size, Images plan) {
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
      tile[n * (kSide + 1) + column] =
          there ? static_cast<Acc<T>>(from[(set * images + image) * size + m0 + column]) : Acc<T>(0);
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
__global__ void __launch_bounds__(kThreads) add_parts_kernel(const Acc<T>* partial, int parts, int64_t size,
                                                             const T* bias, int64_t image, int images, T* out) {
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

// --- forward --------------------------------------------------------------------------------------

// What an entry adds to the pixel at which a position begins.
struct alignas(16) Entry {
  int pixel, dy, dx;
};

struct ForwardPlan {
  Images images;
  int tile, tiles, row_tiles;  // positions of a tile; tiles of positions and of outputs
  int shares, threads;         // parts of the entries in a block
  int chunk, pitch, slab, stage, shift;  // entries staged at once, distances of entries, of outputs, of stages
  int part, parts;                       // entries of a block, blocks that share all of them
  int64_t blocks;
  int shared_bytes;
};

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

template <typename T>
ForwardPlan plan_forward(const Sizes& s) {
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
  plan.stage = plan.chunk * static_cast<int>(sizeof(Entry)) +
               size_of_runs<T>(kRows, plan.slab) * static_cast<int>(sizeof(T));
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
  __device__ ForwardPlace(const Sizes& s, const ForwardPlan& plan, Index index)
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

template <typename T, int TN>
__global__ void __launch_bounds__(kThreads, 2)
    forward_kernel(Sizes s, ForwardPlan plan, const Seen<T, TN>* __restrict__ seen, const T* __restrict__ weight,
                   const T* weight_end, const T* __restrict__ bias, T* __restrict__ out, Acc<T>* __restrict__ partial) {
  HNETFAST_SHARED(memory);
  constexpr int V = kVector<T>;
  const int P = s.positions(), F = s.fields(), K = s.kernel();
  const ForwardPlace at(s, plan, {blockIdx.x});
  const int begin = at.part * plan.part, end = least(begin + plan.part, F), chunks = ceil_div(end - begin, plan.chunk);

  const int groups = plan.images.groups, group = threadIdx.x % groups, spot = threadIdx.x / groups % plan.tile;
  const int share = threadIdx.x / groups / plan.tile;
  const bool works = share < plan.shares && spot < at.count;
  const int p = at.p0 + spot, y0 = p / s.out_w * s.stride_h - s.padding_h, x0 = p % s.out_w * s.stride_w - s.padding_w;
  const int64_t images = static_cast<int64_t>(s.shared ? 0 : at.set) * plan.images.blocks + at.block;
  const Seen<T, TN>* mine = seen + group * kVector<Acc<T>> +
                            (images * s.groups + at.g) * s.group_channels() * s.pixels() * plan.images.pitch;
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
    for (int j = threadIdx.x; j < n; j += blockDim.x) {
      const int f = f0 + j, dy = f % K / s.kernel_w * s.dilation_h, dx = f % s.kernel_w * s.dilation_w;
      entries[j] = {(f / K * s.height + dy) * s.width + dx, dy, dx};
    }
    const int runs = kRows * (whole ? 1 : n), length = whole ? n * P : at.count;
    for (int run = threadIdx.x >> plan.shift; run < runs; run += blockDim.x >> plan.shift) {
      const int i = run % kRows, j = run / kRows, lane = threadIdx.x & ((1 << plan.shift) - 1);
      if (i >= at.num_rows) continue;
      copy_run(weights, phase(f0) + i * plan.slab + j * plan.pitch, first + i * row + static_cast<int64_t>(f0 + j) * P,
               length, weight, weight_end, lane, 1 << plan.shift);
    }
  };

  Acc<T> sums[kRows][TN];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int k = 0; k < TN; ++k) sums[i][k] = 0;
  }
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
      if (static_cast<unsigned>(y0 + entry.dy) < static_cast<unsigned>(s.height) &&
          static_cast<unsigned>(x0 + entry.dx) < static_cast<unsigned>(s.width)) {
        const int64_t pixel = corner + entry.pixel;
        load_images<T, TN>(mine + pixel * plan.images.pitch, groups * kVector<Acc<T>>, x);
      } else {
#pragma unroll
        for (int k = 0; k < TN; ++k) x[k] = 0;
      }
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

  const ForwardPlace to(s, plan, {block_again()});
  add_shares<T, TN>(memory, sums, plan.shares, plan.tile, groups,
                    [&](int i, int spot, int group, int k, Acc<T> sum) {
                      const int within = TN == 1 ? 0 : image_of<T>(k, group, groups);
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
                    });
}

// --- gradient to the weights ----------------------------------------------------------------------

struct WeightPlan {
  int tile, tiles, row_tiles, teams, threads;  // teams of threads of a tile's positions, kColumns entries each
  int chunk, chunks, pitch, slab, shift;  // as in ForwardPlan
  int64_t blocks;
  int shared_bytes;
};

constexpr int kRowsOfRound = kRows / 2;  // outputs that leave at once

template <typename T>
WeightPlan plan_weight(const Sizes& s) {
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
__global__ void __launch_bounds__(kThreads, 2)
    grad_weight_kernel(Sizes s, WeightPlan plan, const T* __restrict__ grad, const T* __restrict__ input,
                       T* __restrict__ grad_weight) {
  HNETFAST_SHARED(memory);
  constexpr int V = kVector<T>, TF = kColumns<T>;
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
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int q = 0; q < TF; ++q) sums[i][q] = 0;
  }
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
      T* to = first + (round + i) * row + static_cast<int64_t>(j) * P;
      for (int b = at / V * V + lane * V; b < at + length; b += lanes * V) {
        if (b >= at && b + V <= at + length) {
          *reinterpret_cast<Vector<float>*>(to + (b - at)) = *reinterpret_cast<const Vector<float>*>(held + b);
        } else {
          for (int e = greatest(b, at); e < least(b + V, at + length); ++e) to[e - at] = held[e];
        }
      }
    }
  }
}

// --- gradient to the input ------------------------------------------------------------------------



struct InputPlan {
  Images images;
  int tile, tiles, row_tiles;  // pixels of a tile; tiles of pixels and of channels
  int shares, threads;
  bool staged, whole;  // weights go through shared memory; all of a channel's at once
  int chunk, pitch, slab, stages, shift;      // outputs staged at once, distances of kernel entries and of outputs
  int ky_step, py_step, kx_step, px_step;     // see Matches
  int terms, part, parts;          // outputs summed over, those of a block, blocks that share all of them
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
  __device__ InputPlace(const Sizes& s, const InputPlan& plan, Index index)
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

template <typename T>
InputPlan plan_input(const Sizes& s) {
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

// `staged`: weights go through shared memory; else, of images too wide for a tile of whole rows or of kernels too
// large, they are read where they lie.
template <typename T, int TN, bool staged>
__global__ void __launch_bounds__(kThreads, 2)
    grad_input_kernel(Sizes s, InputPlan plan, const Seen<T, TN>* __restrict__ grad, const T* __restrict__ weight,
                      const T* weight_end, T* __restrict__ grad_input, Acc<T>* __restrict__ partial) {
  HNETFAST_SHARED(memory);
  constexpr int V = kVector<T>;
  const int P = s.positions(), K = s.kernel(), per_group = s.group_outputs();
  const InputPlace found(s, plan, {blockIdx.x});
  // In shared memory, as registers are scarce.
  InputPlace* const held = reinterpret_cast<InputPlace*>(memory);
  const InputPlace& place = *held;
  if (threadIdx.x == 0) *held = found;
  const int num_rows = found.num_rows;
  const int begin = found.part * plan.part, end = least(begin + plan.part, plan.terms);
  const int chunks = staged ? ceil_div(end - begin, plan.chunk) : 1;

  const int groups = plan.images.groups, group = threadIdx.x % groups, spot = threadIdx.x / groups % plan.tile;
  const int share = threadIdx.x / groups / plan.tile;
  const bool works = share < plan.shares && spot < found.count;
  const int y = (found.q0 + spot) / s.width, x = column_of((found.q0 + spot) % s.width, s.width, s.stride_w);
  Matches my{0, 0, 0}, mx{0, 0, 0};
  if (works) {
    my = matches_of(y, s.kernel_h, s.stride_h, s.padding_h, s.dilation_h, s.out_h);
    mx = matches_of(x, s.kernel_w, s.stride_w, s.padding_w, s.dilation_w, s.out_w);
  }
  // The first match: its kernel entry's place among the weights, and its position.
  const int first_at = (my.first * s.kernel_w + mx.first) * plan.pitch, first_p = my.position * s.out_w + mx.position;

  // Term t is an output of the group, in the sets one after another where these see the same images.
  const auto set_of = [&](int t) { return s.shared ? t / per_group : place.slot; };
  const auto output_of = [&](int t) { return place.g * per_group + (s.shared ? t % per_group : t); };
  const auto weights_of = [&](int t) {
    const int64_t filter = static_cast<int64_t>(set_of(t)) * s.outputs + output_of(t);
    return weight + (filter * s.fields() + place.c0 * K) * P;
  };
  T* stages = reinterpret_cast<T*>(memory + sizeof(InputPlace));
  Span* spans = reinterpret_cast<Span*>(stages + (staged ? plan.stages * plan.chunk * plan.slab : 0));
  if constexpr (staged) {
    // Rows of positions from which entry ky sees the rows [top, bottom) of the tile.
    const int top = found.q0 / s.width, bottom = top + found.count / s.width;
    for (int k = threadIdx.x; k < K; k += blockDim.x) {
      const int shift = s.padding_h - k / s.kernel_w * s.dilation_h;
      const int first = ceil_div(greatest(top + shift, 0), s.stride_h);
      const int last = least(ceil_div(greatest(bottom + shift, 0), s.stride_h), s.out_h);
      spans[k] = {plan.whole ? 0 : first * s.out_w, greatest(last - first, 0) * s.out_w};
    }
  }
  __syncthreads();
  const auto stage = [&](int c) {
    const int t0 = begin + c * plan.chunk, n = least(plan.chunk, end - t0);
    const int lane = threadIdx.x & ((1 << plan.shift) - 1), team = threadIdx.x >> plan.shift;
    const int teams = blockDim.x >> plan.shift, first_k = team % K, step_k = teams % K;  // at most one division a stage
    for (int j = 0; j < n; ++j) {
      const T* from = weights_of(t0 + j);
      const int at = (c % plan.stages * plan.chunk + j) * plan.slab + phase_of(from);
      if (plan.whole) {
        copy_run(stages, at, from, place.num_rows * K * P, weight, weight_end, threadIdx.x, blockDim.x);
        continue;
      }
      for (int run = team, k = first_k; run < place.num_rows * K; run += teams) {
        const Span span = spans[k];
        copy_run(stages, at + run * plan.pitch + (span.begin & (V - 1)),
                 from + static_cast<int64_t>(run) * P + span.begin, span.length, weight, weight_end, lane, 1 << plan.shift);
        k += step_k;
        if (k >= K) k -= K;
      }
    }
  };

  Acc<T> sums[kRows][TN];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int k = 0; k < TN; ++k) sums[i][k] = 0;
  }
  if constexpr (staged) {
    for (int c = 0; c < plan.stages - 1; ++c) {
      if (c < chunks) stage(c);
      end_group_of_copies();
    }
  }
  const int channel = K * plan.pitch;
  for (int c = 0; c < chunks; ++c) {
    if constexpr (staged) {
      wait_for_copies(plan.stages - 2);
      __syncthreads();
      if (c + plan.stages - 1 < chunks) stage(c + plan.stages - 1);
      end_group_of_copies();
    }
    const int t0 = begin + c * plan.chunk, n = staged ? least(plan.chunk, end - t0) : end - begin;
    for (int j = share; j < n; j += plan.shares) {
      const T* w = weights_of(t0 + j);
      if constexpr (staged) w = stages + (c % plan.stages * plan.chunk + j) * plan.slab + phase_of(w);
      const int64_t images = static_cast<int64_t>(set_of(t0 + j)) * plan.images.blocks + place.block;
      const Seen<T, TN>* slopes = grad + (images * s.outputs + output_of(t0 + j)) * P * plan.images.pitch +
                                  group * kVector<Acc<T>>;
      for (int a = 0; a < my.count; ++a) {
        const int ky = a * plan.ky_step;
        int p = first_p - a * plan.py_step * s.out_w, at = first_at + ky * s.kernel_w * plan.pitch + p;
        if constexpr (staged) at -= spans[(my.first + ky) * s.kernel_w].begin & ~(V - 1);
        for (int b = 0; b < mx.count; ++b, p -= plan.px_step, at += plan.kx_step * plan.pitch - plan.px_step) {
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
  }
  wait_for_copies(0);

  const InputPlace to(s, plan, {block_again()});
  add_shares<T, TN>(memory, sums, plan.shares, plan.tile, groups,
                    [&](int i, int spot, int group, int k, Acc<T> sum) {
                      const int within = TN == 1 ? 0 : image_of<T>(k, group, groups);
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
                    });
}

// --- launches -------------------------------------------------------------------------------------
// A device has allocate<T>(count), memory until the call is over, and launch(blocks, threads, shared, kernel, ...).

constexpr int64_t kFewBlocks = 2048;  // of kernels that loop over what there is

// The images [sets, N, size] as the kernels of TN images in a thread read them.
template <typename T, int TN, typename Device>
const Seen<T, TN>* lay_side_by_side(const T* from, int sets, int images, int64_t size, const Images& plan,
                                    Device& device) {
  if constexpr (TN == 1) {
    return from;
  } else {
    Acc<T>* to = device.template allocate<Acc<T>>(sets * plan.blocks * size * plan.pitch);
    const int64_t tiles = ceil_div<int64_t>(size, 32) * plan.blocks * sets;
    device.launch(least(tiles, kFewBlocks), kThreads, 32 * 33 * static_cast<int>(sizeof(Acc<T>)),
                  side_by_side_kernel<T>, from, to, sets, images, size, plan);
    return to;
  }
}

template <typename T, typename Device>
void add_parts(const Acc<T>* partial, int parts, int64_t size, const T* bias, int64_t image, int images, T* out,
               Device& device) {
  device.launch(least(ceil_div<int64_t>(size, kThreads), kFewBlocks), kThreads, 0, add_parts_kernel<T>, partial, parts,
                size, bias, image, images, out);
}

template <typename T, int TN, typename Device>
void run_forward_of(const Sizes& s, const T* input, const T* weight, const T* bias, T* out, Device& device) {
  const ForwardPlan plan = plan_forward<T>(s);
  const int64_t P = s.positions(), image = s.outputs * P, size = s.sets * s.images * image;
  const auto* seen = lay_side_by_side<T, TN>(input, s.shared ? 1 : s.sets, s.images,
                                             static_cast<int64_t>(s.channels) * s.pixels(), plan.images, device);
  Acc<T>* partial = plan.parts > 1 ? device.template allocate<Acc<T>>(plan.parts * size) : nullptr;
  device.launch(plan.blocks, plan.threads, plan.shared_bytes, forward_kernel<T, TN>, s, plan, seen, weight,
                weight + s.sets * image * s.fields(), bias, out, partial);
  if (partial) add_parts(partial, plan.parts, size, bias, image, s.images, out, device);
}

template <typename T, typename Device>
void run_forward(const Sizes& s, const T* input, const T* weight, const T* bias, T* out, Device& device) {
  if (s.images == 1) {
    run_forward_of<T, 1>(s, input, weight, bias, out, device);
  } else {
    run_forward_of<T, kColumns<T>>(s, input, weight, bias, out, device);
  }
}

template <typename T, typename Device>
void run_grad_weight(const Sizes& s, const T* grad, const T* input, T* grad_weight, Device& device) {
  const WeightPlan plan = plan_weight<T>(s);
  device.launch(plan.blocks, plan.threads, plan.shared_bytes, grad_weight_kernel<T>, s, plan, grad, input, grad_weight);
}

template <typename T, int TN, typename Device>
void run_grad_input_of(const Sizes& s, const T* grad, const T* weight, T* grad_input, Device& device) {
  const InputPlan plan = plan_input<T>(s);
  const int64_t P = s.positions(), slots = s.shared ? 1 : s.sets;
  const int64_t image = static_cast<int64_t>(s.channels) * s.pixels(), size = slots * s.images * image;
  const auto* seen = lay_side_by_side<T, TN>(grad, s.sets, s.images, s.outputs * P, plan.images, device);
  Acc<T>* partial = plan.parts > 1 ? device.template allocate<Acc<T>>(plan.parts * size) : nullptr;
  device.launch(plan.blocks, plan.threads, plan.shared_bytes,
                plan.staged ? grad_input_kernel<T, TN, true> : grad_input_kernel<T, TN, false>, s, plan, seen, weight,
                weight + s.sets * s.outputs * P * s.fields(), grad_input, partial);
  if (partial) add_parts<T>(partial, plan.parts, size, nullptr, image, s.images, grad_input, device);
}

template <typename T, typename Device>
void run_grad_input(const Sizes& s, const T* grad, const T* weight, T* grad_input, Device& device) {
  if (s.images == 1) {
    run_grad_input_of<T, 1>(s, grad, weight, grad_input, device);
  } else {
    run_grad_input_of<T, kColumns<T>>(s, grad, weight, grad_input, device);
  }
}

}  // namespace hnetfast::local_conv2d
