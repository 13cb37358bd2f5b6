// Sums over many elements, within about 1 u and the same for every number of threads. Lanes add in
// twice the precision of T: floats in groups of four Vecs and then as doubles (converting every
// Vec would cost as much as most bodies do), doubles with the error of each addition kept (Knuth,
// TAOCP 2, 4.2.2). Across threads, chunks of fixed size leave one partial sum each.
#pragma once
#include "each.h"

namespace {

template <class T> struct LaneSum;

template <> struct LaneSum<float> {
  Vec<double> lo = zero<double>(), hi = zero<double>();

  void add(Vec<float> v) {
    lo = lo + widen_lo(v);
    hi = hi + widen_hi(v);
  }
  double total() const { return sum(lo + hi); }
  Vec<float> lanes() const { return narrow(lo, hi); }
  void store(double* p) const {
    ::store(p, lo);
    ::store(p + Vec<double>::lanes, hi);
  }
};

template <> struct LaneSum<double> {
  Vec<double> high = zero<double>(), low = zero<double>();

  void add(Vec<double> v) {
    Vec<double> s = high + v, added = s - high;
    low = low + ((high - (s - added)) + (v - added));
    high = s;
  }
  // Folds like sum(high), with the errors.
  double total() const {
    double s[Vec<double>::lanes], error = sum(low);
    ::store(s, high);
    for (int half = Vec<double>::lanes / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; i++) {
        const double a = s[i], b = s[i + half];
        s[i] = a + b;
        const double added = s[i] - a;
        error += (a - (s[i] - added)) + (b - added);
      }
    }
    return s[0] - s[0] == 0 ? s[0] + error : s[0];  // an infinite sum's error is NaN
  }
  Vec<double> lanes() const { return high + low; }
  void store(double* p) const { ::store(p, lanes()); }
};

// Sum of f(at) over begin..end; lanes of the last Vec that lie beyond the end don't count.
template <class T, class F> FNN_INLINE double sum_vecs(i64 begin, i64 end, F&& f) {
  constexpr i64 lanes = Vec<T>::lanes;
  LaneSum<T> total;
  i64 i = begin;
  for (; i + 4 * lanes <= end; i += 4 * lanes) {
    Vec<T> a = f(WholeVec<T>{i}), b = f(WholeVec<T>{i + lanes});
    Vec<T> c = f(WholeVec<T>{i + 2 * lanes}), d = f(WholeVec<T>{i + 3 * lanes});
    total.add((a + b) + (c + d));
  }
  for (; i + lanes <= end; i += lanes) total.add(f(WholeVec<T>{i}));
  if (i < end) { total.add(select(first_n<T>(end - i), f(PartVec<T>{i, end - i}), zero<T>())); }
  return total.total();
}

// Largest f(at) over begin..end: NaN is skipped, -inf stands for nothing.
template <class T, class F> FNN_INLINE T max_vecs(i64 begin, i64 end, F&& f) {
  constexpr i64 lanes = Vec<T>::lanes;
  const Vec<T> least = set1(T(-INFINITY));
  Vec<T> largest = least;
  i64 i = begin;
  for (; i + lanes <= end; i += lanes) largest = max(f(WholeVec<T>{i}), largest);
  if (i < end) {
    largest = max(select(first_n<T>(end - i), f(PartVec<T>{i, end - i}), least), largest);
  }
  return max_lane(largest);
}

// Sum over 0..n of f(begin, end), the part of one chunk; every thread gets the total. `partials`
// has room for n / kChunk + 1 doubles and must not be written again before the next barrier.
template <class F> FNN_INLINE double sum_chunks(const Team& team, i64 n, double* partials, F&& f) {
  i64 chunks = (n + kChunk - 1) / kChunk;
  share(team, chunks,
        [&](i64 k) { partials[k] = f(k * kChunk, (k + 1) * kChunk < n ? (k + 1) * kChunk : n); });
  barrier(team);
  double total = 0;
  for (i64 k = 0; k < chunks; k++) total += partials[k];
  return total;
}

}  // namespace
