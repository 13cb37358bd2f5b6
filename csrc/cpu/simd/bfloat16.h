// bfloat16 (the upper half of a float32) in pairs, as the dot-product instructions take them: a
// float's worth of bits with an even term in its upper half and the next term in the lower one.
#pragma once
#include <string.h>

#include "vec.h"

namespace {

// a0 * b0 + a1 * b1 + c as two FMAs, the upper halves first. Products of two bfloat16 are exact, so
// the instruction gives these very bits, except that it takes results below 2^-126 for 0.
#ifdef __AVX512BF16__
FNN_INLINE Vec<float> fma_pairs(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {_mm512_dpbf16_ps(c.v, (__m512bh)a.v, (__m512bh)b.v)};
}
#else
FNN_INLINE Vec<float> upper(Vec<float> a) { return from_bits(bits(a) & set1_int<float>(-0x10000)); }
FNN_INLINE Vec<float> lower(Vec<float> a) { return from_bits(shift_left(bits(a), 16)); }
FNN_INLINE Vec<float> fma_pairs(Vec<float> a, Vec<float> b, Vec<float> c) {
  return fma(lower(a), lower(b), fma(upper(a), upper(b), c));
}
#endif

// The nearest bfloat16 as a float, ties to even; 0 below 2^-126, NaN stays NaN.
FNN_INLINE IntVec<float> to_bfloat16(Vec<float> x) {
  const IntVec<float> u = bits(x), odd = shift_right(u, 16) & set1_int<float>(1);
  const Vec<float> y = from_bits((u + set1_int<float>(0x7fff) + odd) & set1_int<float>(-0x10000));
  const Vec<float> normal = select(abs(y) < set1(0x1p-126f), zero<float>(), y);
  return bits(select(isnan(x), set1(__builtin_nanf("")), normal));
}

// Pairs of consecutive rows (the one past the last is zeros), each `columns` wide with zeros behind
// up to a whole Vec, into rows of stride to_rs.
inline void pair_rows(const float* from, i64 rs, i64 rows, i64 columns, float* to, i64 to_rs) {
  constexpr i64 lanes = Vec<float>::lanes;
  for (i64 i = 0; i < rows; i += 2, from += 2 * rs, to += to_rs) {
    for (i64 j = 0; j < columns; j += lanes) {
      const i64 count = columns - j < lanes ? columns - j : lanes;
      const Vec<float> odd = i + 1 < rows ? load_n(from + rs + j, count) : zero<float>();
      const IntVec<float> low = shift_right(to_bfloat16(odd), 16);
      store(to + j, from_bits(to_bfloat16(load_n(from + j, count)) | low));
    }
  }
}

// Pairs of consecutive terms of one row, at most 256 of them.
inline void pair_terms(const float* from, i64 cs, i64 terms, float* to) {
  constexpr i64 lanes = Vec<float>::lanes, most = 256;
  alignas(64) float row[most], rounded[most];
  for (i64 k = 0; cs != 1 && k < terms; k++) row[k] = from[k * cs];
  if (cs != 1) from = row;
  for (i64 k = 0; k < terms; k += lanes) {
    const i64 count = terms - k < lanes ? terms - k : lanes;
    store(rounded + k, from_bits(to_bfloat16(load_n(from + k, count))));
  }
  for (i64 p = 0; p < (terms + 1) / 2; p++) {
    u64 both;  // the even term lies in the lower half
    memcpy(&both, rounded + 2 * p, sizeof both);
    const u32 pair = static_cast<u32>(both) | static_cast<u32>(both >> 48);
    memcpy(to + p, &pair, sizeof pair);
  }
}

}  // namespace
