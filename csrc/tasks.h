// What the tile passes share: sharing out tasks among threads, and memory for each thread.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

#include "serial_library.h"
#include "tile_kernels.h"

namespace hnetfast {

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

constexpr std::align_val_t kCacheLine{64};

struct AlignedDelete {
  void operator()(void* memory) const { ::operator delete(memory, kCacheLine); }
};

// Memory of this thread, kept between calls, at the start of a cache line: vectors that straddle two lines take up to
// twice as long.
template <typename T>
T* scratch(int64_t count) {
  static_assert(std::is_trivial_v<T>);
  thread_local std::unique_ptr<T, AlignedDelete> buffer;
  thread_local int64_t size = -1;
#ifdef __SANITIZE_ADDRESS__
  size = -1;  // so that there is nothing of use beyond the end
#endif
  if (size < count) {
    size = -1;
    buffer.reset();
    buffer.reset(static_cast<T*>(::operator new(count * sizeof(T), kCacheLine)));
    size = count;
  }
  return buffer.get();
}

constexpr int64_t kSerialWork = 1 << 19;  // multiply-adds that cost less than to wait for a second thread

// Runs tasks [0, tasks) on all threads, or on this one where `work` multiply-adds do not pay for a second.
template <typename F>
void parallel(int64_t tasks, int64_t work, const F& run) {
  if (work < kSerialWork) {
    run(0, tasks);
  } else {
    at::parallel_for(0, tasks, 1, run);
  }
}

// Calls run(begin, end) for blocks of rows, the same ones for any number of threads, and too small for the library to share
// one out: some functions give other bits where the share of a thread ends.
template <typename F>
void for_each_row_block(int64_t rows, int64_t width, const F& run) {
  constexpr int64_t kElements = 1 << 14;  // half of what the library shares out
  constexpr int64_t kWork = 32;           // of an element, in multiply-adds
  const int64_t block = std::clamp<int64_t>(kElements / std::max<int64_t>(width, 1), 1, 256);
  parallel((rows + block - 1) / block, rows * width * kWork, [&](int64_t first, int64_t last) {
    at::AutoDispatchBelowADInplaceOrView guard;  // other threads start without the state of this one
    SerialLibrary serial;
    for (int64_t i = first; i < last; ++i) run(i * block, std::min((i + 1) * block, rows));
  });
}

inline bool has_tile_kernels(at::ScalarType type) { return type == at::kFloat || type == at::kDouble; }

// Calls run(T()) for a type that has tile kernels.
template <typename F>
void with_tile_type(at::ScalarType type, const F& run) {
  if (type == at::kFloat) {
    run(float());
  } else {
    run(double());
  }
}

// Groups of rows where there are too few tiles of columns to share out.
template <typename T>
int64_t row_groups(int64_t tiles, int64_t rows, const TileKernels<T>& kernels) {
  const int64_t most = std::max<int64_t>((rows + kernels.block_rows - 1) / kernels.block_rows, 1);
  return std::clamp<int64_t>(8 / std::max<int64_t>(tiles, 1), 1, most);
}

}  // namespace hnetfast
