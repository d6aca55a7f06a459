// Products of matrices: gemm, gemm_scatter, dot_rows, add_dots, outer and changed_dots.

// Sums start with the bias; what is in C, where they `accumulate`, and `last` are added in the end.
template <typename T, int MR, int NV>
HN_TARGET void register_block(int64_t P, const T* A, int64_t am, int64_t ap, const T* B, int64_t ldb, T* const* C, const T* bias,
                              bool accumulate, const T* last = nullptr) {
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
HN_INLINE void some_rows(int64_t rows, int64_t P, const T* A, int64_t am, int64_t ap, const T* B, int64_t ldb, T* const* C,
                         const T* bias, bool accumulate, const T* last = nullptr) {
  if constexpr (MR > 0) {
    if (rows == MR) {
      register_block<T, MR, NV>(P, A, am, ap, B, ldb, C, bias, accumulate, last);
    } else {
      some_rows<T, NV, MR - 1>(rows, P, A, am, ap, B, ldb, C, bias, accumulate, last);
    }
  }
}

template <typename T, int NV>
HN_INLINE void column_block(int64_t M, int64_t P, const T* A, int64_t am, int64_t ap, const T* B, int64_t ldb, T* C, int64_t ldc,
                            const T* bias, bool accumulate) {
  T* rows[HN_ROWS];
  for (int64_t m = 0; m < M; m += HN_ROWS) {
    for (int i = 0; i < HN_ROWS; ++i) rows[i] = C + (m + i) * ldc;
    some_rows<T, NV>(std::min<int64_t>(HN_ROWS, M - m), P, A + m * am, am, ap, B, ldb, rows, bias, accumulate);
  }
}

template <typename T>
HN_TARGET void gemm_scatter(const MatrixView<const T>& a, const T* panel, const T* bias, bool bias_last, const Places<T>& to) {
  constexpr int64_t columns = HN_VECTORS * kLanes<T>;
  alignas(64) T edge[HN_ROWS][columns];
  T* rows[HN_ROWS];
  for (int64_t m = 0; m < a.rows; m += HN_ROWS) {
    const int64_t count = std::min<int64_t>(HN_ROWS, a.rows - m);
    int64_t widest = 0;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t valid = to.width[m + i] - to.start;
      widest = std::max(widest, valid);
      rows[i] = valid >= columns ? to.data + to.offset[m + i] : edge[i];
    }
    if (widest <= 0) continue;
    some_rows<T, HN_VECTORS>(count, a.cols, a.row(m), a.stride, 1, panel, columns, rows, bias_last ? nullptr : bias, false,
                             bias_last ? bias : nullptr);
    for (int64_t i = 0; i < count; ++i) {
      if (rows[i] != edge[i]) continue;
      const int64_t valid = std::max<int64_t>(to.width[m + i] - to.start, 0);
      std::copy(edge[i], edge[i] + valid, to.data + to.offset[m + i]);
    }
  }
}

// A panel of kSumDepth rows of B stays in the first-level cache for all rows of A.
template <typename T, int NV>
HN_INLINE void panel(int64_t M, int64_t P, const T* A, int64_t am, int64_t ap, const T* B, int64_t ldb, T* C, int64_t ldc,
                     const T* bias, bool accumulate) {
  int64_t p = 0;
  do {
    const int64_t depth = std::min(kSumDepth, P - p);
    column_block<T, NV>(M, depth, A + p * ap, am, ap, B + p * ldb, ldb, C, ldc, accumulate || p ? nullptr : bias,
                        accumulate || p > 0);
    p += depth;
  } while (p < P);
}

template <typename T>
HN_TARGET void gemm(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c, const T* bias,
                    bool accumulate) {
  constexpr int L = kLanes<T>;
  const int64_t M = a.rows, N = b.cols, P = a.cols, am = a.stride, ap = a.step, ldb = b.stride, ldc = c.stride;
  const T *const A = a.data, *const B = b.data;
  T* const C = c.data;
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

// c[u] (+)= the products of U rows of B with `a`, in the order of `gemm`.
template <typename T, int U>
HN_INLINE void some_dots(int64_t P, const T* a, const T* B, int64_t ldb, T* c, const T* bias, bool add) {
  T total[U] = {};
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

// Scalars, eight sums at a time.
template <typename T>
HN_INLINE void scalar_dots(int64_t N, int64_t P, const T* a, const T* B, int64_t ldb, T* c, const T* bias, bool add) {
  constexpr int U = 8;
  int64_t n = 0;
  for (; n + U <= N; n += U) some_dots<T, U>(P, a, B + n * ldb, ldb, c + n, bias ? bias + n : nullptr, add);
  for (; n < N; ++n) some_dots<T, 1>(P, a, B + n * ldb, ldb, c + n, bias ? bias + n : nullptr, add);
}

// c[m, 0..L) (+)= the products of L rows of B with M rows of `a`: blocks of L columns are transposed in registers.
template <typename T, int M>
HN_INLINE void transposed_dots(int64_t P, const T* a, int64_t lda, const T* B, int64_t ldb, T* c, int64_t ldc, const T* bias,
                               bool add) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>;
  static_assert(kSumDepth % L == 0);
  alignas(HN_BYTES) V total[M], sum[M];
  for (int m = 0; m < M; ++m) sum[m] = bias ? *reinterpret_cast<const V*>(bias) : V{};
  for (int64_t p = 0; p < P; p += L) {
    const int64_t skipped = std::max<int64_t>(p + L - P, 0);  // the last block ends with the row
    const T* from = B + p - skipped;
    alignas(HN_BYTES) V block[L];
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) block[i] = *reinterpret_cast<const V*>(from + i * ldb);
    transpose<T>(block);
    if (skipped == 0) {
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) {
        for (int m = 0; m < M; ++m) sum[m] += block[i] * a[m * lda + p + i];
      }
    } else {
      for (int64_t i = skipped; i < L; ++i) {
        for (int m = 0; m < M; ++m) sum[m] += block[i] * a[m * lda + p - skipped + i];
      }
    }
    if ((p + L) % kSumDepth && p + L < P) continue;
    for (int m = 0; m < M; ++m) {
      total[m] = p < kSumDepth ? sum[m] : sum[m] + total[m];
      sum[m] = V{};
    }
  }
  for (int m = 0; m < M; ++m) {
    V* const to = reinterpret_cast<V*>(c + m * ldc);
    *to = add ? *to + total[m] : total[m];
  }
}

template <typename T, int M>
HN_INLINE void dots_of_rows(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c, int64_t row,
                            const T* bias, bool add) {
  constexpr int L = kLanes<T>;
  const int64_t P = a.cols;
  int64_t n = 0;
  for (; P >= L && n + L <= b.rows; n += L) {
    transposed_dots<T, M>(P, a.row(row), a.stride, b.row(n), b.stride, c.row(row) + n, c.stride, bias ? bias + n : nullptr, add);
  }
  for (int64_t m = row; m < row + M; ++m) {
    scalar_dots(b.rows - n, P, a.row(m), b.row(n), b.stride, c.row(m) + n, bias ? bias + n : nullptr, add);
  }
}

// For matrices that are not worth laying out for `gemm`, whose order of terms it keeps.
template <typename T>
HN_TARGET void dot_rows(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c, const T* bias,
                        bool add) {
  int64_t m = 0;
  for (; m + 3 <= a.rows; m += 3) dots_of_rows<T, 3>(a, b, c, m, bias, add);
  for (; m + 2 <= a.rows; m += 2) dots_of_rows<T, 2>(a, b, c, m, bias, add);
  for (; m < a.rows; ++m) dots_of_rows<T, 1>(a, b, c, m, bias, add);
}

template <typename T>
HN_TARGET void add_dots(const MatrixView<const T>& A, const MatrixView<const T>& B, const MatrixView<T>& C) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>, W = 4;  // rows of B at a time
  for (int64_t m = 0; m < A.rows; ++m) {
    for (int64_t n = 0; n < B.rows; n += W) {
      const int64_t width = std::min<int64_t>(W, B.rows - n);
      alignas(HN_BYTES) V sum[W] = {};
      const T *a = A.row(m), *b[W];
      for (int64_t w = 0; w < W; ++w) b[w] = B.row(n + std::min(w, width - 1));
      for (int64_t p = 0; p < A.cols; p += L) {
        const V value = *reinterpret_cast<const V*>(a + p);
#pragma GCC unroll 4
        for (int w = 0; w < W; ++w) sum[w] += value * *reinterpret_cast<const V*>(b[w] + p);
      }
      for (int64_t w = 0; w < width; ++w) {
        T total = 0;
        for (int i = 0; i < L; ++i) total += sum[w][i];
        C.row(m)[n + w] += total;
      }
    }
  }
}

// Of whole rows, one after the other, as they lie in memory.
template <typename T, int P>
HN_INLINE void outer_of(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>;
  const int64_t N = b.cols;
  for (int64_t m = 0; m < a.rows; ++m) {
    T factors[P];
    for (int p = 0; p < P; ++p) factors[p] = a.row(m)[p * a.step];
    T* const to = c.row(m);
    int64_t n = 0;
    for (; n + L <= N; n += L) {
      V sum{};
      for (int p = 0; p < P; ++p) sum += *reinterpret_cast<const V*>(b.row(p) + n) * factors[p];
      *reinterpret_cast<V*>(to + n) = sum;
    }
    for (; n < N; ++n) {
      T sum = 0;
      for (int p = 0; p < P; ++p) sum = add_product(sum, b.row(p)[n], factors[p]);
      to[n] = sum;
    }
  }
}

template <typename T>
HN_TARGET void outer(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c) {
  if (a.cols == 1) return outer_of<T, 1>(a, b, c);
  if (a.cols == 2) return outer_of<T, 2>(a, b, c);
  outer_of<T, 3>(a, b, c);
}

// Σ_p (B[p] − before[p]) a[p] + before[p] change[p], for one row of B, in as many sums as a vector has lanes. What is beyond
// whole vectors is read with those before, whose factors in `rest` are 0.
template <typename T>
HN_INLINE Vector<T> changed_sums(int64_t P, const T* a, const T* change, const T* B, const T* before, const Vector<T>* rest) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>;
  alignas(HN_BYTES) V sums[2] = {};  // of both products: twice as many do not wait for each other
  int64_t p = 0;
  for (; p + L <= P; p += L) {
    const V was = *reinterpret_cast<const V*>(before + p);
    sums[0] += (*reinterpret_cast<const V*>(B + p) - was) * *reinterpret_cast<const V*>(a + p);
    sums[1] += was * *reinterpret_cast<const V*>(change + p);
  }
  if (p < P) {
    const V was = *reinterpret_cast<const V*>(before + P - L);
    sums[0] += (*reinterpret_cast<const V*>(B + P - L) - was) * rest[0];
    sums[1] += was * rest[1];
  }
  return sums[0] + sums[1];
}

template <typename T>
HN_TARGET void changed_dots(int64_t N, int64_t P, const T* a, const T* change, const T* B, const T* before, int64_t ldb, T* c,
                            const T* bias, const T* bias_before, bool add) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>;
  alignas(HN_BYTES) V rest[2] = {};
  for (int64_t p = P / L * L; P >= L && p < P; ++p) {
    rest[0][p - (P - L)] = a[p];
    rest[1][p - (P - L)] = change[p];
  }
  for (int64_t n = 0; n < N; n += L) {
    const int64_t count = std::min<int64_t>(L, N - n);
    alignas(HN_BYTES) V sums[L];
    for (int64_t i = 0; i < L; ++i) {
      const T *b = B + (n + std::min(i, count - 1)) * ldb, *old = before + (n + std::min(i, count - 1)) * ldb;
      if (P >= L) {
        sums[i] = changed_sums(P, a, change, b, old, rest);
        continue;
      }
      sums[i] = V{};
      for (int64_t p = 0; p < P; ++p) sums[i][0] += (b[p] - old[p]) * a[p] + old[p] * change[p];
    }
    transpose<T>(sums);
#pragma GCC unroll 4
    for (int step = L / 2; step > 0; step /= 2) {
#pragma GCC unroll 8
      for (int i = 0; i < step; ++i) sums[i] += sums[i + step];
    }
    for (int64_t i = 0; i < count; ++i) {
      const T of_bias = bias ? bias[n + i] - bias_before[n + i] : T(0);
      c[n + i] = (add ? c[n + i] : T(0)) + (sums[0][i] + of_bias);
    }
  }
}
