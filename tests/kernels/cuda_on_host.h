// Runs CUDA kernels as plain C++, block after block: each CUDA thread is a fibre, and a barrier goes to the next one.
//
// Between barriers, threads run one after the other, upwards or, in every other block, downwards. So a missing barrier
// shows where the order matters, and what is read before anybody has written it does: shared memory begins as NaN.
#pragma once

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct Dim3 {
  unsigned x = 0, y = 0, z = 0;
};
inline Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_host {

constexpr size_t kStack = 128 * 1024, kSharedLimit = 48 * 1024;

inline std::unique_ptr<unsigned char[]> held_memory{new unsigned char[kSharedLimit + 16]};
inline ucontext_t scheduler;
inline std::vector<ucontext_t> fibres;
inline std::vector<char> done;
inline std::function<void()> body;

inline unsigned char* shared_memory() {
  return held_memory.get() + (16 - reinterpret_cast<uintptr_t>(held_memory.get()) % 16) % 16;
}

inline void run_fibre() {
  body();
  done[threadIdx.x] = true;
}

inline void barrier() { swapcontext(&fibres[threadIdx.x], &scheduler); }

[[noreturn]] inline void fail(const char* why) {
  std::fprintf(stderr, "cuda_on_host: %s\n", why);
  std::abort();
}

template <typename F>
void launch(unsigned blocks, unsigned threads, size_t shared, const F& kernel) {
  static std::vector<std::unique_ptr<char[]>> stacks;
  if (blocks == 0 || threads == 0 || threads > 1024 || shared > kSharedLimit) fail("a launch that no GPU accepts");
  while (stacks.size() < threads) stacks.emplace_back(new char[kStack]);
  body = kernel;
  gridDim = {blocks, 1, 1};
  blockDim = {threads, 1, 1};
  for (unsigned block = 0; block < blocks; ++block) {
    blockIdx = {block, 0, 0};
    std::memset(shared_memory(), 0xff, shared);
    fibres.assign(threads, {});
    done.assign(threads, false);
    for (unsigned t = 0; t < threads; ++t) {
      getcontext(&fibres[t]);
      fibres[t].uc_stack.ss_sp = stacks[t].get();
      fibres[t].uc_stack.ss_size = kStack;
      fibres[t].uc_link = &scheduler;
      makecontext(&fibres[t], run_fibre, 0);
    }
    for (size_t running = threads; running > 0;) {
      size_t ended = 0;
      for (unsigned i = 0; i < threads; ++i) {
        const unsigned t = block % 2 ? threads - 1 - i : i;
        if (done[t]) continue;
        threadIdx = {t, 0, 0};
        swapcontext(&scheduler, &fibres[t]);
        ended += done[t];
      }
      if (ended != 0 && ended != running) fail("threads ended while others wait at a barrier");
      running -= ended;
    }
  }
}

}  // namespace cuda_on_host

inline void __syncthreads() { cuda_on_host::barrier(); }
