// What batch_norm and batch_norm_backward share.
#pragma once
#include <string.h>

#include "simd/columns.h"
#include "simd/each.h"
#include "simd/stream.h"

namespace {

// Vecs of a panel that has to stay in the cache from its sums to its result.
enum { kNarrow = 8 };
// Rows of a strip at a time, by rows: nearly in order. From memory it is one row.
enum : i64 { kFew = 4 };

// Inputs (n, c) are worked on in one of two orders, with the same bits. By columns: a thread takes
// a panel of them from sums to result. By rows, where there is a block of them for every thread:
// whole rows are read in order, which is what prefetching is made for, and panels of a width that
// is a power of two don't fight for the same sets of a cache.
inline bool by_rows(const Team& team, i64 n) {
  return n >= kBlock * (team.size > 2 ? team.size : 2);
}
template <class T> bool beyond_caches(i64 n, i64 c) {
  return n * c * i64(sizeof(T)) >= i64(16) << 20;
}

// Whether whole strips are aligned in every row.
template <class T> bool streams(const T* p, i64 c) {
  return uintptr_t(p) % sizeof(T) == 0 && c % Vec<T>::lanes == 0;
}

template <class T, class Strip>
FNN_INLINE void put(bool streamed, Strip strip, T* p, int v, Vec<T> x) {
  if (streamed && strip.whole) return stream(p + v * Vec<T>::lanes, x);
  strip.store(p, v, x);
}

constexpr Team kAlone = {0, 1, nullptr};

// f(first, rows) for the rows of this thread, the last block first: it may still be in the cache.
template <class F> FNN_INLINE void share_rows_backwards(const Team& team, i64 n, i64 block, F&& f) {
  share_range(team, n, kChain, [&](i64 begin, i64 end) {
    for (i64 stop = end; stop > begin; stop -= least(block, stop - begin)) {
      f(stop - least(block, stop - begin), least(block, stop - begin));
    }
  });
}

// With trailing axes a thread takes whole channels. This holds consecutive values of one channel,
// laid out as rows of a wide strip.
template <class T> struct Piece {
  static constexpr i64 width = kWide * Vec<T>::lanes, capacity = 64 * width;
  alignas(64) T values[capacity];
  i64 count;

  i64 rows() const { return (count + width - 1) / width; }

  // Takes values `from` and on of a channel that lies in runs of s, `stride` apart.
  void gather(const T* x, i64 s, i64 stride, i64 from, i64 end) {
    count = least(capacity, end - from);
    for (i64 done = 0, run; done < count; done += run) {
      const i64 within = (from + done) % s;
      run = least(s - within, count - done);
      memcpy(values + done, x + (from + done) / s * stride + within, size_t(run) * sizeof(T));
    }
  }

  // Fills up the last row.
  void pad(T filler) {
    for (i64 i = count; i < rows() * width; i++) values[i] = filler;
  }
};

// One number from the lanes of a wide strip.
template <class T> T fold(const T* x) {
  constexpr int lanes = Vec<T>::lanes;
  return sum((load(x) + load(x + 2 * lanes)) + (load(x + lanes) + load(x + 3 * lanes)));
}

}  // namespace
