// Column sums of a matrix in one pass: rows in blocks of 256, each block one chain of additions,
// the blocks added in order. Four blocks go side by side so that narrow matrices are not bound by
// the latency of one addition.
#include "simd/vec.h"

namespace {

enum : i64 { kBlock = 256, kSide = 4 };

// A column group of one Vec (`count` columns), rows of stride c.
template <class T> Vec<T> sum_rows(const T* x, i64 n, i64 c, i64 count) {
  Vec<T> total = zero<T>();
  const Mask<T> mask = first_n<T>(count);
  i64 i = 0;
  for (; i + kSide * kBlock <= n; i += kSide * kBlock) {
    Vec<T> side[kSide] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};
    for (i64 r = 0; r < kBlock; r++) {
#pragma GCC unroll 4
      for (i64 s = 0; s < kSide; s++) {
        side[s] = side[s] + load_masked(x + (i + s * kBlock + r) * c, mask);
      }
    }
    for (i64 s = 0; s < kSide; s++) total = total + side[s];
  }
  for (; i < n; i += kBlock) {
    Vec<T> block = zero<T>();
    for (i64 r = i; r < n && r < i + kBlock; r++) block = block + load_masked(x + r * c, mask);
    total = total + block;
  }
  return total;
}

}  // namespace

KERNEL(column_sum) {
  const i64 lanes = Vec<T>::lanes;
  share(team, (a.c + lanes - 1) / lanes, [&](i64 task) {
    const i64 j = task * lanes, count = a.c - j < lanes ? a.c - j : lanes;
    store_n(a.y + j, sum_rows(a.x + j, a.n, a.c, count), count);
  });
}
