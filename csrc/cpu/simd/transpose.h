// Transposes of small matrices that lie in the cache, in squares of four by four.
#pragma once
#include <string.h>

#include "vec.h"

namespace {

// Four elements in a vector of the compiler: the same code at every ISA level.
template <class T> struct Four {
  typedef T Row __attribute__((vector_size(4 * sizeof(T))));
  typedef decltype(Row{} < Row{}) Index;
};

// to[j * to_rs + i] = from[i * from_rs + j] for i, j < 4.
template <class T> FNN_INLINE void transpose4(const T* from, i64 from_rs, T* to, i64 to_rs) {
  typedef typename Four<T>::Row Row;
  typedef typename Four<T>::Index Index;
  const Index lo{0, 4, 1, 5}, hi{2, 6, 3, 7}, left{0, 1, 4, 5}, right{2, 3, 6, 7};
  Row r[4];
  for (int i = 0; i < 4; i++) memcpy(&r[i], from + i * from_rs, sizeof(Row));
  Row a = __builtin_shuffle(r[0], r[1], lo), b = __builtin_shuffle(r[2], r[3], lo);
  Row c = __builtin_shuffle(r[0], r[1], hi), d = __builtin_shuffle(r[2], r[3], hi);
  r[0] = __builtin_shuffle(a, b, left);
  r[1] = __builtin_shuffle(a, b, right);
  r[2] = __builtin_shuffle(c, d, left);
  r[3] = __builtin_shuffle(c, d, right);
  for (int i = 0; i < 4; i++) memcpy(to + i * to_rs, &r[i], sizeof(Row));
}

// to[j * to_rs + i] = from[i * from_rs + j] for i < rows, j < columns; the arrays don't overlap.
// The last squares reach back over the ones before them instead of ending early.
template <class T>
FNN_INLINE void transpose(const T* from, i64 from_rs, i64 rows, i64 columns, T* to, i64 to_rs) {
  if (rows < 4 || columns < 4) {
    for (i64 i = 0; i < rows; i++) {
      for (i64 j = 0; j < columns; j++) to[j * to_rs + i] = from[i * from_rs + j];
    }
    return;
  }
  for (i64 j = 0; j < columns; j += 4) {
    if (j > columns - 4) j = columns - 4;
    for (i64 i = 0; i < rows; i += 4) {
      if (i > rows - 4) i = rows - 4;
      transpose4(from + i * from_rs + j, from_rs, to + j * to_rs + i, to_rs);
    }
  }
}

}  // namespace
