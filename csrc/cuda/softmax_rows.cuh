// exp(x - max) and its sum over rows: the core of softmax and of its losses. Exponentials are kept
// 2^kLift too large until the last multiplication, so that each takes one scaling only, and a
// denormal result is rounded once (as in simd/activations.h).
#pragma once
#include "row.cuh"

namespace {

// 2^kLift exp(x) for x <= 0; what is far too small for T becomes nearly 0.
template <class T> __device__ __forceinline__ Vec<T> exp_lifted(Vec<T> x) {
  const Scaled<T> e = exp_shifted<kLift<T>>(max(set1(-kVanished<T>), x));
  return e.value * e.power;
}

template <class T, class R> struct Exponentials {
  typename R::Values x;  // replaced by the exponentials where they are kept
  T max;
  double sum;  // lifted

  // Lifted, too.
  __device__ __forceinline__ Vec<T> operator[](const typename R::At& at) const {
    return R::keeps ? x[at] : exp_lifted(x[at] - set1(max));
  }
};

// Largest element and sum in one reading: what was summed is scaled when a larger element comes
// (Milakov & Gimelshein 2018).
template <class T, class R>
__device__ __forceinline__ void stream_sum(const R& row, Exponentials<T, R>& e) {
  T most = T(-INFINITY);
  double sum = 0;
  const auto rescale = [](T from, T to) {
    return from == to ? 1 : double(exp_lifted(set1(from - to)).v[0]) * double(kUnlift<T>);
  };
  row.each([&](const typename R::At& at) {
    const Vec<T> x = at.only(e.x[at], T(-INFINITY));
    const T largest = max_lane(x);
    if (largest > most) {
      sum *= rescale(most, largest);
      most = largest;
    }
    // -inf before all others must not spoil the sum; a row of nothing else becomes NaN at last.
    const Vec<T> shift = set1(most == T(-INFINITY) ? T(0) : most);
    sum += double(::sum(at.only(exp_lifted(x - shift))));
  });
  e.max = row.largest(most);
  sum *= rescale(most, e.max);
  e.sum = row.total(sum);
}

// keep_exps: or else x stays in the registers.
template <bool keep_exps, class R>
__device__ __forceinline__ auto exponentials(const R& row, const typename R::Values& x) {
  Exponentials<typename R::Number, R> e;
  e.x = x;
  if constexpr (R::keeps) {
    e.max = row.max([&](const auto& at) { return x[at]; });
    e.sum = row.sum([&](const auto& at) {
      const auto exps = exp_lifted(x[at] - set1(e.max));
      if constexpr (keep_exps) e.x.kept[at.k] = exps;
      return exps;
    });
  } else {
    stream_sum(row, e);
  }
  return e;
}

}  // namespace
