// Sharing out tasks among threads.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include <algorithm>
#include <cstdint>

#include "common/rounding.h"
#include "common/serial_library.h"

namespace hnetfast {

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
  parallel(ceil_div(rows, block), rows * width * kWork, [&](int64_t first, int64_t last) {
    at::AutoDispatchBelowADInplaceOrView guard;  // other threads start without the state of this one
    SerialLibrary serial;
    for (int64_t i = first; i < last; ++i) run(i * block, std::min((i + 1) * block, rows));
  });
}

}  // namespace hnetfast
