// What a training step asks of a whole gradient: its norm, clipping by it (Pascanu, Mikolov &
// Bengio 2013), and whether it is finite. One read; clipping writes only when there is something
// to clip. Squares of floats are exact as doubles and can't overflow.
#include "simd/reduce.h"

namespace {

struct Squares {
  Vec<double> a = zero<double>(), b = zero<double>();

  void add(Vec<float> v) {
    a = fma(widen_lo(v), widen_lo(v), a);
    b = fma(widen_hi(v), widen_hi(v), b);
  }
  void add(Vec<double> v) { a = fma(v, v, a); }
};

template <class T> double norm(const T* x, i64 n, char* scratch, const Team& team) {
  return sqrt(sum_chunks(team, n, reinterpret_cast<double*>(scratch), [&](i64 begin, i64 end) {
    Squares even, odd;
    i64 i = begin;
    for (; i + 2 * Vec<T>::lanes <= end; i += 2 * Vec<T>::lanes) {
      even.add(load(x + i));
      odd.add(load(x + i + Vec<T>::lanes));
    }
    each_vec<T>(i, end, [&](auto at) { even.add(at.load(x)); });
    return sum((even.a + odd.a) + (even.b + odd.b));
  }));
}

}  // namespace

KERNEL(l2_norm) {
  double length = norm(a.x, a.n, a.scratch, team);
  if (team.rank == 0) *a.norm = T(length);
}

KERNEL(clip_grad_norm) {
  const double length = norm(a.grad, a.n, a.scratch, team);
  const double factor = a.max_norm / (length + 1e-6);
  if (team.rank == 0) *a.norm = T(length);
  if (factor >= 1) return;  // else it is smaller or NaN
  const Vec<T> shrink = set1(T(factor));
  share_range(team, a.n, kChunk, [&](i64 begin, i64 end) {
    each_aligned_vec(a.grad, begin, end,
                     [&](auto at) { at.store(a.grad, at.load(a.grad) * shrink); });
  });
}

KERNEL(first_nonfinite) {
  i64* found = reinterpret_cast<i64*>(a.scratch);
  const i64 chunks = (a.n + kChunk - 1) / kChunk;
  share(team, chunks, [&](i64 k) {
    i64 begin = k * kChunk, end = begin + kChunk < a.n ? begin + kChunk : a.n;
    i64 at = find_vec<T>(begin, end, [&](auto at) {
      Vec<T> x = at.load(a.x);
      return x - x != zero<T>();
    });
    found[k] = at < end ? at : -1;
  });
  barrier(team);
  if (team.rank != 0) return;
  i64 k = 0;
  while (k < chunks && found[k] < 0) k++;
  *a.index = k < chunks ? found[k] : -1;
}
