#include "tile_kernels.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>

#define HN_ISA avx512
#define HN_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma")))
#define HN_BYTES 64
#define HN_ROWS 8
#define HN_VECTORS 3
#include "tile_kernels_impl.h"

#define HN_ISA avx2
#define HN_TARGET __attribute__((target("avx2,fma")))
#define HN_BYTES 32
#define HN_ROWS 4
#define HN_VECTORS 3
#include "tile_kernels_impl.h"
#endif

#define HN_ISA baseline
#define HN_TARGET
#define HN_BYTES 16
#define HN_ROWS 4
#define HN_VECTORS 2
#include "tile_kernels_impl.h"

namespace hnetfast {

template <typename T>
const TileKernels<T>& tile_kernels() {
#if defined(__x86_64__)
  static const TileKernels<T>* const best = [] {
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return avx512 ? &avx512::kTable<T> : avx2 ? &avx2::kTable<T> : &baseline::kTable<T>;
  }();
  return *best;
#else
  return baseline::kTable<T>;
#endif
}

template const TileKernels<float>& tile_kernels<float>();
template const TileKernels<double>& tile_kernels<double>();

}  // namespace hnetfast
