#include "tiles/tile_kernels.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>
#include <utility>

#if __has_builtin(__builtin_shufflevector)
#define HN_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // GCC before 12: the indices are a vector of integers as wide as the elements
#define HN_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Vector<std::conditional_t<sizeof(T) == 4, int32_t, int64_t>>{__VA_ARGS__})
#endif

#if defined(__x86_64__)
#include <immintrin.h>

#define HN_ISA avx512
#define HN_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma")))
#define HN_BYTES 64
#define HN_ROWS 8
#define HN_VECTORS 3
#define HN_FUSED true
#include "tiles/impl/kernels.h"

#define HN_ISA avx2
#define HN_TARGET __attribute__((target("avx2,fma")))
#define HN_BYTES 32
#define HN_ROWS 4
#define HN_VECTORS 3
#define HN_FUSED true
#include "tiles/impl/kernels.h"
#endif

#define HN_ISA baseline
#define HN_TARGET
#define HN_BYTES 16
#define HN_ROWS 4
#define HN_VECTORS 2
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define HN_FUSED true
#else
#define HN_FUSED false
#endif
#include "tiles/impl/kernels.h"

namespace hnetfast {

#if defined(__x86_64__)
// Chosen when the library is loaded: a static variable in a function would be locked during the first call, for
// ever in a process that is forked then.
template <typename T>
const TileKernels<T>* const kBest = [] {
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return avx512 ? &avx512::kTable<T> : avx2 ? &avx2::kTable<T> : &baseline::kTable<T>;
}();
#endif

template <typename T>
const TileKernels<T>& tile_kernels() {
#if defined(__x86_64__)
  return *kBest<T>;
#else
  return baseline::kTable<T>;
#endif
}

template const TileKernels<float>& tile_kernels<float>();
template const TileKernels<double>& tile_kernels<double>();

}  // namespace hnetfast
