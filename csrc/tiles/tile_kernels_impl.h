// Body of the tile kernels, included once per instruction set by tile_kernels.cpp, which defines
//   HN_ISA     namespace, and the name that backends() reports
//   HN_TARGET  function attribute that turns the instruction set on
//   HN_BYTES   bytes of a vector register
//   HN_ROWS, HN_VECTORS  register block: rows × vectors of accumulators
//   HN_FUSED   whether compilers contract a product and a sum of vectors to one instruction
// (Templates need the attribute on each function: a target pragma does not reach instantiations.)

namespace hnetfast::HN_ISA {

#define HN_INLINE HN_TARGET __attribute__((always_inline)) inline

// Not an alias template with attributes, of which Clang drops `aligned`: every pointer would be one to an aligned
// vector. For the same reason local arrays say their alignment: Clang reads and writes them as if they had it.
template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(HN_BYTES), aligned(alignof(T)), may_alias));
};

template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
constexpr int kLanes = HN_BYTES / sizeof(T);

// Sums start with the bias; what is in C, where they `accumulate`, and `last` are added in the end.
template <typename T, int MR, int NV>
HN_TARGET void register_block(int64_t P, const T* A, int64_t am, int64_t ap, const T* B, int64_t ldb,
                              T* const* C, const T* bias, bool accumulate, const T* last = nullptr) {
  using V = Vector<T>;
  alignas(HN_BYTES) V sum[MR][NV];
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[m][v] = bias ? reinterpret_cast<const V*>(bias)[v] : V{};
  }
  for (int64_t p = 0; p < P; ++p) {
    alignas(HN_BYTES) V b[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) b[v] = reinterpret_cast<const V*>(B)[v];
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m) {
      const T a = A[m * am];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[m][v] += b[v] * a;
    }
    A += ap;
    B += ldb;
  }
  if (last || accumulate) {
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[m][v] += reinterpret_cast<const V*>(accumulate ? C[m] : last)[v];
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) reinterpret_cast<V*>(C[m])[v] = sum[m][v];
  }
}

template <typename T, int NV, int MR = HN_ROWS>
HN_INLINE void some_rows(int64_t rows, int64_t P, const T* A, int64_t am, int64_t ap, const T* B, int64_t ldb,
                         T* const* C, const T* bias, bool accumulate, const T* last = nullptr) {
  if constexpr (MR > 0) {
    if (rows == MR) {
      register_block<T, MR, NV>(P, A, am, ap, B, ldb, C, bias, accumulate, last);
    } else {
      some_rows<T, NV, MR - 1>(rows, P, A, am, ap, B, ldb, C, bias, accumulate, last);
    }
  }
}

template <typename T, int NV>
HN_INLINE void column_block(int64_t M, int64_t P, const T* A, int64_t am, int64_t ap, const T* B, int64_t ldb, T* C,
                            int64_t ldc, const T* bias, bool accumulate) {
  T* rows[HN_ROWS];
  for (int64_t m = 0; m < M; m += HN_ROWS) {
    for (int i = 0; i < HN_ROWS; ++i) rows[i] = C + (m + i) * ldc;
    some_rows<T, NV>(std::min<int64_t>(HN_ROWS, M - m), P, A + m * am, am, ap, B, ldb, rows, bias, accumulate);
  }
}

template <typename T>
HN_TARGET void gemm_scatter(int64_t M, int64_t P, const T* A, int64_t lda, const T* panel, const T* bias, bool bias_last,
                            T* out, const int64_t* offset, const int64_t* width, int64_t start) {
  constexpr int64_t columns = HN_VECTORS * kLanes<T>;
  alignas(64) T edge[HN_ROWS][columns];
  T* rows[HN_ROWS];
  for (int64_t m = 0; m < M; m += HN_ROWS) {
    const int64_t count = std::min<int64_t>(HN_ROWS, M - m);
    int64_t widest = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t valid = width[m + i] - start;
      widest = std::max(widest, valid);
      rows[i] = valid >= columns ? out + offset[m + i] : edge[i];
    }
    if (widest <= 0) continue;
    some_rows<T, HN_VECTORS>(count, P, A + m * lda, lda, 1, panel, columns, rows, bias_last ? nullptr : bias, false,
                              bias_last ? bias : nullptr);
    for (int64_t i = 0; i < count; ++i) {
      if (rows[i] != edge[i]) continue;
      const int64_t valid = std::max<int64_t>(width[m + i] - start, 0);
      std::copy(edge[i], edge[i] + valid, out + offset[m + i]);
    }
  }
}

// A panel of kSumDepth rows of B stays in the first-level cache for all rows of A.
template <typename T, int NV>
HN_INLINE void panel(int64_t M, int64_t P, const T* A, int64_t am, int64_t ap, const T* B, int64_t ldb, T* C,
                     int64_t ldc, const T* bias, bool accumulate) {
  int64_t p = 0;
  do {
    const int64_t depth = std::min(kSumDepth, P - p);
    column_block<T, NV>(M, depth, A + p * ap, am, ap, B + p * ldb, ldb, C, ldc, accumulate || p ? nullptr : bias, accumulate || p > 0);
    p += depth;
  } while (p < P);
}

template <typename T>
HN_TARGET void gemm(int64_t M, int64_t N, int64_t P, const T* A, int64_t am, int64_t ap, const T* B, int64_t ldb,
                    T* C, int64_t ldc, const T* bias, bool accumulate) {
  constexpr int L = kLanes<T>;
  int64_t n = 0;
  for (; n + HN_VECTORS * L <= N && N - n != 4 * L; n += HN_VECTORS * L) {  // 2 + 2 vectors beat 3 + 1
    panel<T, HN_VECTORS>(M, P, A, am, ap, B + n, ldb, C + n, ldc, bias ? bias + n : nullptr, accumulate);
  }
  for (; n + 2 * L <= N; n += 2 * L) {
    panel<T, 2>(M, P, A, am, ap, B + n, ldb, C + n, ldc, bias ? bias + n : nullptr, accumulate);
  }
  for (; n < N; n += L) {
    panel<T, 1>(M, P, A, am, ap, B + n, ldb, C + n, ldc, bias ? bias + n : nullptr, accumulate);
  }
}

// sum + a·b, rounded as in register_block.
template <typename T>
HN_INLINE T add_product(T sum, T a, T b) {
  if constexpr (!HN_FUSED) return sum + a * b;
  else if constexpr (sizeof(T) == 4) return __builtin_fmaf(a, b, sum);
  else return __builtin_fma(a, b, sum);
}

// The quotient by way of the reciprocal, and what that lacks: an eighth of the time of a division.
template <typename T>
HN_TARGET void bytes_to_unit(T* to, const uint8_t* from, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const T byte = from[i];
    if constexpr (HN_FUSED) {
      const T quotient = byte * T(1.0 / 255);
      to[i] = add_product(quotient, add_product(byte, quotient, T(-255)), T(1.0 / 255));
    } else {
      to[i] = byte / T(255);
    }
  }
}

// c[u] (+)= the products of U rows of B with `a`, in the order of `gemm`.
template <typename T, int U>
HN_INLINE void some_dots(int64_t P, const T* a, const T* B, int64_t ldb, T* c, const T* bias, bool add) {
  T total[U];
  int64_t p = 0;
  do {
    T sum[U];
    for (int u = 0; u < U; ++u) sum[u] = bias && p == 0 ? bias[u] : T(0);
    const int64_t end = std::min(p + kSumDepth, P);
    for (int64_t q = p; q < end; ++q) {
      for (int u = 0; u < U; ++u) sum[u] = add_product(sum[u], B[u * ldb + q], a[q]);
    }
    for (int u = 0; u < U; ++u) total[u] = p ? sum[u] + total[u] : sum[u];
    p = end;
  } while (p < P);
  for (int u = 0; u < U; ++u) c[u] = add ? c[u] + total[u] : total[u];
}

// Scalars, eight sums at a time: for matrices that are not worth laying out for `gemm`, whose order of terms it keeps.
template <typename T>
HN_TARGET void dot_rows(int64_t N, int64_t P, const T* a, const T* B, int64_t ldb, T* c, const T* bias, bool add) {
  constexpr int U = 8;
  int64_t n = 0;
  for (; n + U <= N; n += U) some_dots<T, U>(P, a, B + n * ldb, ldb, c + n, bias ? bias + n : nullptr, add);
  for (; n < N; ++n) some_dots<T, 1>(P, a, B + n * ldb, ldb, c + n, bias ? bias + n : nullptr, add);
}

// One stage of the transposition of an L × L block: swap the off-diagonal S × S blocks of every 2S × 2S block.
template <typename T, int S, size_t... Lane>
HN_INLINE void swap_blocks(Vector<T>& a, Vector<T>& b, std::index_sequence<Lane...>) {
  constexpr int L = kLanes<T>;
  const Vector<T> low = HN_SHUFFLE(a, b, ((Lane & S) ? int(L + Lane - S) : int(Lane))...);
  const Vector<T> high = HN_SHUFFLE(a, b, ((Lane & S) ? int(L + Lane) : int(Lane + S))...);
  a = low;
  b = high;
}

template <typename T, int S = kLanes<T> / 2>
HN_INLINE void transpose(Vector<T>* rows) {
  constexpr int L = kLanes<T>;
  if constexpr (S > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) {
      if (!(i & S)) swap_blocks<T, S>(rows[i], rows[i + S], std::make_index_sequence<L>());
    }
    transpose<T, S / 2>(rows);
  }
}

#if defined(__x86_64__) && HN_BYTES == 64
// Matrices of so few columns that 16 rows of them are as many vectors: these are taken apart, and put together, by
// permutes, as many of which make a vector as there are columns.
constexpr int64_t kNarrow = 8;

struct Permutes {
  alignas(64) int32_t lane[kNarrow][kNarrow][16] = {};
  uint16_t mask[kNarrow][kNarrow] = {};

  // Lane `to` of result `vector` is lane `from` of source `source`.
  void set(int64_t vector, int64_t to, int64_t source, int64_t from) {
    lane[vector][source][to] = static_cast<int32_t>(from);
    mask[vector][source] |= static_cast<uint16_t>(1u << to);
  }
};

HN_INLINE __m512 permuted(const Permutes& permutes, int64_t vector, const __m512* sources, int64_t count) {
  __m512 result = _mm512_setzero_ps();
  for (int64_t s = 0; s < count; ++s) {
    const __m512i lanes = _mm512_load_si512(permutes.lane[vector][s]);
    result = _mm512_mask_permutexvar_ps(result, permutes.mask[vector][s], lanes, sources[s]);
  }
  return result;
}

// Returns the first row that is left over: whole rows are read, of a matrix that may be some columns of another.
HN_TARGET inline int64_t pack_narrow(float* tile, int64_t pitch, const float* matrix, const float* end, int64_t ld, int64_t rows,
                                     Columns columns) {
  Permutes permutes;
  for (int64_t t = 0; t < columns.width; ++t) {
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t flat = i * ld + columns.from + t;
      permutes.set(t, i, flat / 16, flat % 16);
    }
  }
  int64_t j = 0;
  for (; j + 16 <= rows && (j + 16) * ld <= end - matrix; j += 16) {
    __m512 sources[kNarrow];
    for (int64_t s = 0; s < ld; ++s) sources[s] = _mm512_loadu_ps(matrix + j * ld + 16 * s);
    for (int64_t t = 0; t < columns.width; ++t) {
      _mm512_storeu_ps(tile + (columns.to + t) * pitch + j, permuted(permutes, t, sources, ld));
    }
  }
  return j;
}

HN_TARGET inline int64_t unpack_narrow(const float* tile, int64_t pitch, float* matrix, int64_t ld, int64_t rows,
                                       const Columns* runs, int64_t count) {
  int64_t tile_row[kNarrow], covered = 0;
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t t = 0; t < runs[r].width; ++t) tile_row[runs[r].from + t] = runs[r].to + t;
    covered += runs[r].width;
  }
  if (covered != ld) return 0;
  Permutes permutes;
  for (int64_t flat = 0; flat < 16 * ld; ++flat) permutes.set(flat / 16, flat % 16, flat % ld, flat / ld);
  int64_t j = 0;
  for (; j + 16 <= rows; j += 16) {
    __m512 sources[kNarrow];
    for (int64_t s = 0; s < ld; ++s) sources[s] = _mm512_loadu_ps(tile + tile_row[s] * pitch + j);
    for (int64_t v = 0; v < ld; ++v) _mm512_storeu_ps(matrix + j * ld + 16 * v, permuted(permutes, v, sources, ld));
  }
  return j;
}
#endif

template <typename T>
HN_TARGET void pack_transposed(T* tile, int64_t pitch, const T* matrix, const T* end, int64_t ld, int64_t rows,
                               Columns columns) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>;
  if (columns.width == 0) return;  // there may be no matrix either
#if defined(__x86_64__) && HN_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    if (ld <= kNarrow && rows >= L) {
      const int64_t done = pack_narrow(tile, pitch, matrix, end, ld, rows, columns);
      for (int64_t t = 0; t < columns.width; ++t) {
        T* out = tile + (columns.to + t) * pitch;
        for (int64_t j = done; j < pitch; ++j) out[j] = j < rows ? matrix[j * ld + columns.from + t] : T(0);
      }
      return;
    }
  }
#endif
  matrix += columns.from;
  tile += columns.to * pitch;
  for (int64_t j = 0; j < pitch; j += L) {
    const int64_t height = std::clamp<int64_t>(rows - j, 0, L);
    for (int64_t k = 0; k < columns.width; k += L) {
      const int64_t width = std::min<int64_t>(L, columns.width - k);
      // Reading past a row's end is fine within the matrix: what comes from there is not stored.
      if (height > 0 && matrix + (j + height - 1) * ld + k + L <= end) {
        alignas(HN_BYTES) V block[L];
        if (height == L) {
          // The rows of the next block: as so many streams, the processor may or may not see them coming.
          if (const T* next = matrix + (j + L) * ld + k; next + L * ld <= end) {
#pragma GCC unroll 16
            for (int r = 0; r < L; ++r) __builtin_prefetch(next + r * ld);
          }
#pragma GCC unroll 16
          for (int r = 0; r < L; ++r) block[r] = *reinterpret_cast<const V*>(matrix + (j + r) * ld + k);
        } else {
          for (int r = 0; r < L; ++r) block[r] = r < height ? *reinterpret_cast<const V*>(matrix + (j + r) * ld + k) : V{};
        }
        transpose<T>(block);
        if (width == L) {
#pragma GCC unroll 16
          for (int t = 0; t < L; ++t) *reinterpret_cast<V*>(tile + (k + t) * pitch + j) = block[t];
        } else {
          for (int t = 0; t < width; ++t) *reinterpret_cast<V*>(tile + (k + t) * pitch + j) = block[t];
        }
      } else {
        for (int64_t t = 0; t < width; ++t) {
          T* out = tile + (k + t) * pitch + j;
          for (int64_t r = 0; r < L; ++r) out[r] = j + r < rows ? matrix[(j + r) * ld + k + t] : T(0);
        }
      }
    }
  }
}

// The first `count` elements of a vector.
template <typename T>
HN_INLINE void store_some(T* out, Vector<T> value, int64_t count) {
#if defined(__x86_64__) && HN_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    _mm512_mask_storeu_epi32(out, static_cast<__mmask16>((1u << count) - 1), reinterpret_cast<__m512i>(value));
  } else {
    _mm512_mask_storeu_epi64(out, static_cast<__mmask8>((1u << count) - 1), reinterpret_cast<__m512i>(value));
  }
#else
  for (int64_t i = 0; i < count; ++i) out[i] = value[i];
#endif
}

template <typename T>
HN_TARGET void unpack_run(const T* tile, int64_t pitch, T* matrix, int64_t ld, int64_t rows, Columns columns) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>;
  matrix += columns.from;
  tile += columns.to * pitch;
  for (int64_t j = 0; j < rows; j += L) {
    const int64_t height = std::min<int64_t>(L, rows - j);
    for (int64_t k = 0; k < columns.width; k += L) {
      const int64_t width = std::min<int64_t>(L, columns.width - k);
      alignas(HN_BYTES) V block[L];
      if (width == L) {
#pragma GCC unroll 16
        for (int t = 0; t < L; ++t) block[t] = *reinterpret_cast<const V*>(tile + (k + t) * pitch + j);
      } else {
        for (int t = 0; t < L; ++t) block[t] = t < width ? *reinterpret_cast<const V*>(tile + (k + t) * pitch + j) : V{};
      }
      transpose<T>(block);
      if (width == L && height == L) {
#pragma GCC unroll 16
        for (int r = 0; r < L; ++r) *reinterpret_cast<V*>(matrix + (j + r) * ld + k) = block[r];
      } else {
        for (int64_t r = 0; r < height; ++r) store_some<T>(matrix + (j + r) * ld + k, block[r], width);
      }
    }
  }
}

template <typename T>
HN_TARGET void unpack_transposed(const T* tile, int64_t pitch, T* matrix, int64_t ld, int64_t rows, const Columns* runs,
                                 int64_t count) {
  int64_t done = 0;
#if defined(__x86_64__) && HN_BYTES == 64
  if constexpr (sizeof(T) == 4) {
    if (ld <= kNarrow && rows >= kLanes<T>) done = unpack_narrow(tile, pitch, matrix, ld, rows, runs, count);
  }
#endif
  if (done == rows) return;
  for (int64_t r = 0; r < count; ++r) unpack_run(tile + done, pitch, matrix + done * ld, ld, rows - done, runs[r]);
}

template <typename T>
HN_TARGET void add_dots(int64_t M, int64_t N, int64_t P, const T* A, int64_t lda, const T* B, int64_t ldb, T* C,
                        int64_t ldc) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>, W = 4;  // rows of B at a time
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t n = 0; n < N; n += W) {
      const int64_t width = std::min<int64_t>(W, N - n);
      alignas(HN_BYTES) V sum[W] = {};
      const T *a = A + m * lda, *b[W];
      for (int64_t w = 0; w < W; ++w) b[w] = B + (n + std::min(w, width - 1)) * ldb;
      for (int64_t p = 0; p < P; p += L) {
        const V value = *reinterpret_cast<const V*>(a + p);
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) sum[w] += value * *reinterpret_cast<const V*>(b[w] + p);
      }
      for (int64_t w = 0; w < width; ++w) {
        T total = 0;
        for (int i = 0; i < L; ++i) total += sum[w][i];
        C[m * ldc + n + w] += total;
      }
    }
  }
}

template <typename T, int NI, int NJ>
HN_TARGET void position_block(int64_t K, int64_t P, const T* A, int64_t ai, int64_t ak, const T* B, int64_t bj, int64_t bk,
                              T* C, int64_t ci, int64_t cj, bool accumulate, bool into_place) {
  using V = Vector<T>;
  constexpr int64_t L = kLanes<T>;
  T* const first = C;
  for (int64_t p = 0; p < P; p += L) {
    const int64_t start = std::min(p, P - L);
    const T* from = A + (into_place ? p : start);
    C = first + (into_place ? start : p);
    alignas(HN_BYTES) V sum[NI][NJ];
#pragma GCC unroll 8
    for (int i = 0; i < NI; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < NJ; ++j) sum[i][j] = accumulate ? *reinterpret_cast<const V*>(C + i * ci + j * cj) : V{};
    }
    for (int64_t k = 0; k < K; ++k) {
      alignas(HN_BYTES) V b[NJ];
#pragma GCC unroll 8
      for (int j = 0; j < NJ; ++j) b[j] = *reinterpret_cast<const V*>(B + j * bj + k * bk + p);
#pragma GCC unroll 8
      for (int i = 0; i < NI; ++i) {
        const V a = *reinterpret_cast<const V*>(from + i * ai + k * ak);
#pragma GCC unroll 8
        for (int j = 0; j < NJ; ++j) sum[i][j] += a * b[j];
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < NI; ++i) {
#pragma GCC unroll 8
      for (int j = 0; j < NJ; ++j) *reinterpret_cast<V*>(C + i * ci + j * cj) = sum[i][j];
    }
  }
}

template <typename T>
HN_TARGET void multiply_positions(int64_t I, int64_t J, int64_t K, int64_t P, const T* A, int64_t ai, int64_t ak, const T* B,
                                  int64_t bj, int64_t bk, T* C, int64_t ci, int64_t cj, bool accumulate, bool into_place) {
  for (int64_t i = 0; i < I;) {
    const bool wide_i = i + 4 <= I;
    for (int64_t j = 0; j < J;) {
      const bool wide_j = j + 2 <= J;
      const auto run = wide_i ? (wide_j ? position_block<T, 4, 2> : position_block<T, 4, 1>)
                              : (wide_j ? position_block<T, 1, 2> : position_block<T, 1, 1>);
      run(K, P, A + i * ai, ai, ak, B + j * bj, bj, bk, C + i * ci + j * cj, ci, cj, accumulate, into_place);
      j += wide_j ? 2 : 1;
    }
    i += wide_i ? 4 : 1;
  }
}

template <typename T, int MR, int NV>
HN_TARGET void row_block(int64_t K, const T* A, const int64_t* a_row, int64_t ak, const T* B, const int64_t* b_row, T* C,
                         const int64_t* c_row, bool accumulate) {
  using V = Vector<T>;
  alignas(HN_BYTES) V sum[MR][NV];
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[m][v] = accumulate ? reinterpret_cast<const V*>(C + c_row[m])[v] : V{};
  }
  for (int64_t k = 0; k < K; ++k, A += ak) {
    alignas(HN_BYTES) V b[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) b[v] = reinterpret_cast<const V*>(B + b_row[k])[v];
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m) {
      const T a = A[a_row[m]];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[m][v] += b[v] * a;
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < MR; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) reinterpret_cast<V*>(C + c_row[m])[v] = sum[m][v];
  }
}

// Rows of a register block that is NV vectors wide: as many accumulators as there are registers to spare.
template <int NV>
constexpr int kBlockRows = HN_BYTES == 64 ? (NV == 1 ? 16 : NV == 2 ? 13 : NV == 3 ? 9 : 6) : (NV == 1 ? 12 : 6);

template <typename T, int NV, int MR = kBlockRows<NV>>
HN_INLINE void block_of_rows(int64_t rows, int64_t K, const T* A, const int64_t* a_row, int64_t ak, const T* B,
                             const int64_t* b_row, T* C, const int64_t* c_row, bool accumulate) {
  if constexpr (MR > 0) {
    if (rows == MR) {
      row_block<T, MR, NV>(K, A, a_row, ak, B, b_row, C, c_row, accumulate);
    } else {
      block_of_rows<T, NV, MR - 1>(rows, K, A, a_row, ak, B, b_row, C, c_row, accumulate);
    }
  }
}

template <typename T, int NV>
HN_INLINE void all_rows(int64_t M, int64_t K, const T* A, const int64_t* a_row, int64_t ak, const T* B, const int64_t* b_row,
                        T* C, const int64_t* c_row, bool accumulate) {
  const int64_t blocks = (M + kBlockRows<NV> - 1) / kBlockRows<NV>;
  for (int64_t i = 0; i < blocks; ++i) {  // of about the same size
    const int64_t m = M * i / blocks, rows = M * (i + 1) / blocks - m;
    block_of_rows<T, NV>(rows, K, A, a_row + m, ak, B, b_row, C, c_row + m, accumulate);
  }
}

template <typename T>
HN_TARGET void multiply_rows(int64_t M, int64_t N, int64_t K, const T* A, const int64_t* a_row, int64_t ak, const T* B,
                             const int64_t* b_row, T* C, const int64_t* c_row, bool accumulate) {
  constexpr int L = kLanes<T>;
  int64_t n = 0;
#if HN_BYTES == 64
  for (; n + 4 * L <= N; n += 4 * L) all_rows<T, 4>(M, K, A, a_row, ak, B + n, b_row, C + n, c_row, accumulate);
  for (; n + 3 * L <= N; n += 3 * L) all_rows<T, 3>(M, K, A, a_row, ak, B + n, b_row, C + n, c_row, accumulate);
#endif
  for (; n + 2 * L <= N; n += 2 * L) all_rows<T, 2>(M, K, A, a_row, ak, B + n, b_row, C + n, c_row, accumulate);
  for (; n < N; n += L) all_rows<T, 1>(M, K, A, a_row, ak, B + n, b_row, C + n, c_row, accumulate);
}

template <typename T>
HN_INLINE void stream_store(T* out, Vector<T> value) {
#if defined(__x86_64__) && HN_BYTES == 64
  _mm512_stream_si512(reinterpret_cast<__m512i*>(out), reinterpret_cast<__m512i>(value));
#elif defined(__x86_64__) && HN_BYTES == 32
  _mm256_stream_si256(reinterpret_cast<__m256i*>(out), reinterpret_cast<__m256i>(value));
#elif defined(__x86_64__)
  _mm_stream_si128(reinterpret_cast<__m128i*>(out), reinterpret_cast<__m128i>(value));
#else
  *reinterpret_cast<Vector<T>*>(out) = value;
#endif
}

template <typename T>
HN_TARGET void write_sum(T* out, const T* a, const T* b, int64_t count, bool stream) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>;
  int64_t i = 0;
  if (stream) {
    while (i < count && reinterpret_cast<uintptr_t>(out + i) % HN_BYTES) {
      out[i] = b ? a[i] + b[i] : a[i];
      ++i;
    }
    if (b) {
      for (; i + L <= count; i += L) {
        stream_store<T>(out + i, *reinterpret_cast<const V*>(a + i) + *reinterpret_cast<const V*>(b + i));
      }
    } else {
      for (; i + L <= count; i += L) stream_store<T>(out + i, *reinterpret_cast<const V*>(a + i));
    }
  } else if (b) {
    for (; i + L <= count; i += L) {
      *reinterpret_cast<V*>(out + i) = *reinterpret_cast<const V*>(a + i) + *reinterpret_cast<const V*>(b + i);
    }
  } else {
    for (; i + L <= count; i += L) *reinterpret_cast<V*>(out + i) = *reinterpret_cast<const V*>(a + i);
  }
  for (; i < count; ++i) out[i] = b ? a[i] + b[i] : a[i];
}

template <typename T>
HN_TARGET void add(T* sum, const T* a, int64_t count) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>;
  int64_t i = 0;
  for (; i + L <= count; i += L) *reinterpret_cast<V*>(sum + i) += *reinterpret_cast<const V*>(a + i);
  for (; i < count; ++i) sum[i] += a[i];
}

// a where the comparison `mask` holds, else b.
template <typename V, typename M>
HN_INLINE V choose(M mask, V a, V b) {
  return (V)((mask & (M)a) | (~mask & (M)b));
}

template <typename T>
HN_TARGET void relu(T* to, const T* from, int64_t count) {
  using V = Vector<T>;
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    const V x = *reinterpret_cast<const V*>(from + i);
    *reinterpret_cast<V*>(to + i) = choose(x < V{}, V{}, x);
  }
  for (; i < count; ++i) to[i] = from[i] < T(0) ? T(0) : from[i];
}

template <typename T>
HN_TARGET void relu_backward(T* grad, const T* h, int64_t count) {
  using V = Vector<T>;
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    V* const g = reinterpret_cast<V*>(grad + i);
    *g = choose(*reinterpret_cast<const V*>(h + i) <= V{}, V{}, *g);
  }
  for (; i < count; ++i) grad[i] = h[i] <= T(0) ? T(0) : grad[i];
}

template <typename T>
HN_TARGET void change_of_relu(T* now, T* change, const T* after, const T* delta, int64_t count, bool relu) {
  using V = Vector<T>;
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    const V b = *reinterpret_cast<const V*>(after + i), d = *reinterpret_cast<const V*>(delta + i), a = b - d;
    const V cut_a = choose(a < V{}, V{}, a), cut_b = choose(b < V{}, V{}, b), difference = cut_b - cut_a;
    *reinterpret_cast<V*>(now + i) = relu ? cut_b : b;
    *reinterpret_cast<V*>(change + i) = relu ? choose((a < V{}) | (b < V{}), difference, d) : d;
  }
  for (; i < count; ++i) {
    const T b = after[i], d = delta[i], a = b - d;
    const bool cut_a = relu && a < T(0), cut_b = relu && b < T(0);
    now[i] = cut_b ? T(0) : b;
    change[i] = cut_a || cut_b ? now[i] - (cut_a ? T(0) : a) : d;
  }
}

inline void fence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

#define HN_STRING(x) #x
#define HN_NAME(x) HN_STRING(x)

template <typename T>
const TileKernels<T> kTable = {HN_NAME(HN_ISA), kLanes<T>,  HN_ROWS,  HN_VECTORS* kLanes<T>, gemm<T>, gemm_scatter<T>, dot_rows<T>, pack_transposed<T>,
                               unpack_transposed<T>, add_dots<T>, multiply_rows<T>, multiply_positions<T>, write_sum<T>, add<T>, bytes_to_unit<T>, relu<T>,
                               relu_backward<T>, change_of_relu<T>, fence};

#undef HN_NAME
#undef HN_STRING
#undef HN_INLINE

}  // namespace hnetfast::HN_ISA

#undef HN_ISA
#undef HN_TARGET
#undef HN_BYTES
#undef HN_ROWS
#undef HN_VECTORS
#undef HN_FUSED
