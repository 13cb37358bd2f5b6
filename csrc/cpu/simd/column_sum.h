// Sums over the rows of a matrix, cut into chains of additions as a product's terms are, the chains
// added in order. Four go side by side so that narrow matrices are not bound by the latency of one
// addition.
#pragma once
#include "../../core/matmul_plan.h"
#include "vec.h"

namespace {

constexpr i64 kAbreast = 4;

// A column group of one Vec (`count` columns), rows of stride c.
template <class T> Vec<T> sum_rows(const T* x, i64 n, i64 c, i64 count) {
  Vec<T> total = zero<T>();
  const Mask<T> mask = first_n<T>(count);
  const i64 chain = matmul_terms(n);
  i64 i = 0;
  for (; i + kAbreast * chain <= n; i += kAbreast * chain) {
    Vec<T> side[kAbreast] = {zero<T>(), zero<T>(), zero<T>(), zero<T>()};
    for (i64 r = 0; r < chain; r++) {
#pragma GCC unroll 4
      for (i64 s = 0; s < kAbreast; s++) {
        side[s] = side[s] + load_masked(x + (i + s * chain + r) * c, mask);
      }
    }
    for (i64 s = 0; s < kAbreast; s++) total = total + side[s];
  }
  for (; i < n; i += chain) {
    Vec<T> sum = zero<T>();
    for (i64 r = i; r < n && r < i + chain; r++) sum = sum + load_masked(x + r * c, mask);
    total = total + sum;
  }
  return total;
}

template <class T> void sum_columns(const T* x, i64 n, i64 c, T* y, const Team& team) {
  const i64 lanes = Vec<T>::lanes;
  share(team, (c + lanes - 1) / lanes, [&](i64 task) {
    const i64 j = task * lanes, count = c - j < lanes ? c - j : lanes;
    store_n(y + j, sum_rows(x + j, n, c, count), count);
  });
}

}  // namespace
