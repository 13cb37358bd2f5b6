// The register tile of the matrix product: R rows by V Vecs of sums stay in registers while the
// terms go by, each term one broadcast of the left factor per row and V loads of the right factor.
// Any strides on the left, so a transposed factor needs no transposing there. A sum is one FMA
// chain in the order of the terms from 0, whatever the tile, so tiles of any shape are
// interchangeable bit for bit (register blocking: Goto & van de Geijn, 2008).
#pragma once
#include "vec.h"

namespace {

// Element (i, j) of a matrix is p[i * rs + j * cs].
template <class T> struct View {
  const T* p;
  i64 rs, cs;
  View at(i64 i, i64 j) const { return {p + i * rs + j * cs, rs, cs}; }
};

template <class T> struct Tile {
  View<T> left;
  const T* right;  // rows of whole Vecs
  i64 right_rs;
  T* out;
  i64 out_rs;
  i64 terms, columns;
  bool add;  // to what is in out
};

template <class T, int R, int V> void tile(const Tile<T>& t) {
  constexpr i64 lanes = Vec<T>::lanes;
  Vec<T> sums[R][V];
#pragma GCC unroll 32
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 32
    for (int v = 0; v < V; v++) sums[r][v] = zero<T>();
  }
  const T *left = t.left.p, *right = t.right;
  const i64 rs = t.left.rs, cs = t.left.cs;
  for (i64 k = 0; k < t.terms; k++, left += cs, right += t.right_rs) {
    Vec<T> b[V];
#pragma GCC unroll 32
    for (int v = 0; v < V; v++) b[v] = load(right + v * lanes);
#pragma GCC unroll 32
    for (int r = 0; r < R; r++) {
      Vec<T> a = set1(left[r * rs]);
#pragma GCC unroll 32
      for (int v = 0; v < V; v++) sums[r][v] = fma(a, b[v], sums[r][v]);
    }
  }
  const i64 rest = t.columns - (V - 1) * lanes;
#pragma GCC unroll 32
  for (int r = 0; r < R; r++) {
    T* out = t.out + r * t.out_rs;
#pragma GCC unroll 32
    for (int v = 0; v < V; v++) {
      T* at = out + v * lanes;
      if (v < V - 1 || rest == lanes) {
        store(at, t.add ? load(at) + sums[r][v] : sums[r][v]);
      } else {
        store_n(at, t.add ? load_n(at, rest) + sums[r][v] : sums[r][v], rest);
      }
    }
  }
}

}  // namespace
