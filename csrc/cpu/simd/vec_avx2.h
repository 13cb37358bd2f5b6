// AVX2 and FMA: a Vec is two ymm registers, a Mask two registers of all-ones or all-zeros lanes.
// The meaning of every function is in vec.h.
#pragma once
// clang-format off: a table, one line each
#include <immintrin.h>

template <> struct Vec<float> { static constexpr int lanes = 16; __m256 v[2]; };
template <> struct Vec<double> { static constexpr int lanes = 8; __m256d v[2]; };
template <> struct Mask<float> { __m256 v[2]; };
template <> struct Mask<double> { __m256d v[2]; };
template <class T> struct IntVec { __m256i v[2]; };

template <class T> constexpr int kTileRows = 3;
template <class T> constexpr int kTileVecs = 2;

// A function of registers, on both halves.
#define FNN_BOTH1(f, a) {{f((a).v[0]), f((a).v[1])}}
#define FNN_BOTH2(f, a, b) {{f((a).v[0], (b).v[0]), f((a).v[1], (b).v[1])}}
#define FNN_BOTH3(f, a, b, c) {{f((a).v[0], (b).v[0], (c).v[0]), f((a).v[1], (b).v[1], (c).v[1])}}

FNN_INLINE Vec<float> broadcast(float x) { return {{_mm256_set1_ps(x), _mm256_set1_ps(x)}}; }
FNN_INLINE Vec<double> broadcast(double x) { return {{_mm256_set1_pd(x), _mm256_set1_pd(x)}}; }
template <class T> FNN_INLINE IntVec<T> set1_int(i64 x) {
  __m256i half = sizeof(T) == 4 ? _mm256_set1_epi32(int(x)) : _mm256_set1_epi64x(x);
  return {{half, half}};
}

// ---- float ---------------------------------------------------------------------------------

FNN_INLINE Vec<float> load(const float* p) { return {{_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}}; }
FNN_INLINE void store(float* p, Vec<float> a) {
  _mm256_storeu_ps(p, a.v[0]);
  _mm256_storeu_ps(p + 8, a.v[1]);
}

FNN_INLINE Vec<float> operator+(Vec<float> a, Vec<float> b) { return FNN_BOTH2(_mm256_add_ps, a, b); }
FNN_INLINE Vec<float> operator-(Vec<float> a, Vec<float> b) { return FNN_BOTH2(_mm256_sub_ps, a, b); }
FNN_INLINE Vec<float> operator*(Vec<float> a, Vec<float> b) { return FNN_BOTH2(_mm256_mul_ps, a, b); }
FNN_INLINE Vec<float> operator/(Vec<float> a, Vec<float> b) { return FNN_BOTH2(_mm256_div_ps, a, b); }
FNN_INLINE Vec<float> operator-(Vec<float> a) {
  return FNN_BOTH2(_mm256_xor_ps, a, broadcast(-0.0f));
}
FNN_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return FNN_BOTH3(_mm256_fmadd_ps, a, b, c);
}
FNN_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return FNN_BOTH3(_mm256_fnmadd_ps, a, b, c);
}
FNN_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return FNN_BOTH2(_mm256_min_ps, a, b); }
FNN_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return FNN_BOTH2(_mm256_max_ps, a, b); }
FNN_INLINE Vec<float> abs(Vec<float> a) { return FNN_BOTH2(_mm256_andnot_ps, broadcast(-0.0f), a); }
FNN_INLINE Vec<float> sqrt(Vec<float> a) { return FNN_BOTH1(_mm256_sqrt_ps, a); }
FNN_INLINE Vec<float> round(Vec<float> a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {{_mm256_round_ps(a.v[0], mode), _mm256_round_ps(a.v[1], mode)}};
}
FNN_INLINE Vec<float> select(Mask<float> m, Vec<float> a, Vec<float> b) {
  return FNN_BOTH3(_mm256_blendv_ps, b, a, m);
}

FNN_INLINE IntVec<float> bits(Vec<float> a) { return FNN_BOTH1(_mm256_castps_si256, a); }
FNN_INLINE Vec<float> from_bits(IntVec<float> a) { return FNN_BOTH1(_mm256_castsi256_ps, a); }
FNN_INLINE IntVec<float> to_int(Vec<float> a) { return FNN_BOTH1(_mm256_cvtps_epi32, a); }
FNN_INLINE Vec<float> to_float(IntVec<float> a) { return FNN_BOTH1(_mm256_cvtepi32_ps, a); }
FNN_INLINE IntVec<float> operator+(IntVec<float> a, IntVec<float> b) {
  return FNN_BOTH2(_mm256_add_epi32, a, b);
}
FNN_INLINE IntVec<float> operator-(IntVec<float> a, IntVec<float> b) {
  return FNN_BOTH2(_mm256_sub_epi32, a, b);
}
FNN_INLINE IntVec<float> shift_left(IntVec<float> a, int n) {
  return {{_mm256_slli_epi32(a.v[0], n), _mm256_slli_epi32(a.v[1], n)}};
}
FNN_INLINE IntVec<float> shift_right(IntVec<float> a, int n) {
  return {{_mm256_srli_epi32(a.v[0], n), _mm256_srli_epi32(a.v[1], n)}};
}
FNN_INLINE IntVec<float> shift_right_arith(IntVec<float> a, int n) {
  return {{_mm256_srai_epi32(a.v[0], n), _mm256_srai_epi32(a.v[1], n)}};
}

FNN_INLINE Mask<float> mask_of(IntVec<float> a) { return FNN_BOTH1(_mm256_castsi256_ps, a); }
FNN_INLINE IntVec<float> int_of(Mask<float> a) { return FNN_BOTH1(_mm256_castps_si256, a); }
FNN_INLINE Mask<float> operator==(IntVec<float> a, IntVec<float> b) {
  return mask_of(IntVec<float>FNN_BOTH2(_mm256_cmpeq_epi32, a, b));
}
FNN_INLINE unsigned mask_bits(Mask<float> m) {
  return unsigned(_mm256_movemask_ps(m.v[0]) | _mm256_movemask_ps(m.v[1]) << 8);
}

FNN_INLINE Vec<float> load_masked(const float* p, Mask<float> m) {
  IntVec<float> i = int_of(m);
  return {{_mm256_maskload_ps(p, i.v[0]), _mm256_maskload_ps(p + 8, i.v[1])}};
}
FNN_INLINE void store_masked(float* p, Vec<float> a, Mask<float> m) {
  IntVec<float> i = int_of(m);
  _mm256_maskstore_ps(p, i.v[0], a.v[0]);
  _mm256_maskstore_ps(p + 8, i.v[1], a.v[1]);
}

// ---- double --------------------------------------------------------------------------------

FNN_INLINE Vec<double> load(const double* p) {
  return {{_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}};
}
FNN_INLINE void store(double* p, Vec<double> a) {
  _mm256_storeu_pd(p, a.v[0]);
  _mm256_storeu_pd(p + 4, a.v[1]);
}

FNN_INLINE Vec<double> operator+(Vec<double> a, Vec<double> b) {
  return FNN_BOTH2(_mm256_add_pd, a, b);
}
FNN_INLINE Vec<double> operator-(Vec<double> a, Vec<double> b) {
  return FNN_BOTH2(_mm256_sub_pd, a, b);
}
FNN_INLINE Vec<double> operator*(Vec<double> a, Vec<double> b) {
  return FNN_BOTH2(_mm256_mul_pd, a, b);
}
FNN_INLINE Vec<double> operator/(Vec<double> a, Vec<double> b) {
  return FNN_BOTH2(_mm256_div_pd, a, b);
}
FNN_INLINE Vec<double> operator-(Vec<double> a) {
  return FNN_BOTH2(_mm256_xor_pd, a, broadcast(-0.0));
}
FNN_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return FNN_BOTH3(_mm256_fmadd_pd, a, b, c);
}
FNN_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return FNN_BOTH3(_mm256_fnmadd_pd, a, b, c);
}
FNN_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return FNN_BOTH2(_mm256_min_pd, a, b); }
FNN_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return FNN_BOTH2(_mm256_max_pd, a, b); }
FNN_INLINE Vec<double> abs(Vec<double> a) { return FNN_BOTH2(_mm256_andnot_pd, broadcast(-0.0), a); }
FNN_INLINE Vec<double> sqrt(Vec<double> a) { return FNN_BOTH1(_mm256_sqrt_pd, a); }
FNN_INLINE Vec<double> round(Vec<double> a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {{_mm256_round_pd(a.v[0], mode), _mm256_round_pd(a.v[1], mode)}};
}
FNN_INLINE Vec<double> select(Mask<double> m, Vec<double> a, Vec<double> b) {
  return FNN_BOTH3(_mm256_blendv_pd, b, a, m);
}

FNN_INLINE IntVec<double> bits(Vec<double> a) { return FNN_BOTH1(_mm256_castpd_si256, a); }
FNN_INLINE Vec<double> from_bits(IntVec<double> a) { return FNN_BOTH1(_mm256_castsi256_pd, a); }
FNN_INLINE IntVec<double> operator+(IntVec<double> a, IntVec<double> b) {
  return FNN_BOTH2(_mm256_add_epi64, a, b);
}
FNN_INLINE IntVec<double> operator-(IntVec<double> a, IntVec<double> b) {
  return FNN_BOTH2(_mm256_sub_epi64, a, b);
}
// There is no conversion instruction: the low mantissa bits of x + 1.5 * 2^52 are the integer.
FNN_INLINE IntVec<double> to_int(Vec<double> a) {
  Vec<double> magic = broadcast(0x1.8p52);
  return bits(a + magic) - bits(magic);
}
FNN_INLINE Vec<double> to_float(IntVec<double> a) {
  Vec<double> magic = broadcast(0x1.8p52);
  return from_bits(a + bits(magic)) - magic;
}
FNN_INLINE IntVec<double> shift_left(IntVec<double> a, int n) {
  return {{_mm256_slli_epi64(a.v[0], n), _mm256_slli_epi64(a.v[1], n)}};
}
FNN_INLINE IntVec<double> shift_right(IntVec<double> a, int n) {
  return {{_mm256_srli_epi64(a.v[0], n), _mm256_srli_epi64(a.v[1], n)}};
}
FNN_INLINE IntVec<double> shift_right_arith(IntVec<double> a, int n) {
  IntVec<double> sign = set1_int<double>(i64(u64(1) << 63 >> n));
  IntVec<double> r = shift_right(a, n);
  return IntVec<double>FNN_BOTH2(_mm256_xor_si256, r, sign) - sign;
}

FNN_INLINE Mask<double> mask_of(IntVec<double> a) { return FNN_BOTH1(_mm256_castsi256_pd, a); }
FNN_INLINE IntVec<double> int_of(Mask<double> a) { return FNN_BOTH1(_mm256_castpd_si256, a); }
FNN_INLINE Mask<double> operator==(IntVec<double> a, IntVec<double> b) {
  return mask_of(IntVec<double>FNN_BOTH2(_mm256_cmpeq_epi64, a, b));
}
FNN_INLINE unsigned mask_bits(Mask<double> m) {
  return unsigned(_mm256_movemask_pd(m.v[0]) | _mm256_movemask_pd(m.v[1]) << 4);
}

FNN_INLINE Vec<double> load_masked(const double* p, Mask<double> m) {
  IntVec<double> i = int_of(m);
  return {{_mm256_maskload_pd(p, i.v[0]), _mm256_maskload_pd(p + 4, i.v[1])}};
}
FNN_INLINE void store_masked(double* p, Vec<double> a, Mask<double> m) {
  IntVec<double> i = int_of(m);
  _mm256_maskstore_pd(p, i.v[0], a.v[0]);
  _mm256_maskstore_pd(p + 4, i.v[1], a.v[1]);
}

// ---- both ----------------------------------------------------------------------------------

#define FNN_COMPARE(op, predicate)                                                              \
  FNN_INLINE Mask<float> operator op(Vec<float> a, Vec<float> b) {                              \
    return {{_mm256_cmp_ps(a.v[0], b.v[0], predicate), _mm256_cmp_ps(a.v[1], b.v[1], predicate)}}; \
  }                                                                                             \
  FNN_INLINE Mask<double> operator op(Vec<double> a, Vec<double> b) {                           \
    return {{_mm256_cmp_pd(a.v[0], b.v[0], predicate), _mm256_cmp_pd(a.v[1], b.v[1], predicate)}}; \
  }
FNN_COMPARE(<, _CMP_LT_OQ)
FNN_COMPARE(<=, _CMP_LE_OQ)
FNN_COMPARE(>, _CMP_GT_OQ)
FNN_COMPARE(>=, _CMP_GE_OQ)
FNN_COMPARE(==, _CMP_EQ_OQ)
FNN_COMPARE(!=, _CMP_NEQ_UQ)
#undef FNN_COMPARE

template <class T> FNN_INLINE IntVec<T> operator&(IntVec<T> a, IntVec<T> b) {
  return FNN_BOTH2(_mm256_and_si256, a, b);
}
template <class T> FNN_INLINE IntVec<T> operator|(IntVec<T> a, IntVec<T> b) {
  return FNN_BOTH2(_mm256_or_si256, a, b);
}
template <class T> FNN_INLINE IntVec<T> operator^(IntVec<T> a, IntVec<T> b) {
  return FNN_BOTH2(_mm256_xor_si256, a, b);
}

template <class T> FNN_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) {
  return mask_of(int_of(a) & int_of(b));
}
template <class T> FNN_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) {
  return mask_of(int_of(a) | int_of(b));
}
template <class T> FNN_INLINE Mask<T> operator!(Mask<T> a) {
  return mask_of(int_of(a) ^ set1_int<T>(-1));
}
template <class T> FNN_INLINE bool any(Mask<T> m) { return mask_bits(m) != 0; }
template <class T> FNN_INLINE bool all(Mask<T> m) {
  return mask_bits(m) == (1u << Vec<T>::lanes) - 1;
}

template <class T> FNN_INLINE Vec<T> lane_index() {
  if constexpr (sizeof(T) == 4) {
    return {{_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_ps(8, 9, 10, 11, 12, 13, 14, 15)}};
  } else {
    return {{_mm256_setr_pd(0, 1, 2, 3), _mm256_setr_pd(4, 5, 6, 7)}};
  }
}
template <class T> FNN_INLINE Mask<T> first_n(i64 n) { return lane_index<T>() < broadcast(T(n)); }

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

// Two shuffles of 8 lanes each; bit 3 of the index, moved to the sign, chooses between them.
FNN_INLINE __m256 lookup_half(const float* table, __m256i i) {
  __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table), i);
  __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8), i);
  return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
}
FNN_INLINE Vec<float> lookup(const float* table, IntVec<float> i) {
  return {{lookup_half(table, i.v[0]), lookup_half(table, i.v[1])}};
}
// Eight plain loads: no shuffle moves doubles across the register, and gathers are slower.
FNN_INLINE __m256d lookup_half(const double* table, __m256i i) {
  i = _mm256_and_si256(i, _mm256_set1_epi64x(15));
  return _mm256_setr_pd(table[_mm256_extract_epi64(i, 0)], table[_mm256_extract_epi64(i, 1)],
                        table[_mm256_extract_epi64(i, 2)], table[_mm256_extract_epi64(i, 3)]);
}
FNN_INLINE Vec<double> lookup(const double* table, IntVec<double> i) {
  return {{lookup_half(table, i.v[0]), lookup_half(table, i.v[1])}};
}

FNN_INLINE __m256 load_halves(const float* p, i64 rs) {
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + rs), 1);
}
FNN_INLINE __m256d load_halves(const double* p, i64 rs) {
  return _mm256_insertf128_pd(_mm256_castpd128_pd256(_mm_loadu_pd(p)), _mm_loadu_pd(p + rs), 1);
}
FNN_INLINE void load_columns(const float* p, i64 rs, Vec<float>* to) {
  for (int h = 0; h < 2; h++, p += 8 * rs) {
    __m256 r0 = load_halves(p, 4 * rs), r1 = load_halves(p + rs, 4 * rs);
    __m256 r2 = load_halves(p + 2 * rs, 4 * rs), r3 = load_halves(p + 3 * rs, 4 * rs);
    __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(r0, r1));
    __m256d b = _mm256_castps_pd(_mm256_unpacklo_ps(r2, r3));
    __m256d c = _mm256_castps_pd(_mm256_unpackhi_ps(r0, r1));
    __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(r2, r3));
    to[0].v[h] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
    to[1].v[h] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
    to[2].v[h] = _mm256_castpd_ps(_mm256_unpacklo_pd(c, d));
    to[3].v[h] = _mm256_castpd_ps(_mm256_unpackhi_pd(c, d));
  }
}
FNN_INLINE void load_columns(const double* p, i64 rs, Vec<double>* to) {
  for (int h = 0; h < 2; h++, p += 4 * rs) {
    __m256d even = load_halves(p, 2 * rs), odd = load_halves(p + rs, 2 * rs);
    to[0].v[h] = _mm256_unpacklo_pd(even, odd);
    to[1].v[h] = _mm256_unpackhi_pd(even, odd);
  }
}

#define FNN_FOLD(name, op)                                                             \
  FNN_INLINE float name(Vec<float> v) {                                                \
    __m256 a = _mm256_##op##_ps(v.v[0], v.v[1]);                                       \
    __m128 b = _mm_##op##_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));  \
    b = _mm_##op##_ps(b, _mm_movehl_ps(b, b));                                         \
    return _mm_cvtss_f32(_mm_##op##_ss(b, _mm_movehdup_ps(b)));                        \
  }                                                                                    \
  FNN_INLINE double name(Vec<double> v) {                                              \
    __m256d a = _mm256_##op##_pd(v.v[0], v.v[1]);                                      \
    __m128d b = _mm_##op##_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1)); \
    return _mm_cvtsd_f64(_mm_##op##_sd(b, _mm_unpackhi_pd(b, b)));                     \
  }
FNN_FOLD(sum, add)
FNN_FOLD(max_lane, max)
FNN_FOLD(min_lane, min)
#undef FNN_FOLD

template <class T> FNN_INLINE Vec<T> widen_u8(const u8* p) {
  if constexpr (sizeof(T) == 4) {
    return {{_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadu_si64(p))),
             _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadu_si64(p + 8)))}};
  } else {
    return {{_mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_loadu_si32(p))),
             _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_loadu_si32(p + 4)))}};
  }
}
template <class T> FNN_INLINE Vec<T> widen_u8_n(const u8* p, i64 n) {
  u8 copy[16] = {};
  for (i64 i = 0; i < n; i++) copy[i] = p[i];
  return widen_u8<T>(copy);
}

FNN_INLINE Vec<double> widen(__m256 a) {
  return {{_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1))}};
}
FNN_INLINE Vec<double> widen_lo(Vec<float> a) { return widen(a.v[0]); }
FNN_INLINE Vec<double> widen_hi(Vec<float> a) { return widen(a.v[1]); }
FNN_INLINE Vec<float> narrow(Vec<double> lo, Vec<double> hi) {
  return {{_mm256_set_m128(_mm256_cvtpd_ps(lo.v[1]), _mm256_cvtpd_ps(lo.v[0])),
           _mm256_set_m128(_mm256_cvtpd_ps(hi.v[1]), _mm256_cvtpd_ps(hi.v[0]))}};
}

#undef FNN_BOTH1
#undef FNN_BOTH2
#undef FNN_BOTH3
