// Losses of single elements with their gradients, on vectors: used by the elementwise losses of
// both devices.
#pragma once
#include "math.h"

template <class T> struct LossAndGradient {
  Vec<T> loss, gradient;
};

// With s the sigmoid, (1 - t) softplus(z) + pos_weight t softplus(-z); softplus(z) is computed as
// max(z, 0) + log1p(exp(-|z|)), and the gradient (1 - t) s(z) - pos_weight t s(-z) keeps its
// relative precision in both tails.
template <class T>
FNN_INLINE LossAndGradient<T> sigmoid_cross_entropy(Vec<T> z, Vec<T> t, Vec<T> pos_weight) {
  const Vec<T> one = set1(T(1)), none = zero<T>();
  Vec<T> negative = one - t, positive = pos_weight * t;
  Vec<T> small = exp(-abs(z)), large_s = one / (one + small), small_s = small * large_s;
  Mask<T> right = z > none;
  Vec<T> linear = max(z, none) * negative + max(-z, none) * positive;
  Vec<T> s = select(right, large_s, small_s), s_of_minus = select(right, small_s, large_s);
  return {fma(log1p_unit(small), negative + positive, linear),
          s * negative - s_of_minus * positive};
}

template <class T> FNN_INLINE LossAndGradient<T> squared_error(Vec<T> x, Vec<T> t) {
  Vec<T> d = x - t;
  return {d * d, d + d};
}

template <class T> FNN_INLINE LossAndGradient<T> absolute_error(Vec<T> x, Vec<T> t) {
  const Vec<T> one = set1(T(1));
  Vec<T> d = x - t;  // where it is 0 or NaN it is its own sign
  return {abs(d), select(d > zero<T>(), one, select(d < zero<T>(), -one, d))};
}
