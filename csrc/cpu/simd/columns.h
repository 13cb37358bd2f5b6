// Sums down the columns of a matrix whose rows are examples: two of them at once, such as those of
// a gradient and of its product with the input. A block of rows is 16 chains of 16, added in order,
// 8 times more exact than one chain; callers add the blocks in order. As no lane meets another,
// columns may be cut anywhere without a change of the bits: they are cut where Vecs are aligned.
#pragma once
#include "vec.h"

namespace {

enum : i64 { kChain = 16, kBlock = 256 };  // rows
enum { kWide = 4, kPanel = 32 };           // Vecs

FNN_INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }

#define FNN_EACH(v) _Pragma("GCC unroll 4") for (int v = 0; v < strip.vecs; v++)

// So many Vecs side by side, all of them in use.
template <class T, int count> struct WholeStrip {
  static constexpr bool whole = true;
  static constexpr int vecs = count;

  Vec<T> load(const T* p, int v) const { return ::load(p + v * Vec<T>::lanes); }
  void store(T* p, int v, Vec<T> x) const { ::store(p + v * Vec<T>::lanes, x); }
};

// One Vec, some lanes of it; the others load as 0. Masked stores are slow on some CPUs.
template <class T> struct PartStrip {
  static constexpr bool whole = false;
  static constexpr int vecs = 1;
  Mask<T> used;

  Vec<T> load(const T* p, int) const { return load_masked(p, used); }
  void store(T* p, int, Vec<T> x) const { store_masked(p, x, used); }
};

// Columns begin..end, at most kPanel Vecs. Place k of the panel is column first + k.
struct Panel {
  i64 first, begin, end;
};

// f(strip, k) for the strips of a panel, as wide as they can be.
template <class T, class F> FNN_INLINE void each_strip(Panel panel, F&& f) {
  constexpr i64 lanes = Vec<T>::lanes;
  for (i64 j = panel.first, vecs; j < panel.end; j += vecs * lanes) {
    const i64 k = j - panel.first, whole = j < panel.begin ? 0 : (panel.end - j) / lanes;
    vecs = whole >= kWide ? kWide : whole >= 2 ? 2 : 1;
    if (whole >= kWide) {
      f(WholeStrip<T, kWide>{}, k);
    } else if (whole >= 2) {
      f(WholeStrip<T, 2>{}, k);
    } else if (whole == 1) {
      f(WholeStrip<T, 1>{}, k);
    } else {
      f(PartStrip<T>{first_n<T>(least(panel.end - j, lanes)) &
                     !first_n<T>(j < panel.begin ? panel.begin - j : 0)},
        k);
    }
  }
}

// f(panel) for the panels, of so many Vecs, of this thread's columns of rows that start at p.
template <int vecs = kPanel, class T, class F>
FNN_INLINE void share_panels(const Team& team, const T* p, i64 c, F&& f) {
  constexpr i64 lanes = Vec<T>::lanes, wide = vecs * lanes;
  const i64 before = i64(uintptr_t(p) % sizeof(Vec<T>) / sizeof(T));  // from the line's start to p
  share_range(team, c + before, lanes, [&](i64 begin, i64 end) {
    for (; begin < end; begin += wide) {
      const i64 first = begin - before;
      f(Panel{first, first < 0 ? 0 : first, least(begin + wide, end) - before});
    }
  });
}

template <class T> struct ColumnSums {
  Vec<T> first[kWide] = {}, second[kWide] = {};
};

// Two sums over the rows of a block, for place k of a panel in first[k] and second[k].
// f(strip, k) gives the function (row, v, first, second) that adds a row to the sums of Vec v.
// Sums stay in registers for `visit` rows of a strip: a chain is best for what is in the cache, one
// row for what is not, since only reading in order reaches the bandwidth of memory.
template <i64 visit = kChain, class T, class F>
FNN_INLINE void sum_block(Panel panel, i64 rows, T* first, T* second, F&& f) {
  constexpr i64 lanes = Vec<T>::lanes;
  T chain1[kPanel * lanes], chain2[kPanel * lanes];
  for (i64 i = 0; i < rows; i += visit) {
    const i64 end = least(i + visit, rows);
    const bool starts = i % kChain == 0, ends = end % kChain == 0 || end == rows;
    each_strip<T>(panel, [&](auto strip, i64 k) {
      auto add_row = f(strip, k);
      ColumnSums<T> chain;
      if (!starts) {
        FNN_EACH(v) chain.first[v] = load(chain1 + k + v * lanes);
        FNN_EACH(v) chain.second[v] = load(chain2 + k + v * lanes);
      }
      for (i64 row = i; row < end; row++) {
        FNN_EACH(v) add_row(row, v, chain.first[v], chain.second[v]);
      }
      if (!ends) {
        FNN_EACH(v) store(chain1 + k + v * lanes, chain.first[v]);
        FNN_EACH(v) store(chain2 + k + v * lanes, chain.second[v]);
        return;
      }
      auto add = [&](T* total, int v, Vec<T> part) {
        strip.store(total, v, i < kChain ? part : strip.load(total, v) + part);
      };
      FNN_EACH(v) add(first + k, v, chain.first[v]);
      FNN_EACH(v) add(second + k, v, chain.second[v]);
    });
  }
}

}  // namespace
