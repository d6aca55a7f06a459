// Transposition of blocks of a matrix: pack_transposed and unpack_transposed.

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
HN_TARGET void pack_transposed(T* tile, int64_t pitch, const T* matrix, const T* end, int64_t ld, int64_t rows, Columns columns) {
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
