// Vectors of 64 bytes at every level: Vec<float> has 16 lanes, Vec<double> 8. AVX-512 keeps one in
// a register, AVX2 in two, the scalar level in an array; since kernels only ever see 64 bytes, sums
// over lanes fold in the same order and every level gives the same bits.
//
// Each vec_<isa>.h defines, all `static inline` (always inline), for T = float and double:
//   Vec<T>               plain struct; Vec<T>::lanes
//   Mask<T>              one bool per lane; operators & | ! (on masks)
//   IntVec<T>            integers of T's width: int32 x 16 or int64 x 8
//   set1<T>(x)           all lanes x;  zero<T>();  lane_index<T>(): 0, 1, 2, ... as T
//   load(p) store(p, v)  unaligned, all lanes
//   load_n(p, n)         the first n lanes (0 <= n <= lanes), the others 0 and not read
//   store_n(p, v, n)     the first n lanes, the others not written
//   load_columns(p, rs, to)    to[t] is p[t], p[rs + t], p[2 * rs + t], ... for t < 16 / sizeof(T)
//   load_masked(p, mask) store_masked(p, v, mask)   likewise with any mask
//   + - * /  unary -     lane-wise, IEEE
//   fma(a, b, c)         a * b + c, rounded once;  fnma(a, b, c) = c - a * b, rounded once
//   min(a, b) max(a, b)  a < b ? a : b and a > b ? a : b (so b when either is NaN), at every level
//   abs(a) sqrt(a) round(a)   round: to nearest, ties to even
//   scale(a, k)          a * 2^k rounded once, for integral |k| <= 250 (double: 2000) and an a that
//                        is 0, NaN or between 2^-20 and 2^20 in size
//   a < b, <=, >, >=, ==, !=  -> Mask<T>, ordered as in C;  isnan(a)
//   select(mask, a, b)   a where mask, else b
//   first_n<T>(n)        mask of the first n lanes;  any(m) all(m);  mask_bits(m) -> unsigned
//   bits(v) -> IntVec<T>, from_bits(IntVec<T>) -> Vec<T>
//   to_int(v)  to_float(i)    nearest integer and back, for |v| < 2^31 (double: 2^51)
//   IntVec: + - & | ^, shift_left(i, n) shift_right(i, n) (logical) shift_right_arith(i, n),
//           set1_int<T>(x), equality ==
//   lookup(table, i)     table[i & 15], lane-wise, of 16 numbers
//   sum(v) max_lane(v) min_lane(v)   fold in a fixed tree: lane i with i + lanes/2, and so on
//   widen_u8<T>(p) widen_u8_n<T>(p, n)   unsigned bytes to T
//   widen_lo(Vec<float>) widen_hi(Vec<float>) -> Vec<double>, lanes 0..7 and 8..15;
//   narrow(lo, hi) -> Vec<float>
// and the matmul register tile: kTileRows<T>, kTileVecs<T> (rows, and Vecs across).
#pragma once
#include "../../core/ops.h"

#define FNN_INLINE static inline __attribute__((always_inline))

template <class T> struct Vec;
template <class T> struct Mask;
template <class T> struct IntVec;

#include FNN_VEC_HEADER

template <class T> FNN_INLINE Vec<T> set1(T x) { return broadcast(x); }
template <class T> FNN_INLINE Vec<T> zero() { return broadcast(T(0)); }
template <class T> FNN_INLINE Mask<T> isnan(Vec<T> a) { return a != a; }
template <class T> FNN_INLINE Vec<T> load_n(const T* p, i64 n) {
  return load_masked(p, first_n<T>(n));
}
template <class T> FNN_INLINE void store_n(T* p, Vec<T> v, i64 n) {
  store_masked(p, v, first_n<T>(n));
}
