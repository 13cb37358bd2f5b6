// The activations and their derivatives on vectors: used by activations.cpp and, as the last step
// of a product, by matmul.cpp. Relative accuracy is kept in the tails, down to the denormals: no
// 1 - tanh or 1 + erf, and what may be denormal is rounded once. At infinity and NaN they do as
// PyTorch's: gelu, gelu_tanh and silu are NaN at -inf.
#pragma once
#include "math.h"

// ---- piecewise linear ----------------------------------------------------------------------

template <class T> FNN_INLINE Vec<T> relu(Vec<T> x) { return max(zero<T>(), x); }
template <class T> FNN_INLINE Vec<T> relu_backward(Vec<T> dy, Vec<T> x) {
  return select(x <= zero<T>(), zero<T>(), dy);
}

template <class T> FNN_INLINE Vec<T> leaky_relu(Vec<T> x, Vec<T> negative_slope) {
  return select(x > zero<T>(), x, x * negative_slope);
}
template <class T>
FNN_INLINE Vec<T> leaky_relu_backward(Vec<T> dy, Vec<T> x, Vec<T> negative_slope) {
  return select(x > zero<T>(), dy, dy * negative_slope);
}

template <class T> FNN_INLINE Vec<T> hard_sigmoid(Vec<T> x) {
  Vec<T> shifted = max(zero<T>(), x + set1(T(3)));
  return min(set1(T(6)), shifted) * set1(T(1) / 6);
}
template <class T> FNN_INLINE Vec<T> hard_sigmoid_backward(Vec<T> dy, Vec<T> x) {
  return select(abs(x) < set1(T(3)), dy * set1(T(1) / 6), zero<T>());
}

// ---- sigmoid and its relatives -------------------------------------------------------------

// 2^-shift (1 + exp(-x)): 1 + exp(-x) overflows where the sigmoid is still a denormal.
template <class T> constexpr T kShift = sizeof(T) == 4 ? 32 : 64;
template <class T> constexpr T kUnshift = sizeof(T) == 4 ? T(0x1p-32) : T(0x1p-64);
template <class T> FNN_INLINE Vec<T> sigmoid_denominator(Scaled<T> e) {
  return scale(e.value, e.exponent - set1(kShift<T>)) + set1(kUnshift<T>);
}

template <class T> FNN_INLINE Vec<T> sigmoid(Vec<T> x) {
  return set1(kUnshift<T>) / sigmoid_denominator(exp_scaled(-x));
}

// x sigmoid(z) from z's denominator. The quotient overflows only where the result is x.
template <class T> FNN_INLINE Vec<T> times_sigmoid(Vec<T> x, Vec<T> denominator) {
  return min(max(x, zero<T>()), x / denominator * set1(kUnshift<T>));
}

template <class T> FNN_INLINE Vec<T> silu(Vec<T> x) {
  return times_sigmoid(x, sigmoid_denominator(exp_scaled(-x)));
}

// sigmoid(x) and sigmoid(-x) = 1 - sigmoid(x), both relatively accurate, from e = exp(-|x|).
template <class T> struct Sides { Vec<T> here, there; };
template <class T> FNN_INLINE Sides<T> sigmoid_sides(Vec<T> x, Vec<T> e) {
  Vec<T> large = set1(T(1)) / (set1(T(1)) + e), small = e * large;
  Mask<T> negative = x < zero<T>();
  return {select(negative, small, large), select(negative, large, small)};
}

// factor sigmoid(x) sigmoid(-x) = factor e / (1 + e)^2 with e = exp(-|x|)
template <class T> FNN_INLINE Vec<T> sigmoid_slope(Vec<T> x, T factor) {
  Vec<T> e = exp(-abs(x));
  return set1(factor) * e / fma(e, e + set1(T(2)), set1(T(1)));
}
template <class T> FNN_INLINE Vec<T> sigmoid_backward(Vec<T> dy, Vec<T> x) {
  return dy * sigmoid_slope(x, T(1));
}
template <class T> FNN_INLINE Vec<T> tanh_backward(Vec<T> dy, Vec<T> x) {
  return dy * sigmoid_slope(x + x, T(4));
}
template <class T> FNN_INLINE Vec<T> silu_backward(Vec<T> dy, Vec<T> x) {
  Sides<T> s = sigmoid_sides(x, exp(-abs(x)));
  return dy * fma(x * s.here, s.there, s.here);
}

// log(1 + exp(z)) / beta with z = beta x.
template <class T>
FNN_INLINE Vec<T> softplus(Vec<T> x, Vec<T> beta, Vec<T> threshold) {
  Vec<T> z = beta * x;
  Vec<T> y = (max(zero<T>(), z) + log1p_unit(exp(-abs(z)))) / beta;
  return select(z > threshold, x, y);
}
template <class T>
FNN_INLINE Vec<T> softplus_backward(Vec<T> dy, Vec<T> x, Vec<T> beta, Vec<T> threshold) {
  Vec<T> z = beta * x;
  return select(z > threshold, dy, dy * sigmoid(z));
}

// ---- gelu with tanh ------------------------------------------------------------------------

// z = 2 sqrt(2/pi) (x + 0.044715 x^3), gelu_tanh being x sigmoid(z), and z's rounding error, which
// exp would multiply by z. `linear` has so few bits that `inner` minus it is exact.
template <class T> struct GeluTanhArgument { Vec<T> z, low; };
template <class T> constexpr T kGeluTanhLinear = sizeof(T) == 4 ? T(0x1.9884p+0) : T(0x1.9884533d4p+0);
template <class T> constexpr T kGeluTanhCubic = T(0x1.2444f2a4d8b4bp-4);

template <class T> FNN_INLINE GeluTanhArgument<T> gelu_tanh_argument(Vec<T> x) {
  constexpr T linear_low = T(0x1.9884533d43651p+0 - double(kGeluTanhLinear<T>) - 0x1.cbc0d3p-54);
  constexpr T cubic_low = T(0x1.2444f2a4d8b4bp-4 - double(kGeluTanhCubic<T>) - 0x1.6c843ap-61);
  Vec<T> linear = set1(kGeluTanhLinear<T>), cubic = set1(kGeluTanhCubic<T>);
  Vec<T> square = x * x, square_low = fma(x, x, -square);
  Vec<T> inner = fma(cubic, square, linear);
  Vec<T> low = fma(square, set1(cubic_low), set1(linear_low));
  low = fma(square_low, cubic, low) + fma(cubic, square, linear - inner);
  Vec<T> z = x * inner;
  return {z, fma(x, low, fma(x, inner, -z))};
}

// Beyond this, sigmoid(z) is 0 or 1 and its slope 0.
template <class T> constexpr T kGeluTanhEnd = sizeof(T) == 4 ? 12 : 22;

template <class T> FNN_INLINE Vec<T> gelu_tanh(Vec<T> x) {
  Vec<T> end = set1(kGeluTanhEnd<T>);
  GeluTanhArgument<T> g = gelu_tanh_argument(max(-end, min(end, x)));
  return times_sigmoid(x, sigmoid_denominator(exp_scaled(-g.z, -g.low)));
}

// sigmoid(z) + x dz/dx sigmoid(z) sigmoid(-z)
template <class T> FNN_INLINE Vec<T> gelu_tanh_backward(Vec<T> dy, Vec<T> x) {
  Vec<T> size = min(set1(kGeluTanhEnd<T>), abs(x));
  GeluTanhArgument<T> g = gelu_tanh_argument(size);
  Scaled<T> e = exp_scaled(-g.z, -g.low);
  Sides<T> s = sigmoid_sides(x, scale(e.value, e.exponent));
  Vec<T> slope = fma(size * size, set1(3 * kGeluTanhCubic<T>), set1(T(0x1.9884533d43651p+0)));
  return dy * fma(copy_sign(size, x) * slope * s.here, s.there, s.here);
}

// ---- gelu ----------------------------------------------------------------------------------

// At size = min(|x|, end): exp(-size^2 / 2) and erfcx(size / sqrt(2)) / 2, whose product is the
// normal distribution's share beyond |x|. It has vanished at the end.
template <class T> struct NormalTail { Vec<T> size; Scaled<T> density; Vec<T> ratio; };
template <class T> FNN_INLINE NormalTail<T> normal_tail(Vec<T> x) {
  constexpr T sqrt_half = T(0x1.6a09e667f3bcdp-1);
  const auto& table = choose<T>(kErfcx_float, kErfcx_double);
  Vec<T> half = set1(T(0.5)), size = min(set1(table.limit * T(1.414)), abs(x));
  Vec<T> square = size * size, square_low = fma(size, size, -square);
  IntVec<T> i = find_piece(table, size * set1(sqrt_half));
  Vec<T> t = fma(size, set1(sqrt_half), -lookup(table.rows[0], i));
  return {size, exp_scaled(-half * square, -half * square_low), half * erfcx(i, t).value};
}

// x minus |x| times the tail for x > 0, minus the latter for x < 0; zeros keep their sign.
template <class T> FNN_INLINE Vec<T> gelu(Vec<T> x) {
  NormalTail<T> tail = normal_tail(x);
  Vec<T> missing = scale(tail.size * (tail.density.value * tail.ratio), tail.density.exponent);
  Vec<T> y = max(set1(T(-0.0)), x) - missing;
  return select(x > set1(T(-INFINITY)), y, set1(T(NAN)));
}

// Phi(x) + x phi(x); for x < 0 that is exp(-x^2 / 2) (erfcx(|x| / sqrt(2)) / 2 - |x| / sqrt(2 pi)).
template <class T> FNN_INLINE Vec<T> gelu_backward(Vec<T> dy, Vec<T> x) {
  constexpr T density_at_0 = T(0x1.9884533d43651p-2);
  NormalTail<T> tail = normal_tail(x);
  Vec<T> difference = fnma(tail.size, set1(density_at_0), tail.ratio);
  Vec<T> left = scale(tail.density.value * difference, tail.density.exponent);
  return dy * select(x < zero<T>(), left, set1(T(1)) - left);
}

// ---- by index ------------------------------------------------------------------------------

// The activation of ops.def's CHOICE with its default parameters; -1 is none.
template <class T> FNN_INLINE Vec<T> activate(i64 activation, Vec<T> x) {
  switch (activation) {
    case 0: return relu(x);
    case 1: return leaky_relu(x, set1(T(0.01)));
    case 2: return sigmoid(x);
    case 3: return hard_sigmoid(x);
    case 4: return tanh(x);
    case 5: return gelu(x);
    case 6: return gelu_tanh(x);
    case 7: return silu(x);
    case 8: return softplus(x, set1(T(1)), set1(T(20)));
    default: return x;
  }
}
