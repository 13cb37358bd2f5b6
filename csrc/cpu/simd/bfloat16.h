// bfloat16 (the upper half of a float32) in pairs, as the dot-product instructions take them: a
// float's worth of bits with an even term in its upper half and the next term in the lower one.
#pragma once
#include <string.h>

#include "vec.h"

namespace {

// The instructions of AVX512-BF16, and what gives the same bits without them:
//   fma_pairs(a, b, c)     a0 * b0 + a1 * b1 + c as two FMAs, the upper halves first. Products of
//   two
//                          bfloat16 are exact; the instruction takes results below 2^-126 for 0.
//   pair(even, odd)        lane-wise, each rounded to the nearest bfloat16, ties to even; inputs
//                          below 2^-126 count as 0, NaN stays NaN
//   pair_neighbours(x, y)  likewise lanes 0 and 1, 2 and 3, ... of x, then of y
#ifdef __AVX512BF16__

FNN_INLINE Vec<float> fma_pairs(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)};
}
FNN_INLINE Vec<float> pair(Vec<float> even, Vec<float> odd) {
  const __m512i upper = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(even.v));
  const __m512i lower = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(odd.v));
  return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_slli_epi32(upper, 16), lower))};
}
FNN_INLINE Vec<float> pair_neighbours(Vec<float> x, Vec<float> y) {
  const __m512i pairs = (__m512i)_mm512_cvtne2ps_pbh(y.v, x.v);  // the even ones in lower halves
  return {_mm512_castsi512_ps(_mm512_rol_epi32(pairs, 16))};
}

#else

FNN_INLINE Vec<float> upper(Vec<float> a) { return from_bits(bits(a) & set1_int<float>(-0x10000)); }
FNN_INLINE Vec<float> lower(Vec<float> a) { return from_bits(shift_left(bits(a), 16)); }
FNN_INLINE Vec<float> fma_pairs(Vec<float> a, Vec<float> b, Vec<float> c) {
  return fma(lower(a), lower(b), fma(upper(a), upper(b), c));
}
FNN_INLINE IntVec<float> to_bfloat16(Vec<float> x) {
  x = select(abs(x) < set1(0x1p-126f), zero<float>(), x);
  const IntVec<float> u = bits(x), odd = shift_right(u, 16) & set1_int<float>(1);
  const IntVec<float> y = (u + set1_int<float>(0x7fff) + odd) & set1_int<float>(-0x10000);
  return bits(select(isnan(x), set1(__builtin_nanf("")), from_bits(y)));
}
FNN_INLINE Vec<float> pair(Vec<float> even, Vec<float> odd) {
  return from_bits(to_bfloat16(even) | shift_right(to_bfloat16(odd), 16));
}
FNN_INLINE Vec<float> pair_neighbours(Vec<float> x, Vec<float> y) {
  constexpr i64 lanes = Vec<float>::lanes;
  alignas(64) u32 terms[2 * lanes], pairs[lanes];
  alignas(64) float halves[2 * lanes];
  store(halves, from_bits(to_bfloat16(x)));
  store(halves + lanes, from_bits(to_bfloat16(y)));
  memcpy(terms, halves, sizeof terms);
  for (i64 i = 0; i < lanes; i++) pairs[i] = terms[2 * i] | terms[2 * i + 1] >> 16;
  memcpy(halves, pairs, sizeof pairs);
  return load(halves);
}

#endif

// Pairs of consecutive rows (the one past the last is zeros), each `columns` wide with zeros behind
// up to a whole Vec, into rows of stride to_rs.
inline void pair_rows(const float* from, i64 rs, i64 rows, i64 columns, float* to, i64 to_rs) {
  constexpr i64 lanes = Vec<float>::lanes;
  for (i64 i = 0; i < rows; i += 2, from += 2 * rs, to += to_rs) {
    for (i64 j = 0; j < columns; j += lanes) {
      const i64 count = columns - j < lanes ? columns - j : lanes;
      const Vec<float> odd = i + 1 < rows ? load_n(from + rs + j, count) : zero<float>();
      store(to + j, pair(load_n(from + j, count), odd));
    }
  }
}

// Pairs of consecutive terms of one row, at most 256 of them; writes whole Vecs.
inline void pair_terms(const float* from, i64 cs, i64 terms, float* to) {
  constexpr i64 lanes = Vec<float>::lanes, most = 256;
  alignas(64) float row[most];
  for (i64 k = 0; cs != 1 && k < terms; k++) row[k] = from[k * cs];
  if (cs != 1) from = row;
  i64 k = 0;
  for (; k + 2 * lanes <= terms; k += 2 * lanes, to += lanes) {
    store(to, pair_neighbours(load(from + k), load(from + k + lanes)));
  }
  if (k == terms) return;
  const i64 left = terms - k, second = left > lanes ? left - lanes : 0;
  const Vec<float> x = load_n(from + k, left < lanes ? left : lanes);
  store(to, pair_neighbours(x, second ? load_n(from + k + lanes, second) : zero<float>()));
}

}  // namespace
