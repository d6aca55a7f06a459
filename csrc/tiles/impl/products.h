// Products of matrices: gemm, gemm_scatter, dot_rows, add_dots, changed_dots and add_rows.

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

template <typename T>
HN_TARGET void changed_dots(int64_t N, int64_t P, const T* a, const T* change, const T* B, const T* before, int64_t ldb, T* c) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>;
  for (int64_t n = 0; n < N; ++n) {
    const T *b = B + n * ldb, *old = before + n * ldb;
    alignas(HN_BYTES) V sums[2] = {};  // of both products: twice as many do not wait for each other
    int64_t p = 0;
    for (; p + L <= P; p += L) {
      const V was = *reinterpret_cast<const V*>(old + p);
      sums[0] += (*reinterpret_cast<const V*>(b + p) - was) * *reinterpret_cast<const V*>(a + p);
      sums[1] += was * *reinterpret_cast<const V*>(change + p);
    }
    T sum = 0;
    for (; p < P; ++p) sum += (b[p] - old[p]) * a[p] + old[p] * change[p];
    const V both = sums[0] + sums[1];
    for (int i = 0; i < L; ++i) sum += both[i];
    c[n] = sum;
  }
}

template <typename T>
HN_TARGET void add_rows(int64_t N, int64_t P, const T* a, const T* B, int64_t ldb, T* c) {
  using V = Vector<T>;
  constexpr int L = kLanes<T>, W = 4;
  int64_t p = 0;
  for (; p + W * L <= P; p += W * L) {
    alignas(HN_BYTES) V sums[W] = {};
    for (int64_t n = 0; n < N; ++n) {
#pragma GCC unroll 4
      for (int w = 0; w < W; ++w) sums[w] += *reinterpret_cast<const V*>(B + n * ldb + p + w * L) * a[n];
    }
    for (int w = 0; w < W; ++w) *reinterpret_cast<V*>(c + p + w * L) += sums[w];
  }
  for (; p + L <= P; p += L) {
    V sum{};
    for (int64_t n = 0; n < N; ++n) sum += *reinterpret_cast<const V*>(B + n * ldb + p) * a[n];
    *reinterpret_cast<V*>(c + p) += sum;
  }
  for (; p < P; ++p) {
    T sum = 0;
    for (int64_t n = 0; n < N; ++n) sum += B[n * ldb + p] * a[n];
    c[p] += sum;
  }
}
