// Copies of parts of a factor, laid out for the register tile.
#pragma once
#include <string.h>

#include "matmul_tile.h"

namespace {

// Four rows of four in 16- or 32-byte vectors of the compiler: the same code at every level.
template <class T> struct Square {
  typedef T Row __attribute__((vector_size(4 * sizeof(T))));
  typedef decltype(Row{} < Row{}) Index;
};

// to[k * to_rs + j] = from[k + j * from_cs] for k, j < 4.
template <class T> FNN_INLINE void transpose4(const T* from, i64 from_cs, T* to, i64 to_rs) {
  typename Square<T>::Row a, b, c, d;
  typedef typename Square<T>::Index Index;
  memcpy(&a, from, sizeof a);
  memcpy(&b, from + from_cs, sizeof a);
  memcpy(&c, from + 2 * from_cs, sizeof a);
  memcpy(&d, from + 3 * from_cs, sizeof a);
  auto ab_lo = __builtin_shuffle(a, b, Index{0, 4, 1, 5});
  auto ab_hi = __builtin_shuffle(a, b, Index{2, 6, 3, 7});
  auto cd_lo = __builtin_shuffle(c, d, Index{0, 4, 1, 5});
  auto cd_hi = __builtin_shuffle(c, d, Index{2, 6, 3, 7});
  a = __builtin_shuffle(ab_lo, cd_lo, Index{0, 1, 4, 5});
  b = __builtin_shuffle(ab_lo, cd_lo, Index{2, 3, 6, 7});
  c = __builtin_shuffle(ab_hi, cd_hi, Index{0, 1, 4, 5});
  d = __builtin_shuffle(ab_hi, cd_hi, Index{2, 3, 6, 7});
  memcpy(to, &a, sizeof a);
  memcpy(to + to_rs, &b, sizeof a);
  memcpy(to + 2 * to_rs, &c, sizeof a);
  memcpy(to + 3 * to_rs, &d, sizeof a);
}

// n elements, contiguous at both ends.
template <class T> FNN_INLINE void copy_row(const T* from, T* to, i64 n) {
  i64 i = 0;
  for (; i + Vec<T>::lanes <= n; i += Vec<T>::lanes) store(to + i, load(from + i));
  if (i < n) store_n(to + i, load_n(from + i, n - i), n - i);
}

// The first `rows` x `columns` of a matrix into rows of to_rs elements.
template <class T> void pack(View<T> from, i64 rows, i64 columns, T* to, i64 to_rs) {
  if (from.cs == 1) {
    for (i64 i = 0; i < rows; i++) copy_row(from.p + i * from.rs, to + i * to_rs, columns);
    return;
  }
  // 16 rows at a time: whole cache lines of a transposed matrix.
  const bool transposed = from.rs == 1;
  for (i64 i0 = 0; i0 < rows; i0 += 16) {
    const i64 i1 = i0 + 16 < rows ? i0 + 16 : rows;
    for (i64 j = 0; j < columns; j += 4) {
      i64 i = i0;
      if (transposed && j + 4 <= columns) {
        for (; i + 4 <= i1; i += 4) transpose4(from.at(i, j).p, from.cs, to + i * to_rs + j, to_rs);
      }
      const i64 j1 = j + 4 < columns ? j + 4 : columns;
      for (; i < i1; i++) {
        for (i64 q = j; q < j1; q++) to[i * to_rs + q] = *from.at(i, q).p;
      }
    }
  }
}

// To the nearest bfloat16, ties to even; NaN stays NaN, infinity infinity.
FNN_INLINE Vec<float> bfloat16(Vec<float> x) {
  IntVec<float> u = bits(x), odd = shift_right(u, 16) & set1_int<float>(1);
  u = (u + set1_int<float>(0x7fff) + odd) & set1_int<float>(-0x10000);
  return select(isnan(x), x, from_bits(u));
}
inline void round_to_bfloat16(float* p, i64 n) {
  for (i64 i = 0; i < n; i += Vec<float>::lanes) store(p + i, bfloat16(load(p + i)));
}
inline void round_to_bfloat16(double*, i64) {}

}  // namespace
