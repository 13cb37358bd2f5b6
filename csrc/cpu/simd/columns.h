// Sums down the columns of a matrix whose rows are examples: two of them at once, such as those of
// a gradient and of its product with the input. A block of rows is 16 chains of 16, added in order,
// 8 times more exact than one chain; callers add the blocks in order. As no lane meets another,
// columns may be cut anywhere without a change of the bits.
#pragma once
#include "vec.h"

namespace {

enum : i64 { kChain = 16, kBlock = 256 };
enum { kWide = 4 };

FNN_INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }

#define FNN_EACH(v) _Pragma("GCC unroll 4") for (int v = 0; v < W; v++)

// W Vecs side by side. Whole if W is kWide, else the first `used` lanes of one.
template <class T, int W> struct Strip {
  i64 used;

  Vec<T> load(const T* p, int v) const {
    return W == 1 ? load_n(p, used) : ::load(p + v * Vec<T>::lanes);
  }
  void store(T* p, int v, Vec<T> x) const {
    if (W == 1) return store_n(p, x, used);
    ::store(p + v * Vec<T>::lanes, x);
  }
};

// f(strip, j) for the strips of columns begin..end; the wide ones start where p + j is aligned.
template <class T, class F> FNN_INLINE void each_strip(const T* p, i64 begin, i64 end, F&& f) {
  constexpr i64 lanes = Vec<T>::lanes, wide = kWide * lanes;
  i64 j = begin, head = least(i64(-uintptr_t(p + j) % sizeof(Vec<T>) / sizeof(T)), end - j);
  if (head > 0) f(Strip<T, 1>{head}, j);
  for (j += head; j + wide <= end; j += wide) f(Strip<T, kWide>{wide}, j);
  for (; j < end; j += lanes) f(Strip<T, 1>{least(lanes, end - j)}, j);
}

template <class T, int W> struct ColumnSums {
  Vec<T> first[W] = {}, second[W] = {};

  void add(const ColumnSums& part) {
    FNN_EACH(v) first[v] = first[v] + part.first[v];
    FNN_EACH(v) second[v] = second[v] + part.second[v];
  }
};

// Over the rows of a block: f(row, v, first, second) adds to the two sums of Vec v.
template <class T, int W, class F> FNN_INLINE ColumnSums<T, W> sum_rows(i64 rows, F&& f) {
  ColumnSums<T, W> total;
  for (i64 begin = 0; begin < rows; begin += kChain) {
    ColumnSums<T, W> chain;
    for (i64 i = begin, end = least(begin + kChain, rows); i < end; i++) {
      FNN_EACH(v) f(i, v, chain.first[v], chain.second[v]);
    }
    total.add(chain);
  }
  return total;
}

}  // namespace
