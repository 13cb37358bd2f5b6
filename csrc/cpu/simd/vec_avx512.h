// AVX-512 (F, VL, BW, DQ): a Vec is one zmm register, a Mask one k register. The meaning of every
// function is in vec.h.
#pragma once
// clang-format off: a table, one line each
// GCC 12 takes the deliberately undefined pass-through operands of its own intrinsics for a mistake.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

template <> struct Vec<float> { static constexpr int lanes = 16; __m512 v; };
template <> struct Vec<double> { static constexpr int lanes = 8; __m512d v; };
template <> struct Mask<float> { __mmask16 m; };
template <> struct Mask<double> { __mmask8 m; };
template <class T> struct IntVec { __m512i v; };

template <class T> constexpr int kTileRows = 6;
template <class T> constexpr int kTileVecs = 4;

// ---- float ---------------------------------------------------------------------------------

FNN_INLINE Vec<float> broadcast(float x) { return {_mm512_set1_ps(x)}; }
FNN_INLINE Vec<float> load(const float* p) { return {_mm512_loadu_ps(p)}; }
FNN_INLINE void store(float* p, Vec<float> v) { _mm512_storeu_ps(p, v.v); }

FNN_INLINE Vec<float> operator+(Vec<float> a, Vec<float> b) { return {_mm512_add_ps(a.v, b.v)}; }
FNN_INLINE Vec<float> operator-(Vec<float> a, Vec<float> b) { return {_mm512_sub_ps(a.v, b.v)}; }
FNN_INLINE Vec<float> operator*(Vec<float> a, Vec<float> b) { return {_mm512_mul_ps(a.v, b.v)}; }
FNN_INLINE Vec<float> operator/(Vec<float> a, Vec<float> b) { return {_mm512_div_ps(a.v, b.v)}; }
FNN_INLINE Vec<float> operator-(Vec<float> a) {
  return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))};
}
FNN_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
FNN_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm512_fnmadd_ps(a.v, b.v, c.v)};
}
FNN_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {_mm512_min_ps(a.v, b.v)}; }
FNN_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {_mm512_max_ps(a.v, b.v)}; }
FNN_INLINE Vec<float> abs(Vec<float> a) { return {_mm512_abs_ps(a.v)}; }
FNN_INLINE Vec<float> sqrt(Vec<float> a) { return {_mm512_sqrt_ps(a.v)}; }
FNN_INLINE Vec<float> round(Vec<float> a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
FNN_INLINE Vec<float> scale(Vec<float> a, Vec<float> k) { return {_mm512_scalef_ps(a.v, k.v)}; }

#define FNN_COMPARE(op, predicate)                                     \
  FNN_INLINE Mask<float> operator op(Vec<float> a, Vec<float> b) {     \
    return {_mm512_cmp_ps_mask(a.v, b.v, predicate)};                  \
  }                                                                    \
  FNN_INLINE Mask<double> operator op(Vec<double> a, Vec<double> b) {  \
    return {_mm512_cmp_pd_mask(a.v, b.v, predicate)};                  \
  }
FNN_COMPARE(<, _CMP_LT_OQ)
FNN_COMPARE(<=, _CMP_LE_OQ)
FNN_COMPARE(>, _CMP_GT_OQ)
FNN_COMPARE(>=, _CMP_GE_OQ)
FNN_COMPARE(==, _CMP_EQ_OQ)
FNN_COMPARE(!=, _CMP_NEQ_UQ)
#undef FNN_COMPARE

FNN_INLINE Vec<float> select(Mask<float> m, Vec<float> a, Vec<float> b) {
  return {_mm512_mask_blend_ps(m.m, b.v, a.v)};
}
FNN_INLINE unsigned mask_bits(Mask<float> m) { return m.m; }

FNN_INLINE Vec<float> load_masked(const float* p, Mask<float> m) {
  return {_mm512_maskz_loadu_ps(m.m, p)};
}
FNN_INLINE void store_masked(float* p, Vec<float> v, Mask<float> m) {
  _mm512_mask_storeu_ps(p, m.m, v.v);
}

FNN_INLINE IntVec<float> bits(Vec<float> a) { return {_mm512_castps_si512(a.v)}; }
FNN_INLINE Vec<float> from_bits(IntVec<float> a) { return {_mm512_castsi512_ps(a.v)}; }
FNN_INLINE IntVec<float> to_int(Vec<float> a) { return {_mm512_cvtps_epi32(a.v)}; }
FNN_INLINE Vec<float> to_float(IntVec<float> a) { return {_mm512_cvtepi32_ps(a.v)}; }
FNN_INLINE IntVec<float> operator+(IntVec<float> a, IntVec<float> b) {
  return {_mm512_add_epi32(a.v, b.v)};
}
FNN_INLINE IntVec<float> operator-(IntVec<float> a, IntVec<float> b) {
  return {_mm512_sub_epi32(a.v, b.v)};
}
FNN_INLINE Mask<float> operator==(IntVec<float> a, IntVec<float> b) {
  return {_mm512_cmpeq_epi32_mask(a.v, b.v)};
}
FNN_INLINE IntVec<float> shift_left(IntVec<float> a, int n) { return {(__m512i)((__v16si)a.v << n)}; }
FNN_INLINE IntVec<float> shift_right(IntVec<float> a, int n) {
  return {(__m512i)((__v16su)a.v >> n)};
}
FNN_INLINE IntVec<float> shift_right_arith(IntVec<float> a, int n) {
  return {(__m512i)((__v16si)a.v >> n)};
}

// ---- double --------------------------------------------------------------------------------

FNN_INLINE Vec<double> broadcast(double x) { return {_mm512_set1_pd(x)}; }
FNN_INLINE Vec<double> load(const double* p) { return {_mm512_loadu_pd(p)}; }
FNN_INLINE void store(double* p, Vec<double> v) { _mm512_storeu_pd(p, v.v); }

FNN_INLINE Vec<double> operator+(Vec<double> a, Vec<double> b) { return {_mm512_add_pd(a.v, b.v)}; }
FNN_INLINE Vec<double> operator-(Vec<double> a, Vec<double> b) { return {_mm512_sub_pd(a.v, b.v)}; }
FNN_INLINE Vec<double> operator*(Vec<double> a, Vec<double> b) { return {_mm512_mul_pd(a.v, b.v)}; }
FNN_INLINE Vec<double> operator/(Vec<double> a, Vec<double> b) { return {_mm512_div_pd(a.v, b.v)}; }
FNN_INLINE Vec<double> operator-(Vec<double> a) {
  return {_mm512_xor_pd(a.v, _mm512_set1_pd(-0.0))};
}
FNN_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {_mm512_fmadd_pd(a.v, b.v, c.v)};
}
FNN_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {_mm512_fnmadd_pd(a.v, b.v, c.v)};
}
FNN_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm512_min_pd(a.v, b.v)}; }
FNN_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm512_max_pd(a.v, b.v)}; }
FNN_INLINE Vec<double> abs(Vec<double> a) { return {_mm512_abs_pd(a.v)}; }
FNN_INLINE Vec<double> sqrt(Vec<double> a) { return {_mm512_sqrt_pd(a.v)}; }
FNN_INLINE Vec<double> round(Vec<double> a) {
  return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
FNN_INLINE Vec<double> scale(Vec<double> a, Vec<double> k) { return {_mm512_scalef_pd(a.v, k.v)}; }

FNN_INLINE Vec<double> select(Mask<double> m, Vec<double> a, Vec<double> b) {
  return {_mm512_mask_blend_pd(m.m, b.v, a.v)};
}
FNN_INLINE unsigned mask_bits(Mask<double> m) { return m.m; }

FNN_INLINE Vec<double> load_masked(const double* p, Mask<double> m) {
  return {_mm512_maskz_loadu_pd(m.m, p)};
}
FNN_INLINE void store_masked(double* p, Vec<double> v, Mask<double> m) {
  _mm512_mask_storeu_pd(p, m.m, v.v);
}

FNN_INLINE IntVec<double> bits(Vec<double> a) { return {_mm512_castpd_si512(a.v)}; }
FNN_INLINE Vec<double> from_bits(IntVec<double> a) { return {_mm512_castsi512_pd(a.v)}; }
FNN_INLINE IntVec<double> to_int(Vec<double> a) { return {_mm512_cvtpd_epi64(a.v)}; }
FNN_INLINE Vec<double> to_float(IntVec<double> a) { return {_mm512_cvtepi64_pd(a.v)}; }
FNN_INLINE IntVec<double> operator+(IntVec<double> a, IntVec<double> b) {
  return {_mm512_add_epi64(a.v, b.v)};
}
FNN_INLINE IntVec<double> operator-(IntVec<double> a, IntVec<double> b) {
  return {_mm512_sub_epi64(a.v, b.v)};
}
FNN_INLINE Mask<double> operator==(IntVec<double> a, IntVec<double> b) {
  return {_mm512_cmpeq_epi64_mask(a.v, b.v)};
}
FNN_INLINE IntVec<double> shift_left(IntVec<double> a, int n) { return {(__m512i)((__v8di)a.v << n)}; }
FNN_INLINE IntVec<double> shift_right(IntVec<double> a, int n) {
  return {(__m512i)((__v8du)a.v >> n)};
}
FNN_INLINE IntVec<double> shift_right_arith(IntVec<double> a, int n) {
  return {(__m512i)((__v8di)a.v >> n)};
}

// ---- both ----------------------------------------------------------------------------------

template <class T> FNN_INLINE Vec<T> lane_index() {
  if constexpr (sizeof(T) == 4) {
    return {_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
  } else {
    return {_mm512_setr_pd(0, 1, 2, 3, 4, 5, 6, 7)};
  }
}

template <class T> FNN_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) {
  return {decltype(a.m)(a.m & b.m)};
}
template <class T> FNN_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) {
  return {decltype(a.m)(a.m | b.m)};
}
template <class T> FNN_INLINE Mask<T> operator!(Mask<T> a) { return {decltype(a.m)(~a.m)}; }
template <class T> FNN_INLINE Mask<T> first_n(i64 n) {
  return {decltype(Mask<T>::m)((1u << n) - 1)};
}
template <class T> FNN_INLINE bool any(Mask<T> m) { return m.m != 0; }
template <class T> FNN_INLINE bool all(Mask<T> m) { return decltype(m.m)(~m.m) == 0; }

template <class T> FNN_INLINE IntVec<T> operator&(IntVec<T> a, IntVec<T> b) {
  return {_mm512_and_si512(a.v, b.v)};
}
template <class T> FNN_INLINE IntVec<T> operator|(IntVec<T> a, IntVec<T> b) {
  return {_mm512_or_si512(a.v, b.v)};
}
template <class T> FNN_INLINE IntVec<T> operator^(IntVec<T> a, IntVec<T> b) {
  return {_mm512_xor_si512(a.v, b.v)};
}
template <class T> FNN_INLINE IntVec<T> set1_int(i64 x) {
  if constexpr (sizeof(T) == 4) {
    return {_mm512_set1_epi32(int(x))};
  } else {
    return {_mm512_set1_epi64(x)};
  }
}

FNN_INLINE Vec<float> lookup(const float* table, IntVec<float> i) {
  return {_mm512_permutexvar_ps(i.v, _mm512_loadu_ps(table))};
}
FNN_INLINE Vec<double> lookup(const double* table, IntVec<double> i) {
  return {_mm512_permutex2var_pd(_mm512_loadu_pd(table), i.v, _mm512_loadu_pd(table + 8))};
}

// Quarters of the register from p, p + rs, ...
FNN_INLINE __m512 load_quarters(const float* p, i64 rs) {
  __m256 lo = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + rs), 1);
  p += 2 * rs;
  __m256 hi = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + rs), 1);
  return _mm512_insertf32x8(_mm512_castps256_ps512(lo), hi, 1);
}
FNN_INLINE __m512d load_quarters(const double* p, i64 rs) {
  return _mm512_castps_pd(load_quarters(reinterpret_cast<const float*>(p), 2 * rs));
}
FNN_INLINE void load_columns(const float* p, i64 rs, Vec<float>* to) {
  __m512 r0 = load_quarters(p, 4 * rs), r1 = load_quarters(p + rs, 4 * rs);
  __m512 r2 = load_quarters(p + 2 * rs, 4 * rs), r3 = load_quarters(p + 3 * rs, 4 * rs);
  __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(r0, r1));
  __m512d b = _mm512_castps_pd(_mm512_unpacklo_ps(r2, r3));
  __m512d c = _mm512_castps_pd(_mm512_unpackhi_ps(r0, r1));
  __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(r2, r3));
  to[0] = {_mm512_castpd_ps(_mm512_unpacklo_pd(a, b))};
  to[1] = {_mm512_castpd_ps(_mm512_unpackhi_pd(a, b))};
  to[2] = {_mm512_castpd_ps(_mm512_unpacklo_pd(c, d))};
  to[3] = {_mm512_castpd_ps(_mm512_unpackhi_pd(c, d))};
}
FNN_INLINE void load_columns(const double* p, i64 rs, Vec<double>* to) {
  __m512d even = load_quarters(p, 2 * rs), odd = load_quarters(p + rs, 2 * rs);
  to[0] = {_mm512_unpacklo_pd(even, odd)};
  to[1] = {_mm512_unpackhi_pd(even, odd)};
}

// The fold is spelled out since _mm512_reduce_* leaves the order to the compiler.
#define FNN_FOLD(name, op)                                                                 \
  FNN_INLINE float name(Vec<float> v) {                                                    \
    __m256 a = _mm256_##op##_ps(_mm512_castps512_ps256(v.v), _mm512_extractf32x8_ps(v.v, 1)); \
    __m128 b = _mm_##op##_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));      \
    b = _mm_##op##_ps(b, _mm_movehl_ps(b, b));                                             \
    return _mm_cvtss_f32(_mm_##op##_ss(b, _mm_movehdup_ps(b)));                            \
  }                                                                                        \
  FNN_INLINE double name(Vec<double> v) {                                                  \
    __m256d a = _mm256_##op##_pd(_mm512_castpd512_pd256(v.v), _mm512_extractf64x4_pd(v.v, 1)); \
    __m128d b = _mm_##op##_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));     \
    return _mm_cvtsd_f64(_mm_##op##_sd(b, _mm_unpackhi_pd(b, b)));                         \
  }
FNN_FOLD(sum, add)
FNN_FOLD(max_lane, max)
FNN_FOLD(min_lane, min)
#undef FNN_FOLD

template <class T> FNN_INLINE Vec<T> from_bytes(__m128i bytes) {
  if constexpr (sizeof(T) == 4) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
  } else {
    return {_mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(bytes))};
  }
}
template <class T> FNN_INLINE Vec<T> widen_u8(const u8* p) {
  return from_bytes<T>(sizeof(T) == 4 ? _mm_loadu_si128((const __m128i*)p) : _mm_loadu_si64(p));
}
template <class T> FNN_INLINE Vec<T> widen_u8_n(const u8* p, i64 n) {
  return from_bytes<T>(_mm_maskz_loadu_epi8(__mmask16((1u << n) - 1), p));
}

FNN_INLINE Vec<double> widen_lo(Vec<float> a) {
  return {_mm512_cvtps_pd(_mm512_castps512_ps256(a.v))};
}
FNN_INLINE Vec<double> widen_hi(Vec<float> a) {
  return {_mm512_cvtps_pd(_mm512_extractf32x8_ps(a.v, 1))};
}
FNN_INLINE Vec<float> narrow(Vec<double> lo, Vec<double> hi) {
  return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(lo.v)), _mm512_cvtpd_ps(hi.v), 1)};
}
