// Vectors of 16 bytes for simd/vec.h, so that the CPU's exp, tanh, activations and so on run on a
// GPU from the same source and give the same bits: nothing is contracted (--fmad=false), and every
// operation is IEEE's. A thread owns a Vec; one load or store moves it. Meanings are in vec.h.
#pragma once
// clang-format off: a table, one line each
#undef FNN_INLINE
#ifdef __CUDACC__
#define FNN_INLINE static __device__ __forceinline__
#else
#define FNN_INLINE static inline  // sanitised code would take minutes to compile
#endif

template <class T> struct IntOf;
template <> struct IntOf<float> { typedef int32_t type; };
template <> struct IntOf<double> { typedef i64 type; };

template <class T> struct alignas(16) Vec {
  static constexpr int lanes = 16 / sizeof(T);
  T v[lanes];
};
template <class T> struct IntVec {
  typename IntOf<T>::type v[16 / sizeof(T)];
};
template <class T> struct Mask {
  bool v[16 / sizeof(T)];
};

// Returns a Result of an expression in i, the lane.
#define FNN_LANES(Result, ...)                                       \
  Result lanes_;                                                     \
  _Pragma("unroll") for (int i = 0; i < int(16 / sizeof(T)); i++)    \
      lanes_.v[i] = (__VA_ARGS__);                                   \
  return lanes_

// ---- whole vectors -------------------------------------------------------------------------

template <class T> FNN_INLINE Vec<T> broadcast(T x) { FNN_LANES(Vec<T>, x); }
template <class T> FNN_INLINE IntVec<T> set1_int(i64 x) {
  FNN_LANES(IntVec<T>, typename IntOf<T>::type(x));
}
template <class T> FNN_INLINE Mask<T> first_n(i64 n) { FNN_LANES(Mask<T>, i < n); }
template <class T> FNN_INLINE Vec<T> load_masked(const T* p, Mask<T> m) {
  FNN_LANES(Vec<T>, m.v[i] ? p[i] : T(0));
}
template <class T> FNN_INLINE void store_masked(T* p, Vec<T> a, Mask<T> m) {
#pragma unroll
  for (int i = 0; i < Vec<T>::lanes; i++) {
    if (m.v[i]) p[i] = a.v[i];
  }
}
// p is a multiple of 16.
template <class T> FNN_INLINE Vec<T> load_aligned(const T* p) {
  const float4 bits = *reinterpret_cast<const float4*>(p);
  Vec<T> a;
  memcpy(&a, &bits, 16);
  return a;
}
template <class T> FNN_INLINE void store_aligned(T* p, Vec<T> a) {
  float4 bits;
  memcpy(&bits, &a, 16);
  *reinterpret_cast<float4*>(p) = bits;
}

// ---- arithmetic ----------------------------------------------------------------------------

template <class T> FNN_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { FNN_LANES(Vec<T>, a.v[i] + b.v[i]); }
template <class T> FNN_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { FNN_LANES(Vec<T>, a.v[i] - b.v[i]); }
template <class T> FNN_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { FNN_LANES(Vec<T>, a.v[i] * b.v[i]); }
template <class T> FNN_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { FNN_LANES(Vec<T>, a.v[i] / b.v[i]); }
template <class T> FNN_INLINE Vec<T> operator-(Vec<T> a) { FNN_LANES(Vec<T>, -a.v[i]); }

FNN_INLINE float fma_lane(float a, float b, float c) { return fmaf(a, b, c); }
FNN_INLINE double fma_lane(double a, double b, double c) { return ::fma(a, b, c); }
FNN_INLINE float sqrt_lane(float a) { return sqrtf(a); }
FNN_INLINE double sqrt_lane(double a) { return ::sqrt(a); }
FNN_INLINE float round_lane(float a) { return rintf(a); }
FNN_INLINE double round_lane(double a) { return rint(a); }

template <class T> FNN_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  FNN_LANES(Vec<T>, fma_lane(a.v[i], b.v[i], c.v[i]));
}
template <class T> FNN_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return fma(-a, b, c); }
template <class T> FNN_INLINE Vec<T> sqrt(Vec<T> a) { FNN_LANES(Vec<T>, sqrt_lane(a.v[i])); }
template <class T> FNN_INLINE Vec<T> round(Vec<T> a) { FNN_LANES(Vec<T>, round_lane(a.v[i])); }

// ---- masks ---------------------------------------------------------------------------------

template <class T> FNN_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) { FNN_LANES(Mask<T>, a.v[i] < b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) { FNN_LANES(Mask<T>, a.v[i] > b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator<=(Vec<T> a, Vec<T> b) { FNN_LANES(Mask<T>, a.v[i] <= b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) { FNN_LANES(Mask<T>, a.v[i] >= b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator==(Vec<T> a, Vec<T> b) { FNN_LANES(Mask<T>, a.v[i] == b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator!=(Vec<T> a, Vec<T> b) { FNN_LANES(Mask<T>, a.v[i] != b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { FNN_LANES(Mask<T>, a.v[i] && b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) { FNN_LANES(Mask<T>, a.v[i] || b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator!(Mask<T> a) { FNN_LANES(Mask<T>, !a.v[i]); }
template <class T> FNN_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) {
  FNN_LANES(Vec<T>, m.v[i] ? a.v[i] : b.v[i]);
}
template <class T> FNN_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return select(a < b, a, b); }
template <class T> FNN_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return select(a > b, a, b); }

// ---- integers ------------------------------------------------------------------------------

FNN_INLINE int32_t bits_lane(float a) { return __float_as_int(a); }
FNN_INLINE i64 bits_lane(double a) { return __double_as_longlong(a); }
FNN_INLINE float float_lane(int32_t a) { return __int_as_float(a); }
FNN_INLINE double float_lane(i64 a) { return __longlong_as_double(a); }
FNN_INLINE u32 unsigned_lane(int32_t a) { return u32(a); }
FNN_INLINE u64 unsigned_lane(i64 a) { return u64(a); }

template <class T> FNN_INLINE IntVec<T> bits(Vec<T> a) { FNN_LANES(IntVec<T>, bits_lane(a.v[i])); }
template <class T> FNN_INLINE Vec<T> from_bits(IntVec<T> a) { FNN_LANES(Vec<T>, float_lane(a.v[i])); }
template <class T> FNN_INLINE IntVec<T> operator+(IntVec<T> a, IntVec<T> b) {
  FNN_LANES(IntVec<T>, unsigned_lane(a.v[i]) + unsigned_lane(b.v[i]));
}
template <class T> FNN_INLINE IntVec<T> operator-(IntVec<T> a, IntVec<T> b) {
  FNN_LANES(IntVec<T>, unsigned_lane(a.v[i]) - unsigned_lane(b.v[i]));
}
template <class T> FNN_INLINE IntVec<T> operator&(IntVec<T> a, IntVec<T> b) { FNN_LANES(IntVec<T>, a.v[i] & b.v[i]); }
template <class T> FNN_INLINE IntVec<T> operator|(IntVec<T> a, IntVec<T> b) { FNN_LANES(IntVec<T>, a.v[i] | b.v[i]); }
template <class T> FNN_INLINE IntVec<T> operator^(IntVec<T> a, IntVec<T> b) { FNN_LANES(IntVec<T>, a.v[i] ^ b.v[i]); }
template <class T> FNN_INLINE Mask<T> operator==(IntVec<T> a, IntVec<T> b) { FNN_LANES(Mask<T>, a.v[i] == b.v[i]); }
template <class T> FNN_INLINE IntVec<T> shift_left(IntVec<T> a, int n) {
  FNN_LANES(IntVec<T>, unsigned_lane(a.v[i]) << n);
}
template <class T> FNN_INLINE IntVec<T> shift_right(IntVec<T> a, int n) {
  FNN_LANES(IntVec<T>, unsigned_lane(a.v[i]) >> n);
}
template <class T> FNN_INLINE IntVec<T> shift_right_arith(IntVec<T> a, int n) {
  FNN_LANES(IntVec<T>, a.v[i] >> n);
}
template <class T> FNN_INLINE Vec<T> abs(Vec<T> a) {
  return from_bits(bits(a) & (bits(broadcast(T(-0.0))) ^ set1_int<T>(-1)));
}
template <class T> FNN_INLINE IntVec<T> to_int(Vec<T> a) {
  FNN_LANES(IntVec<T>, typename IntOf<T>::type(round_lane(a.v[i])));
}
template <class T> FNN_INLINE Vec<T> to_float(IntVec<T> a) { FNN_LANES(Vec<T>, T(a.v[i])); }

// As in vec_scalar.h: the first multiplication is exact, the second rounds.
template <class T> FNN_INLINE Vec<T> power_of_two(Vec<T> k) {
  constexpr int mantissa = sizeof(T) == 4 ? 23 : 52;
  constexpr T magic = sizeof(T) == 4 ? T(0x1.8p23 + 127) : T(0x1.8p52 + 1023);
  return from_bits(shift_left(bits(k + broadcast(magic)), mantissa));
}
template <class T> FNN_INLINE Vec<T> scale(Vec<T> a, Vec<T> k) {
  const Vec<T> half = round(k * broadcast(T(0.5)));
  return a * power_of_two(half) * power_of_two(k - half);
}

template <class T> FNN_INLINE Vec<T> lookup(const T* table, IntVec<T> index) {
  FNN_LANES(Vec<T>, table[index.v[i] & 15]);
}

// ---- across lanes, in order ----------------------------------------------------------------

template <class T> FNN_INLINE T max_lane(Vec<T> a) {
  T most = a.v[0];
#pragma unroll
  for (int i = 1; i < Vec<T>::lanes; i++) most = most > a.v[i] ? most : a.v[i];
  return most;
}
FNN_INLINE float sum(Vec<float> a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
FNN_INLINE double sum(Vec<double> a) { return a.v[0] + a.v[1]; }
FNN_INLINE double sum_in_double(Vec<float> a) {
  return (double(a.v[0]) + double(a.v[1])) + (double(a.v[2]) + double(a.v[3]));
}
FNN_INLINE double sum_in_double(Vec<double> a) { return a.v[0] + a.v[1]; }

#undef FNN_LANES
