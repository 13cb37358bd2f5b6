// Products of few terms, such as the first layer of a small network or the gradient that its last
// one hands back: rows of the result are made one after the other from the right factor, which lies
// in L1, as packing or turning anything would take longer than the product itself. A sum is one FMA
// chain in the order of the terms from 0, as in any tile.
#pragma once
#include "matmul_pack.h"

namespace {

enum : i64 { kThinTerms = 8, kThinColumns = 64, kThinRows = 16, kThinLeast = 64 };

inline i64 least(i64 a, i64 b) { return a < b ? a : b; }

template <class T> struct Thin {
  View<T> left;
  i64 n, k;
  T* y;
  bool biased;
  alignas(64) T bias[kThinColumns];                // whole Vecs
  alignas(64) T right[kThinTerms * kThinColumns];  // rows of whole Vecs

  static bool suits(const matmul_args<T>& a) {
    return a.k > 0 && a.k <= kThinTerms && a.n <= kThinColumns && a.m >= kThinLeast &&
           a.precision != 1 && !a.a_bytes && !a.b_sum;
  }

  explicit Thin(const matmul_args<T>& a)
      : left{a.a, a.a_rs, a.a_cs}, n(a.n), k(a.k), y(a.y), biased(a.bias) {
    if (a.k > kThinTerms || a.n > kThinColumns) __builtin_unreachable();  // GCC warns otherwise
    pack(View<T>{a.b, a.b_rs, a.b_cs}, k, n, right, kThinColumns, 0);
    if (biased) pack(View<T>{a.bias, n, 1}, 1, n, bias, kThinColumns, 0);
  }

  // Rows i.. and V Vecs of columns. Whole Vecs are stored where what they write beyond the row is
  // this thread's and still to come; masked stores take several times as long.
  template <int R, int V> void tile(i64 i, i64 j, i64 end) const {
    constexpr i64 lanes = Vec<T>::lanes;
    Vec<T> sums[R][V];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) sums[r][v] = zero<T>();
    }
    const T *from = left.at(i, 0).p, *b = right + j;
    const i64 rs = left.rs, cs = left.cs, terms = k;
    for (i64 p = 0; p < terms; p++, from += cs, b += kThinColumns) {
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        const Vec<T> x = set1(from[r * rs]);
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sums[r][v] = fma(x, load(b + v * lanes), sums[r][v]);
      }
    }
    if (biased) {
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) sums[r][v] = sums[r][v] + load(bias + j + v * lanes);
      }
    }
    const i64 last = j + (V - 1) * lanes, count = least(lanes, n - last);
    const bool whole =
        count == lanes || (n <= 2 * lanes && (i + R - 1) * n + last + lanes <= end * n);
    T* to = y + i * n + j;
#pragma GCC unroll 4
    for (int r = 0; r < R; r++, to += n) {
      if (V == 2) store(to, sums[r][0]);
      if (whole)
        store(to + (V - 1) * lanes, sums[r][V - 1]);
      else
        store_n(to + (V - 1) * lanes, sums[r][V - 1], count);
    }
  }

  template <int R> void row_of_tiles(i64 i, i64 end) const {
    constexpr i64 lanes = Vec<T>::lanes;
    for (i64 j = 0; j < n; j += 2 * lanes)
      n - j > lanes ? tile<R, 2>(i, j, end) : tile<R, 1>(i, j, end);
  }

  // Some rows of those up to `end`, which one thread computes in order.
  void rows(i64 i, i64 next, i64 end) const {
    for (; i + 4 <= next; i += 4) row_of_tiles<4>(i, end);
    for (; i < next; i++) row_of_tiles<1>(i, end);
  }
};

}  // namespace
