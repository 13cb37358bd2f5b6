// Accuracy: how many rows have their largest score at the target. With a known target no argmax is
// needed: the row is right unless an element before the target is at least as large or one after it
// larger, and the search ends at the first Vec that holds one. NaN counts as the largest value, the
// first of equals wins (as torch.argmax). One read of the scores.
#include "simd/reduce.h"

namespace {

// Index of the first element of x[0..c) for which bit `lane` of f(at) is set, else c.
template <class T, class F> FNN_INLINE i64 find(i64 c, F&& f) {
  i64 i = 0;
  for (; i + Vec<T>::lanes <= c; i += Vec<T>::lanes) {
    if (unsigned found = f(WholeVec<T>{i})) return i + __builtin_ctz(found);
  }
  if (i == c) return c;
  const unsigned found = f(PartVec<T>{i, c - i}) | 1u << (c - i);
  return i + __builtin_ctz(found);
}

// Both comparisons of every Vec, so that for few classes there is no branch to predict.
template <class T> bool is_argmax(const T* x, i64 c, i64 target) {
  if (target < 0 || target >= c) return false;
  const Vec<T> best = set1(x[target]);
  const bool nan = x[target] != x[target];
  return find<T>(c, [&](auto at) {
           const Vec<T> v = at.load(x);
           const i64 left = target - at.i;
           const unsigned before = left <= 0 ? 0 : left >= Vec<T>::lanes ? ~0u : (1u << left) - 1;
           if (nan) return mask_bits(isnan(v)) & before;
           return (mask_bits(!(v < best)) & before) | (mask_bits(!(v <= best)) & ~before);
         }) == c;
}

template <class T> i64 argmax(const T* x, i64 c) {
  const i64 nan = find<T>(c, [&](auto at) { return mask_bits(isnan(at.load(x))); });
  if (nan < c) return nan;
  const Vec<T> best = set1(max_vecs<T>(0, c, [&](auto at) { return at.load(x); }));
  return find<T>(c, [&](auto at) { return mask_bits(at.load(x) == best); });
}

// Sum of the integers f(begin, end) over pieces of 0..n, into *count. As integers add in any order,
// the pieces are simply as many as the workspace has slots.
template <class F>
FNN_INLINE void count_pieces(const Team& team, i64 n, char* scratch, i64* count, F&& f) {
  i64* partial = reinterpret_cast<i64*>(scratch);
  const i64 pieces = reduction_scratch(n) / i64(sizeof(i64));
  share(team, pieces, [&](i64 k) { partial[k] = f(n * k / pieces, n * (k + 1) / pieces); });
  barrier(team);
  if (team.rank != 0) return;
  i64 total = 0;
  for (i64 k = 0; k < pieces; k++) total += partial[k];
  *count = total;
}

}  // namespace

KERNEL(count_correct) {
  count_pieces(team, a.n, a.scratch, a.count, [&](i64 begin, i64 end) {
    i64 right = 0;
    for (i64 i = begin; i < end; i++) {
      i64 target = a.labels ? a.labels[i] : argmax(a.probabilities + i * a.c, a.c);
      right += is_argmax(a.logits + i * a.c, a.c, target);
    }
    return right;
  });
}

KERNEL(count_correct_binary) {
  const Vec<T> half = set1(T(0.5));
  count_pieces(team, a.n, a.scratch, a.count, [&](i64 begin, i64 end) {
    i64 wrong = 0;
    each_vec<T>(begin, end, [&](auto at) {
      // Lanes beyond the end are 0 in both arrays, and agree.
      Mask<T> guess = at.load(a.logits) > zero<T>(), truth = at.load(a.targets) > half;
      wrong += __builtin_popcount(mask_bits(guess) ^ mask_bits(truth));
    });
    return end - begin - wrong;
  });
}
