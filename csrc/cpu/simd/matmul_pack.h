// Copies of parts of a factor, laid out for the register tile of the matrix product. Transposes go
// through 32-byte vectors of the compiler, two squares at once, one in each half: the same code at
// every ISA level.
#pragma once
#include <string.h>

#include "vec.h"

namespace {

// Element (i, j) of a matrix is p[i * rs + j * cs].
template <class T> struct View {
  const T* p;
  i64 rs, cs;
  View at(i64 i, i64 j) const { return {p + i * rs + j * cs, rs, cs}; }
};

template <class T> constexpr i64 kSide = 16 / sizeof(T);  // of a square
template <class T> struct Squares {
  typedef T Half __attribute__((vector_size(16)));
  typedef T Row __attribute__((vector_size(32)));
  typedef decltype(Row{} < Row{}) Index;
};

FNN_INLINE void load_halves(const float* lo, const float* hi, Squares<float>::Row& r) {
  Squares<float>::Half a, b;
  memcpy(&a, lo, 16);
  memcpy(&b, hi, 16);
  r = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7);
}
FNN_INLINE void load_halves(const double* lo, const double* hi, Squares<double>::Row& r) {
  Squares<double>::Half a, b;
  memcpy(&a, lo, 16);
  memcpy(&b, hi, 16);
  r = __builtin_shufflevector(a, b, 0, 1, 2, 3);
}

// to[i * to_rs + j] = from[i + j * cs] for i < kSide, j < 2 * kSide.
FNN_INLINE void transpose_squares(const float* from, i64 cs, float* to, i64 to_rs) {
  typedef Squares<float>::Index Index;
  const Index lo{0, 8, 1, 9, 4, 12, 5, 13}, hi{2, 10, 3, 11, 6, 14, 7, 15};
  const Index left{0, 1, 8, 9, 4, 5, 12, 13}, right{2, 3, 10, 11, 6, 7, 14, 15};
  Squares<float>::Row r[4];
  for (i64 j = 0; j < 4; j++) load_halves(from + j * cs, from + (j + 4) * cs, r[j]);
  auto a = __builtin_shuffle(r[0], r[1], lo), b = __builtin_shuffle(r[2], r[3], lo);
  auto c = __builtin_shuffle(r[0], r[1], hi), d = __builtin_shuffle(r[2], r[3], hi);
  r[0] = __builtin_shuffle(a, b, left), r[1] = __builtin_shuffle(a, b, right);
  r[2] = __builtin_shuffle(c, d, left), r[3] = __builtin_shuffle(c, d, right);
  for (i64 i = 0; i < 4; i++) memcpy(to + i * to_rs, &r[i], sizeof r[i]);
}
FNN_INLINE void transpose_squares(const double* from, i64 cs, double* to, i64 to_rs) {
  typedef Squares<double>::Index Index;
  Squares<double>::Row a, b;
  load_halves(from, from + 2 * cs, a);
  load_halves(from + cs, from + 3 * cs, b);
  auto lo = __builtin_shuffle(a, b, Index{0, 4, 2, 6}),
       hi = __builtin_shuffle(a, b, Index{1, 5, 3, 7});
  memcpy(to, &lo, sizeof lo);
  memcpy(to + to_rs, &hi, sizeof hi);
}

// A matrix of at most lanes x lanes into rows of stride to_rs.
template <class T> void pack_corner(View<T> from, i64 rows, i64 columns, T* to, i64 to_rs) {
  for (i64 j = 0; j < columns; j += 2 * kSide<T>) {
    const i64 end = columns < j + 2 * kSide<T> ? columns : j + 2 * kSide<T>;
    i64 i = 0;
    if (from.rs == 1 && end - j == 2 * kSide<T>) {
      for (; i + kSide<T> <= rows; i += kSide<T>) {
        transpose_squares(from.at(i, j).p, from.cs, to + i * to_rs + j, to_rs);
      }
    }
    for (; i < rows; i++) {
      for (i64 q = j; q < end; q++) to[i * to_rs + q] = *from.at(i, q).p;
    }
  }
}

// Any matrix into rows of stride to_rs; its strides suggest to go down the columns. What lies
// `ahead` elements further is fetched from memory meanwhile.
template <class T>
void pack_columns(View<T> from, i64 rows, i64 columns, T* to, i64 to_rs, i64 ahead) {
  constexpr i64 lanes = Vec<T>::lanes;  // whole cache lines at both ends
  for (i64 j = 0; j < columns; j += lanes) {
    const i64 across = columns - j < lanes ? columns - j : lanes;
    for (i64 i = 0; i < rows; i += lanes) {
      const i64 down = rows - i < lanes ? rows - i : lanes;
      const View<T> corner = from.at(i, j);
      for (i64 q = 0; q < across; q++) __builtin_prefetch(corner.at(0, q).p + ahead, 0, 2);
      if (down == lanes && across == lanes) {
        pack_corner(corner, lanes, lanes, to + i * to_rs + j, to_rs);
      } else {
        pack_corner(corner, down, across, to + i * to_rs + j, to_rs);
      }
    }
  }
}

// Any matrix into rows of whole Vecs, zeros behind its columns.
template <class T> void pack(View<T> from, i64 rows, i64 columns, T* to, i64 to_rs, i64 ahead) {
  constexpr i64 lanes = Vec<T>::lanes;
  if (from.cs != 1) {
    const i64 padded = (columns + lanes - 1) / lanes * lanes;
    for (i64 i = 0; columns < padded && i < rows; i++)
      store(to + i * to_rs + padded - lanes, zero<T>());
    return pack_columns(from, rows, columns, to, to_rs, ahead);
  }
  for (i64 i = 0; i < rows; i++, from.p += from.rs, to += to_rs) {
    i64 j = 0;
    for (; j + lanes <= columns; j += lanes) {
      store(to + j, load(from.p + j));
      __builtin_prefetch(from.p + j + ahead, 0, 2);
    }
    if (j < columns) store(to + j, load_n(from.p + j, columns - j));
  }
}

}  // namespace
