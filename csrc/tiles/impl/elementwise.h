// One element after the other.

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

template <typename T>
HN_TARGET void multiply(T* to, const T* by, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] *= by[i];
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
