// The register tile of the matrix product: R rows by V Vecs of sums stay in registers while the
// terms go by, each term one broadcast of the left factor per row and V loads of the right factor.
// The left factor may have any strides, so a transposed one needs no transposing. A sum is one FMA
// chain in the order of the terms from 0, whatever the tile, so tiles of all shapes are
// interchangeable bit for bit (register blocking: Goto & van de Geijn, 2008).
#pragma once
#include "bfloat16.h"
#include "matmul_pack.h"

namespace {

constexpr i64 kFewTerms = 32;  // over which memory can't be hidden

template <class T> struct Tile {
  View<T> left, right;
  T* out;  // rows of whole Vecs
  i64 out_rs;
  i64 terms, columns;
  bool add;  // to what is in out
};

// With kPairs a term is two of them: bfloat16 in pairs.
template <bool kPairs, class T, int R, int V>
FNN_INLINE void add_term(const T* left, i64 rs, const Vec<T> (&b)[V], Vec<T> (&sums)[R][V]) {
#pragma GCC unroll 32
  for (int r = 0; r < R; r++) {
    const Vec<T> a = set1(left[r * rs]);
#pragma GCC unroll 32
    for (int v = 0; v < V; v++) {
      if constexpr (kPairs) {
        sums[r][v] = fma_pairs(a, b[v], sums[r][v]);
      } else {
        sums[r][v] = fma(a, b[v], sums[r][v]);
      }
    }
  }
}

template <class T, int R, int V> FNN_INLINE void start(const Tile<T>& t, Vec<T> (&sums)[R][V]) {
#pragma GCC unroll 32
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 32
    for (int v = 0; v < V; v++) {
      sums[r][v] = zero<T>();
      if (t.terms > kFewTerms) __builtin_prefetch(t.out + r * t.out_rs + v * Vec<T>::lanes, 1);
    }
  }
}

template <class T, int R, int V> FNN_INLINE void put(const Tile<T>& t, Vec<T> (&sums)[R][V]) {
  constexpr i64 lanes = Vec<T>::lanes;
  T* out = t.out;
  const i64 rs = t.out_rs;
  if (t.add) {
#pragma GCC unroll 32
    for (int r = 0; r < R; r++) {
#pragma GCC unroll 32
      for (int v = 0; v < V; v++) sums[r][v] = load(out + r * rs + v * lanes) + sums[r][v];
    }
  }
#pragma GCC unroll 32
  for (int r = 0; r < R; r++) {
#pragma GCC unroll 32
    for (int v = 0; v < V; v++) store(out + r * rs + v * lanes, sums[r][v]);
  }
}

// The right factor's columns are contiguous, and whole Vecs unless V is 1.
template <class T, bool kPairs, int R, int V> void tile(const Tile<T>& t) {
  Vec<T> sums[R][V], b[V];
  start(t, sums);
  const Mask<T> mask = first_n<T>(V == 1 ? t.columns : 0);
  const T *left = t.left.p, *right = t.right.p;
  const i64 rs = t.left.rs, cs = t.left.cs, right_rs = t.right.rs;
  for (i64 k = 0; k < t.terms; k++, left += cs, right += right_rs) {
#pragma GCC unroll 32
    for (int v = 0; v < V; v++) {
      b[v] = V == 1 ? load_masked(right, mask) : load(right + v * Vec<T>::lanes);
    }
    add_term<kPairs>(left, rs, b, sums);
  }
  put(t, sums);
}

// The right factor has any strides. Where its columns are rows in memory, their cache lines are
// taken whole and turned in registers, a few terms at a time, on ports that FMAs leave free.
template <class T, int R, int V> void transposing_tile(const Tile<T>& t) {
  constexpr i64 lanes = Vec<T>::lanes, width = V * lanes, few = 16 / sizeof(T);
  Vec<T> sums[R][V], b[V];
  start(t, sums);
  const T* left = t.left.p;
  i64 k = 0;
  const bool turns = t.right.rs == 1 && t.columns == width;
  // A few terms of one Vec of columns, less those that have had their turn.
  auto turn = [&](const T* left, const T* right, int v, i64 had) {
    Vec<T> turned[few];
    load_columns(right, t.right.cs, turned);
#pragma GCC unroll 4
    for (i64 j = 0; j < few; j++, left += t.left.cs) {
      if (j < had) continue;
      __builtin_prefetch(right + lanes + j, 0, 2);
#pragma GCC unroll 32
      for (int r = 0; r < R; r++)
        sums[r][v] = fma(set1(left[r * t.left.rs]), turned[j], sums[r][v]);
    }
  };
  for (i64 now; turns && t.terms - k >= few; k += now, left += now * t.left.cs) {
    now = t.terms - k < lanes ? (t.terms - k) / few * few : lanes;
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) {
      const T *terms = left, *right = t.right.at(k, v * lanes).p;
      for (i64 i = 0; i < now; i += few, terms += few * t.left.cs) turn(terms, right + i, v, 0);
    }
  }
  if (turns && k < t.terms && k > 0) {
    const i64 had = few - (t.terms - k);
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) {
      turn(left - had * t.left.cs, t.right.at(k - had, v * lanes).p, v, had);
    }
    k = t.terms;
  }
  alignas(64) T rows[lanes * width];
  for (; k < t.terms; k += lanes) {
    const i64 now = t.terms - k < lanes ? t.terms - k : lanes;
    pack(t.right.at(k, 0), now, t.columns, rows, width, 0);
    for (i64 i = 0; i < now; i++, left += t.left.cs) {
#pragma GCC unroll 2
      for (int v = 0; v < V; v++) b[v] = load(rows + i * width + v * lanes);
      add_term<false>(left, t.left.rs, b, sums);
    }
  }
  put(t, sums);
}

template <class T> using TileFn = void (*)(const Tile<T>&);

template <class T> constexpr i64 kSums = kTileRows<T> * kTileVecs<T>;  // that fit the registers
template <class T> constexpr i64 kTallest = 2 * kTileRows<T>;          // rows of any tile
template <class T> constexpr i64 kNarrow = kTileVecs<T> / 2;           // Vecs of the tallest

// The tile of so many rows.
template <class T, bool kPairs, int V, int R = int(V <= kNarrow<T> ? kTallest<T> : kSums<T> / V)>
TileFn<T> find_tile(i64 rows) {
  if constexpr (R > 1) {
    if (rows != R) return find_tile<T, kPairs, V, R - 1>(rows);
  }
  return tile<T, kPairs, R, V>;
}
template <class T, int R = int(kTallest<T>)> TileFn<T> find_transposing_tile(i64 rows) {
  if constexpr (R > 1) {
    if (rows != R) return find_transposing_tile<T, R - 1>(rows);
  }
  return transposing_tile<T, R, int(kNarrow<T>)>;
}

// vecs: a power of two, 16 at most, with rows * vecs <= kSums.
template <class T, bool kPairs> TileFn<T> find_tile(i64 rows, i64 vecs) {
  constexpr int sums = int(kSums<T>);
  switch (vecs) {
    case 1: return find_tile<T, kPairs, 1>(rows);
    case 2: return find_tile<T, kPairs, 2>(rows);
    case 4: return find_tile < T, kPairs, sums<4 ? 1 : 4>(rows);
    case 8: return find_tile < T, kPairs, sums<8 ? 1 : 8>(rows);
    default: return find_tile < T, kPairs, sums<16 ? 1 : 16>(rows);
  }
}

}  // namespace
