// Products of matrices whose rows are anywhere, and of matrices for every position: multiply_rows and multiply_positions.

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
constexpr int kBlockRows = HN_BYTES == 64 ? (NV == 1   ? 16
                                             : NV == 2 ? 13
                                             : NV == 3 ? 9
                                                       : 6)
                                          : (NV == 1 ? 12 : 6);

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
HN_TARGET void multiply_rows(int64_t M, int64_t N, int64_t K, const RowsAt<const T>& a, const RowsAt<const T>& b,
                             const RowsAt<T>& c, bool accumulate) {
  const T *const A = a.data, *const B = b.data;
  T* const C = c.data;
  const int64_t *const a_row = a.offset, *const b_row = b.offset, *const c_row = c.offset, ak = a.step;
  constexpr int L = kLanes<T>;
  int64_t n = 0;
#if HN_BYTES == 64
  for (; n + 4 * L <= N; n += 4 * L) all_rows<T, 4>(M, K, A, a_row, ak, B + n, b_row, C + n, c_row, accumulate);
  for (; n + 3 * L <= N; n += 3 * L) all_rows<T, 3>(M, K, A, a_row, ak, B + n, b_row, C + n, c_row, accumulate);
#endif
  for (; n + 2 * L <= N; n += 2 * L) all_rows<T, 2>(M, K, A, a_row, ak, B + n, b_row, C + n, c_row, accumulate);
  for (; n < N; n += L) all_rows<T, 1>(M, K, A, a_row, ak, B + n, b_row, C + n, c_row, accumulate);
}

template <typename T, int NI, int NJ>
HN_TARGET void position_block(int64_t K, int64_t P, const T* A, int64_t ai, int64_t ak, const T* B, int64_t bj, int64_t bk, T* C,
                              int64_t ci, int64_t cj, bool accumulate, bool into_place) {
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
HN_TARGET void multiply_positions(int64_t P, const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c,
                                  bool accumulate, bool into_place) {
  for (int64_t i = 0; i < a.rows;) {
    const bool wide_i = i + 4 <= a.rows;
    for (int64_t j = 0; j < b.rows;) {
      const bool wide_j = j + 2 <= b.rows;
      const auto run = wide_i ? (wide_j ? position_block<T, 4, 2> : position_block<T, 4, 1>)
                              : (wide_j ? position_block<T, 1, 2> : position_block<T, 1, 1>);
      run(a.cols, P, a.row(i), a.stride, a.step, b.row(j), b.stride, b.step, c.row(i) + j * c.step, c.stride, c.step, accumulate,
          into_place);
      j += wide_j ? 2 : 1;
    }
    i += wide_i ? 4 : 1;
  }
}
