// exp(x - max) and its sum over rows: the core of softmax and of its losses, with one exp an
// element and one read of x from memory whatever the length of a row.
// Short rows are transposed tile by tile, so that a lane holds a row: no lane is wasted and no
// reduction crosses lanes. A longer row is cut into blocks that fit the L1 cache, each shifted by
// its own largest element; the factor that brings a block to the row's largest element (the
// rescaling of Milakov & Gimelshein 2018, once a block) rides in the scaling of the result.
#pragma once
#include "simd/math.h"
#include "simd/reduce.h"
#include "simd/transpose.h"

namespace {

// ---- short rows, a tile of them at a time --------------------------------------------------

enum : i64 { kShortRow = 64 };

template <class T> constexpr i64 kTileHeight = 256 / sizeof(T);

// Sum of f(0), ... f(c - 1), lane by lane.
template <class T, class F> FNN_INLINE LaneSum<T> sum_columns(i64 c, F&& f) {
  LaneSum<T> total;
  i64 j = 0;
  for (; j + 4 <= c; j += 4) {
    Vec<T> p = f(j), q = f(j + 1), r = f(j + 2), s = f(j + 3);
    total.add((p + q) + (r + s));
  }
  for (; j < c; j++) total.add(f(j));
  return total;
}

// Up to kTileHeight<T> rows. Its steps go through all rows one after the other, since one loop with
// all steps would be a single long chain of dependent operations.
template <class T> struct Tile {
  static constexpr i64 lanes = Vec<T>::lanes;
  T column[kShortRow][kTileHeight<T>];
  T max[kTileHeight<T>];
  LaneSum<T> sum[kTileHeight<T> / lanes];  // of exp(x - max)

  const LaneSum<T>& sum_of(i64 r) const { return sum[r / lanes]; }
  // Lanes beyond the rows become 0.
  void read(const T* x, i64 rows, i64 c) {
    const i64 whole = rows / lanes * lanes;
    for (i64 j = 0; whole < rows && j < c; j++) store(&column[j][whole], zero<T>());
    transpose(x, c, rows, c, column[0], kTileHeight<T>);
  }
  void write(T* y, i64 rows, i64 c) const { transpose(column[0], kTileHeight<T>, c, rows, y, c); }

  // max and sum; with `replace`, exp(x - max) takes the place of x.
  template <bool replace> void exp_sum(i64 rows, i64 c) {
    for (i64 r = 0; r < rows; r += lanes) {
      Vec<T> largest = set1(T(-INFINITY));
      for (i64 j = 0; j < c; j++) largest = ::max(load(&column[j][r]), largest);
      store(max + r, largest);
      sum[r / lanes] = sum_columns<T>(c, [&](i64 j) {
        Vec<T> e = exp(load(&column[j][r]) - largest);
        if (replace) store(&column[j][r], e);
        return e;
      });
    }
  }

  // f(r) returns what to do with each element of the rows from r on, a function of a Vec.
  template <class F> void each_element(i64 rows, i64 c, F&& f) {
    for (i64 r = 0; r < rows; r += lanes) {
      auto change = f(r);
      for (i64 j = 0; j < c; j++) store(&column[j][r], change(load(&column[j][r])));
    }
  }
};

// f(first row, rows) for the tiles of 0..n, shared out.
template <class T, class F> FNN_INLINE void each_tile(const Team& team, i64 n, F&& f) {
  share_range(team, n, kTileHeight<T>, [&](i64 begin, i64 end) {
    for (i64 i = begin; i < end; i += kTileHeight<T>) {
      f(i, end - i < kTileHeight<T> ? end - i : kTileHeight<T>);
    }
  });
}

// ---- longer rows, one at a time ------------------------------------------------------------

enum : i64 { kBlocks = 64, kBlockBytes = 8192 };

template <class T> struct RowExp {
  T max;              // largest element
  double sum;         // of exp(x - max)
  i64 c, block;       // elements; elements a block
  T factor[kBlocks];  // exp(largest element of the block - max)

  // f(begin, end, k) for each block, with k = numerator * factor / sum.
  template <class F> void each_block(double numerator, F&& f) const {
    for (i64 i = 0, b = 0; i < c; i += block, b++) {
      f(i, c - i < block ? c : i + block, set1(T(numerator * factor[b] / sum)));
    }
  }
};

// keep(at, e) gets e = exp(x - largest element of the block) for every Vec of the row.
template <class T, class F> FNN_INLINE void exp_row(const T* x, i64 c, RowExp<T>& row, F&& keep) {
  constexpr i64 lanes = Vec<T>::lanes, usual = kBlockBytes / sizeof(T);
  const i64 needed = (c + kBlocks * lanes - 1) / (kBlocks * lanes) * lanes;
  row.c = c;
  row.block = needed > usual ? needed : usual;
  row.max = T(-INFINITY);
  double sums[kBlocks];
  i64 blocks = 0;
  for (i64 i = 0; i < c; i += row.block, blocks++) {
    const i64 end = c - i < row.block ? c : i + row.block;
    const T largest = max_vecs<T>(i, end, [&](auto at) { return at.load(x); });
    // A block of -inf must not spoil the others; a whole row of them still becomes 0 / 0.
    const Vec<T> shift = set1(largest == T(-INFINITY) ? T(0) : largest);
    sums[blocks] = sum_vecs<T>(i, end, [&](auto at) {
      Vec<T> e = exp(at.load(x) - shift);
      keep(at, e);
      return e;
    });
    row.factor[blocks] = largest;
    row.max = largest > row.max ? largest : row.max;
  }
  if (blocks == 1) {
    row.factor[0] = 1;
    row.sum = sums[0];
    return;
  }
  each_vec<T>(0, blocks,
              [&](auto at) { at.store(row.factor, exp(at.load(row.factor) - set1(row.max))); });
  for (i64 b = 0; b < blocks; b++) sums[b] *= row.factor[b];
  row.sum = sum_vecs<double>(0, blocks, [&](auto at) { return at.load(sums); });
}

}  // namespace
