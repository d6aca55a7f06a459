// Sines and cosines of the same arguments: polynomials on [−π/4, π/4] (those of Moshier's Cephes library) of what multiples of
// π/2 leave, which are subtracted in four parts, the first products exact (Cody and Waite, "Software manual for the
// elementary functions", 1980).

template <typename T>
struct SineTable;

template <>
struct SineTable<float> {
  using Bits = int32_t;
  static constexpr float most = 8192;           // arguments of which these are exact
  static constexpr float to_whole = 0x1.8p23f;  // a sum with it ends with the nearest whole number
  static constexpr float parts[] = {0x1.92p0f, 0x1.fb4p-12f, 0x1.444p-24f, 0x1.68c234p-39f};
  static constexpr float sines[] = {-1.9515295891e-4f, 8.3321608736e-3f, -1.6666654611e-1f};
  static constexpr float cosines[] = {2.443315711809948e-5f, -1.388731625493765e-3f, 4.166664568298827e-2f};
};

template <>
struct SineTable<double> {
  using Bits = int64_t;
  static constexpr double most = 1 << 24;
  static constexpr double to_whole = 0x1.8p52;
  static constexpr double parts[] = {0x1.921fb4p0, 0x1.4442dp-24, 0x1.8469898p-48, 0x1.98a2e03707345p-77};
  static constexpr double sines[] = {1.58962301576546568060e-10, -2.50507477628578072866e-8, 2.75573136213857245213e-6,
                                     -1.98412698295895385996e-4, 8.33333333332211858878e-3,  -1.66666666666666307295e-1};
  static constexpr double cosines[] = {-1.13585365213876817300e-11, 2.08757008419747316778e-9,  -2.75573141792967388112e-7,
                                       2.48015872888517045348e-5,   -1.38888888888730564116e-3, 4.16666666666665929218e-2};
};

// Coefficients from that of the highest power down.
template <typename V, typename T, size_t N>
HN_INLINE V polynomial(V x, const T (&coefficients)[N]) {
  V sum = V{} + coefficients[0];
  for (size_t i = 1; i < N; ++i) sum = sum * x + coefficients[i];
  return sum;
}

template <typename T>
HN_INLINE void sine_and_cosine(Vector<T> x, Vector<T>& sine, Vector<T>& cosine) {
  using V = Vector<T>;
  using Table = SineTable<T>;
  using Bits = typename Table::Bits;
  using W = Vector<Bits>;
  const V sum = x * T(0.63661977236758134308) + Table::to_whole, turns = sum - Table::to_whole;
  V r = x;
  for (const T part : Table::parts) r = r - turns * part;
  const V square = r * r;
  const V s = r + r * square * polynomial(square, Table::sines);
  const V c = (T(1) - T(0.5) * square) + square * square * polynomial(square, Table::cosines);
  const W quarter = (W)sum, odd = -(quarter & 1);
  constexpr int kToSign = 8 * sizeof(T) - 2;  // from the bit that counts halves
  sine = (V)((W)choose(odd, c, s) ^ ((quarter & 2) << kToSign));
  cosine = (V)((W)choose(odd, s, c) ^ (((quarter + 1) & 2) << kToSign));
}

template <typename T>
HN_TARGET void sine(T* to, T* slopes, const T* from, T shift, T omega, int64_t count) {
  using V = Vector<T>;
  constexpr T most = SineTable<T>::most;
  Vector<typename SineTable<T>::Bits> is_far{};
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const V x = (*reinterpret_cast<const V*>(from + i) + shift) * omega;
    V sines, cosines;
    sine_and_cosine<T>(x, sines, cosines);
    is_far |= ~((x >= -most) & (x <= most));
    *reinterpret_cast<V*>(to + i) = sines;
    if (slopes) *reinterpret_cast<V*>(slopes + i) = cosines * omega;
  }
  bool any = false;
  for (int lane = 0; lane < kLanes<T>; ++lane) any |= is_far[lane] != 0;
  for (int64_t i = 0; any && i < count; ++i) {
    const T x = (from[i] + shift) * omega;
    if (x >= -most && x <= most) continue;
    to[i] = std::sin(x);
    if (slopes) slopes[i] = omega * std::cos(x);
  }
}
