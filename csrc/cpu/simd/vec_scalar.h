// Any CPU: a Vec is four 16-byte vectors of the compiler (SSE2 on x86-64, NEON on ARM), a Mask four
// of all-ones or all-zeros lanes. fma is the C library's where the CPU has none: slow, the same
// bits. The meaning of every function is in vec.h.
#pragma once
// clang-format off: a table, one line each
#include <string.h>

// Forced inlining would make five times as much code, for a tenth of the time at most.
#undef FNN_INLINE
#define FNN_INLINE static inline

template <class T> struct Quarter;
template <> struct Quarter<float> {
  typedef float Real __attribute__((vector_size(16)));
  typedef int32_t Int __attribute__((vector_size(16)));
  typedef u32 Unsigned __attribute__((vector_size(16)));
};
template <> struct Quarter<double> {
  typedef double Real __attribute__((vector_size(16)));
  typedef i64 Int __attribute__((vector_size(16)));
  typedef u64 Unsigned __attribute__((vector_size(16)));
};
template <class T> using Real = typename Quarter<T>::Real;
template <class T> using Int = typename Quarter<T>::Int;
template <class T> using Unsigned = typename Quarter<T>::Unsigned;

template <class T> struct Vec {
  static constexpr int lanes = 64 / sizeof(T);
  Real<T> v[4];
};
template <class T> struct IntVec { Int<T> v[4]; };
template <class T> struct Mask { Int<T> v[4]; };

template <class T> constexpr int kTileRows = 2;
template <class T> constexpr int kTileVecs = 2;

// An expression in i, for each of the four quarters.
#define FNN_AT(n, ...) [&](int i) __attribute__((always_inline)) { return __VA_ARGS__; }(n)
#define FNN_ALL(...) \
  {{FNN_AT(0, __VA_ARGS__), FNN_AT(1, __VA_ARGS__), FNN_AT(2, __VA_ARGS__), FNN_AT(3, __VA_ARGS__)}}

// ---- whole vectors -------------------------------------------------------------------------

template <class T> FNN_INLINE Vec<T> broadcast(T x) {
  Real<T> quarter = x - Real<T>{};
  return {{quarter, quarter, quarter, quarter}};
}
template <class T> FNN_INLINE IntVec<T> set1_int(i64 x) {
  Int<T> quarter = decltype(+Int<T>{}[0])(x) + Int<T>{};
  return {{quarter, quarter, quarter, quarter}};
}
template <class T> FNN_INLINE Vec<T> load(const T* p) {
  Vec<T> a;
  memcpy(&a, p, sizeof a);
  return a;
}
template <class T> FNN_INLINE void store(T* p, Vec<T> a) { memcpy(p, &a, sizeof a); }
template <class T> FNN_INLINE Vec<T> lane_index() {
  T index[Vec<T>::lanes];
  for (int i = 0; i < Vec<T>::lanes; i++) index[i] = T(i);
  return load(index);
}

// ---- arithmetic ----------------------------------------------------------------------------

template <class T> FNN_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return FNN_ALL(a.v[i] + b.v[i]); }
template <class T> FNN_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return FNN_ALL(a.v[i] - b.v[i]); }
template <class T> FNN_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return FNN_ALL(a.v[i] * b.v[i]); }
template <class T> FNN_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return FNN_ALL(a.v[i] / b.v[i]); }
template <class T> FNN_INLINE Vec<T> operator-(Vec<T> a) { return FNN_ALL(-a.v[i]); }

FNN_INLINE Real<float> fma_quarter(Real<float> a, Real<float> b, Real<float> c) {
  for (int j = 0; j < 4; j++) c[j] = __builtin_fmaf(a[j], b[j], c[j]);
  return c;
}
FNN_INLINE Real<double> fma_quarter(Real<double> a, Real<double> b, Real<double> c) {
  for (int j = 0; j < 2; j++) c[j] = __builtin_fma(a[j], b[j], c[j]);
  return c;
}
template <class T> FNN_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return FNN_ALL(fma_quarter(a.v[i], b.v[i], c.v[i]));
}
template <class T> FNN_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return fma(-a, b, c); }

FNN_INLINE Real<float> sqrt_quarter(Real<float> a) {
  for (int j = 0; j < 4; j++) a[j] = __builtin_sqrtf(a[j]);
  return a;
}
FNN_INLINE Real<double> sqrt_quarter(Real<double> a) {
  for (int j = 0; j < 2; j++) a[j] = __builtin_sqrt(a[j]);
  return a;
}
template <class T> FNN_INLINE Vec<T> sqrt(Vec<T> a) { return FNN_ALL(sqrt_quarter(a.v[i])); }

// ---- masks ---------------------------------------------------------------------------------

template <class T> FNN_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) { return FNN_ALL(a.v[i] < b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) { return FNN_ALL(a.v[i] > b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator<=(Vec<T> a, Vec<T> b) { return FNN_ALL(a.v[i] <= b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) { return FNN_ALL(a.v[i] >= b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator==(Vec<T> a, Vec<T> b) { return FNN_ALL(a.v[i] == b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator!=(Vec<T> a, Vec<T> b) { return FNN_ALL(a.v[i] != b.v[i]); }

template <class T> FNN_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { return FNN_ALL(a.v[i] & b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) { return FNN_ALL(a.v[i] | b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator!(Mask<T> a) { return FNN_ALL(~a.v[i]); }
template <class T> FNN_INLINE unsigned mask_bits(Mask<T> m) {
  constexpr int per_quarter = Vec<T>::lanes / 4;
  unsigned set = 0;
  for (int i = 0; i < Vec<T>::lanes; i++) {
    set |= unsigned(m.v[i / per_quarter][i % per_quarter] & 1) << i;
  }
  return set;
}
template <class T> FNN_INLINE bool any(Mask<T> m) {
  Int<T> or_all = m.v[0] | m.v[1] | m.v[2] | m.v[3];
  u64 half[2];
  memcpy(half, &or_all, 16);
  return (half[0] | half[1]) != 0;
}
template <class T> FNN_INLINE bool all(Mask<T> m) { return !any(!m); }
template <class T> FNN_INLINE Mask<T> first_n(i64 n) { return lane_index<T>() < broadcast(T(n)); }

template <class T> FNN_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) {
  return FNN_ALL(m.v[i] ? a.v[i] : b.v[i]);
}
template <class T> FNN_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return select(a < b, a, b); }
template <class T> FNN_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return select(a > b, a, b); }

template <class T> FNN_INLINE Vec<T> load_masked(const T* p, Mask<T> m) {
  T copy[Vec<T>::lanes];
  unsigned set = mask_bits(m);
  for (int i = 0; i < Vec<T>::lanes; i++) copy[i] = set >> i & 1 ? p[i] : T(0);
  return load(copy);
}
template <class T> FNN_INLINE void store_masked(T* p, Vec<T> a, Mask<T> m) {
  T copy[Vec<T>::lanes];
  store(copy, a);
  unsigned set = mask_bits(m);
  for (int i = 0; i < Vec<T>::lanes; i++) {
    if (set >> i & 1) p[i] = copy[i];
  }
}

// ---- integers ------------------------------------------------------------------------------

template <class T> FNN_INLINE IntVec<T> bits(Vec<T> a) { return FNN_ALL((Int<T>)a.v[i]); }
template <class T> FNN_INLINE Vec<T> from_bits(IntVec<T> a) { return FNN_ALL((Real<T>)a.v[i]); }
template <class T> FNN_INLINE IntVec<T> operator+(IntVec<T> a, IntVec<T> b) {
  return FNN_ALL((Int<T>)((Unsigned<T>)a.v[i] + (Unsigned<T>)b.v[i]));
}
template <class T> FNN_INLINE IntVec<T> operator-(IntVec<T> a, IntVec<T> b) {
  return FNN_ALL((Int<T>)((Unsigned<T>)a.v[i] - (Unsigned<T>)b.v[i]));
}
template <class T> FNN_INLINE IntVec<T> operator&(IntVec<T> a, IntVec<T> b) { return FNN_ALL(a.v[i] & b.v[i]); }
template <class T> FNN_INLINE IntVec<T> operator|(IntVec<T> a, IntVec<T> b) { return FNN_ALL(a.v[i] | b.v[i]); }
template <class T> FNN_INLINE IntVec<T> operator^(IntVec<T> a, IntVec<T> b) { return FNN_ALL(a.v[i] ^ b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator==(IntVec<T> a, IntVec<T> b) { return FNN_ALL(a.v[i] == b.v[i]); }
template <class T> FNN_INLINE IntVec<T> shift_left(IntVec<T> a, int n) {
  return FNN_ALL((Int<T>)((Unsigned<T>)a.v[i] << n));
}
template <class T> FNN_INLINE IntVec<T> shift_right(IntVec<T> a, int n) {
  return FNN_ALL((Int<T>)((Unsigned<T>)a.v[i] >> n));
}
template <class T> FNN_INLINE IntVec<T> shift_right_arith(IntVec<T> a, int n) {
  return FNN_ALL(a.v[i] >> n);
}

template <class T> FNN_INLINE Vec<T> abs(Vec<T> a) {
  return from_bits(bits(a) & (bits(broadcast(T(-0.0))) ^ set1_int<T>(-1)));
}
// Adding and subtracting 2^mantissa rounds to an integer; larger values and NaN are left alone.
template <class T> FNN_INLINE Vec<T> round(Vec<T> a) {
  Vec<T> large = broadcast(sizeof(T) == 4 ? T(0x1p23) : T(0x1p52)), size = abs(a);
  Vec<T> rounded = size + large - large;
  IntVec<T> sign = bits(a) ^ bits(size);
  return select(size < large, from_bits(bits(rounded) | sign), a);
}
template <class T> FNN_INLINE IntVec<T> to_int(Vec<T> a) {
  Vec<T> whole = round(a);
  return FNN_ALL(__builtin_convertvector(whole.v[i], Int<T>));
}
template <class T> FNN_INLINE Vec<T> to_float(IntVec<T> a) {
  return FNN_ALL(__builtin_convertvector(a.v[i], Real<T>));
}

// Two multiplications: the first is exact, the second rounds. x + 1.5 * 2^mantissa + bias has the
// exponent field of 2^x in its lowest bits.
template <class T> FNN_INLINE Vec<T> power_of_two(Vec<T> k) {
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
  constexpr T magic = sizeof(T) == 4 ? T(0x1.8p23 + 127) : T(0x1.8p52 + 1023);
  return from_bits(shift_left(bits(k + broadcast(magic)), mantissa));
}
template <class T> FNN_INLINE Vec<T> scale(Vec<T> a, Vec<T> k) {
  Vec<T> half = round(k * broadcast(T(0.5)));
  return a * power_of_two(half) * power_of_two(k - half);
}

template <class T> FNN_INLINE void load_columns(const T* p, i64 rs, Vec<T>* to) {
  constexpr int side = Vec<T>::lanes / 4;
  for (int i = 0; i < Vec<T>::lanes; i++) {
    for (int t = 0; t < side; t++) to[t].v[i / side][i % side] = p[i * rs + t];
  }
}

template <class T> FNN_INLINE Vec<T> lookup(const T* table, IntVec<T> i) {
  constexpr int per_quarter = Vec<T>::lanes / 4;
  T found[Vec<T>::lanes];
  for (int j = 0; j < Vec<T>::lanes; j++) {
    found[j] = table[i.v[j / per_quarter][j % per_quarter] & 15];
  }
  return load(found);
}

// ---- across lanes --------------------------------------------------------------------------

template <class T, class Op> FNN_INLINE T fold(Vec<T> a, Op op) {
  T x[Vec<T>::lanes];
  store(x, a);
  for (int half = Vec<T>::lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) x[i] = op(x[i], x[i + half]);
  }
  return x[0];
}
template <class T> FNN_INLINE T sum(Vec<T> a) {
  return fold(a, [](T x, T y) { return x + y; });
}
template <class T> FNN_INLINE T max_lane(Vec<T> a) {
  return fold(a, [](T x, T y) { return x > y ? x : y; });
}
template <class T> FNN_INLINE T min_lane(Vec<T> a) {
  return fold(a, [](T x, T y) { return x < y ? x : y; });
}

template <class T> FNN_INLINE Vec<T> widen_u8_n(const u8* p, i64 n) {
  T wide[Vec<T>::lanes] = {};
  for (i64 i = 0; i < n; i++) wide[i] = T(p[i]);
  return load(wide);
}
template <class T> FNN_INLINE Vec<T> widen_u8(const u8* p) { return widen_u8_n<T>(p, Vec<T>::lanes); }

FNN_INLINE Vec<double> widen_lo(Vec<float> a) {
  return FNN_ALL(Real<double>{a.v[i / 2][i % 2 * 2], a.v[i / 2][i % 2 * 2 + 1]});
}
FNN_INLINE Vec<double> widen_hi(Vec<float> a) {
  return FNN_ALL(Real<double>{a.v[2 + i / 2][i % 2 * 2], a.v[2 + i / 2][i % 2 * 2 + 1]});
}
FNN_INLINE Real<float> narrow_quarter(Real<double> lo, Real<double> hi) {
  return Real<float>{float(lo[0]), float(lo[1]), float(hi[0]), float(hi[1])};
}
FNN_INLINE Vec<float> narrow(Vec<double> lo, Vec<double> hi) {
  return {{narrow_quarter(lo.v[0], lo.v[1]), narrow_quarter(lo.v[2], lo.v[3]),
           narrow_quarter(hi.v[0], hi.v[1]), narrow_quarter(hi.v[2], hi.v[3])}};
}

#undef FNN_ALL
#undef FNN_AT
