// The activations and their derivatives on vectors: used by activations.cpp and, as the last step
// of a product, by matmul.cpp. Relative accuracy is kept in the tails, down to the denormals: no
// 1 - tanh or 1 + erf; exponentials are kept 2^kLift too large until the last multiplication, so
// that a denormal result is rounded once. At infinity and NaN they do as PyTorch's: gelu, gelu_tanh
// and silu are NaN at -inf.
#pragma once
#include "math.h"

template <class T> constexpr int kLift = sizeof(T) == 4 ? 40 : 80;
template <class T> constexpr T kUnlift = sizeof(T) == 4 ? T(0x1p-40) : T(0x1p-80);
template <class T> constexpr T kVanished = sizeof(T) == 4 ? 112 : 755;  // x^2 exp(-x) rounds to 0

// max(x, 0), but NaN at -inf.
template <class T> FNN_INLINE Vec<T> positive_part(Vec<T> x) { return x - min(x, zero<T>()); }

// The derivative at x, from that at -|x|, of a function with f(x) - f(-x) = x.
template <class T> FNN_INLINE Vec<T> mirrored(Vec<T> x, Vec<T> left) {
  return select(x < zero<T>(), left, set1(T(1)) - left);
}

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

// ---- sigmoid and tanh ----------------------------------------------------------------------

// x where 2^-kLift exp(-x) is in range; below, sigmoid(x) and x sigmoid(x) are 0, above 1 and x.
template <class T> FNN_INLINE Vec<T> sigmoid_clamp(Vec<T> x) {
  constexpr T highest = sizeof(T) == 4 ? 55 : 600;
  return max(set1(-kVanished<T>), min(set1(highest), x));
}

// 2^-kLift (1 + exp(-x - low)): 1 + exp(-x) overflows where sigmoid(x) is still a denormal.
template <class T> FNN_INLINE Vec<T> sigmoid_denominator(Vec<T> x) {
  Scaled<T> e = exp_shifted<-kLift<T>>(-x);
  return fma(e.value, e.power, set1(kUnlift<T>));
}
template <class T> FNN_INLINE Vec<T> sigmoid_denominator(Vec<T> x, Vec<T> low) {
  Scaled<T> e = exp_shifted<-kLift<T>>(-x, -low);
  return fma(e.value, e.power, set1(kUnlift<T>));
}

template <class T> FNN_INLINE Vec<T> sigmoid(Vec<T> x) {
  return set1(kUnlift<T>) / sigmoid_denominator(sigmoid_clamp(x));
}

// 2^kLift exp(-|x|)
template <class T> FNN_INLINE Vec<T> exp_of_size(Vec<T> x) {
  Scaled<T> e = exp_shifted<kLift<T>>(-min(set1(kVanished<T>), abs(x)));
  return e.value * e.power;
}

// factor sigmoid(x) sigmoid(-x) = factor e / (1 + e)^2 with e = exp(-|x|).
template <class T> FNN_INLINE Vec<T> sigmoid_slope(Vec<T> x, T factor) {
  Vec<T> lifted = exp_of_size(x), e = lifted * set1(kUnlift<T>);
  return lifted / fma(e, e + set1(T(2)), set1(T(1))) * set1(factor * kUnlift<T>);
}
template <class T> FNN_INLINE Vec<T> sigmoid_backward(Vec<T> dy, Vec<T> x) {
  return dy * sigmoid_slope(x, T(1));
}
template <class T> FNN_INLINE Vec<T> tanh_backward(Vec<T> dy, Vec<T> x) {
  return dy * sigmoid_slope(x + x, T(4));
}

// From their outputs; not accurate where those are near their limits.
template <class T> FNN_INLINE Vec<T> sigmoid_backward_from_output(Vec<T> dy, Vec<T> y) {
  return dy * fnma(y, y, y);
}
template <class T> FNN_INLINE Vec<T> tanh_backward_from_output(Vec<T> dy, Vec<T> y) {
  return dy * fnma(y, y, set1(T(1)));
}

// ---- x sigmoid(z): silu, and gelu with tanh ------------------------------------------------

// From z's denominator; x must be clamped below. Where the quotient overflows, the result is x.
template <class T> FNN_INLINE Vec<T> times_sigmoid(Vec<T> x, Vec<T> clamped, Vec<T> denominator) {
  return min(clamped / denominator * set1(kUnlift<T>), positive_part(x));
}

// The derivative of x sigmoid(z) at -|x|, sigmoid(z) (1 + x dz/dx sigmoid(-z)), from change =
// |x dz/dx| and lifted = 2^kLift exp(-|z|).
template <class T> FNN_INLINE Vec<T> times_sigmoid_slope(Vec<T> change, Vec<T> lifted) {
  Vec<T> one = set1(T(1)), larger = one / fma(lifted, set1(kUnlift<T>), one);
  return lifted * larger * fnma(change, larger, one) * set1(kUnlift<T>);
}

template <class T> FNN_INLINE Vec<T> silu(Vec<T> x) {
  Vec<T> clamped = sigmoid_clamp(x);
  return times_sigmoid(x, max(clamped, x), sigmoid_denominator(clamped));
}
template <class T> FNN_INLINE Vec<T> silu_backward(Vec<T> dy, Vec<T> x) {
  Vec<T> size = min(set1(kVanished<T>), abs(x));
  return dy * mirrored(x, times_sigmoid_slope(size, exp_of_size(size)));
}

// z = 2 sqrt(2/pi) (x + 0.044715 x^3), gelu_tanh being x sigmoid(z), and z's rounding error, which
// exp would multiply by z. `linear` has so few bits that `inner` minus it is exact.
template <class T> struct GeluTanh {
  Vec<T> z, low;
};
template <class T> constexpr T kLinear = sizeof(T) == 4 ? T(0x1.9884p+0) : T(0x1.9884533d4p+0);
template <class T> constexpr T kCubic = T(0x1.2444f2a4d8b4bp-4);
template <class T> FNN_INLINE GeluTanh<T> gelu_tanh_argument(Vec<T> x) {
  constexpr T linear_low = T(0x1.9884533d43651p+0 - double(kLinear<T>) - 0x1.cbc0d3p-54);
  constexpr T cubic_low = T(0x1.2444f2a4d8b4bp-4 - double(kCubic<T>) - 0x1.6c843ap-61);
  Vec<T> linear = set1(kLinear<T>), cubic = set1(kCubic<T>);
  Vec<T> square = x * x, square_low = fma(x, x, -square);
  Vec<T> inner = fma(cubic, square, linear);
  Vec<T> low = fma(square, set1(cubic_low), set1(linear_low));
  low = fma(square_low, cubic, low) + fma(cubic, square, linear - inner);
  Vec<T> z = x * inner;
  return {z, fma(x, low, fma(x, inner, -z))};
}

// Where |z| is just below kVanished; and where sigmoid(z) is 1, but exp_shifted still in range.
template <class T> constexpr T kGeluTanhEnd = sizeof(T) == 4 ? T(10.95) : T(21.6);
template <class T> constexpr T kGeluTanhOne = sizeof(T) == 4 ? T(8.5) : T(19.5);

template <class T> FNN_INLINE Vec<T> gelu_tanh(Vec<T> x) {
  Vec<T> clamped = max(set1(-kGeluTanhEnd<T>), x);
  GeluTanh<T> g = gelu_tanh_argument(min(set1(kGeluTanhOne<T>), clamped));
  return times_sigmoid(x, clamped, sigmoid_denominator(g.z, g.low));
}
template <class T> FNN_INLINE Vec<T> gelu_tanh_backward(Vec<T> dy, Vec<T> x) {
  Vec<T> size = min(set1(kGeluTanhEnd<T>), abs(x));
  GeluTanh<T> g = gelu_tanh_argument(size);
  Vec<T> dz = fma(size * size, set1(3 * kCubic<T>), set1(T(0x1.9884533d43651p+0)));
  Scaled<T> e = exp_shifted<kLift<T>>(-g.z, -g.low);
  return dy * mirrored(x, times_sigmoid_slope(size * dz, e.value * e.power));
}

// ---- softplus ------------------------------------------------------------------------------

// log(1 + exp(beta x)) / beta = max(x, 0) + log(1 + exp(-beta |x|)) / beta
template <class T> FNN_INLINE Vec<T> softplus(Vec<T> x, T beta, T threshold) {
  Vec<T> z = set1(beta) * x, lifted = exp_of_size(z);
  Vec<T> excess = lifted * log1p_unit_ratio(lifted * set1(kUnlift<T>)) * set1(1 / beta);
  Vec<T> y = fma(excess, set1(kUnlift<T>), max(zero<T>(), x));
  return select(z > set1(threshold), x, y);
}
template <class T> FNN_INLINE Vec<T> softplus_backward(Vec<T> dy, Vec<T> x, T beta, T threshold) {
  Vec<T> z = set1(beta) * x;
  return select(z > set1(threshold), dy, dy * sigmoid(z));
}

// ---- gelu ----------------------------------------------------------------------------------

// At size = min(|x|, end): 2^kLift exp(-size^2 / 2) and Mills' ratio, whose product is the normal
// distribution's share beyond |x|. It has vanished at the end.
template <class T> struct NormalTail {
  Vec<T> size, ratio;
  Scaled<T> lifted;
};
template <class T> FNN_INLINE NormalTail<T> normal_tail(Vec<T> x) {
  const auto& table = choose<T>(kMills_float, kMills_double);
  Vec<T> size = min(set1(table.limit), abs(x)), half = size * set1(T(-0.5));
  Vec<T> square = half * size, square_low = fma(half, size, -square);
  IntVec<T> i = find_piece(table, size);
  Vec<T> ratio = mills(i, size - lookup(table.rows[0], i)).value;
  return {size, ratio, exp_shifted<kLift<T>>(square, square_low)};
}

// x minus |x| times the tail for x > 0, minus the latter for x < 0.
template <class T> FNN_INLINE Vec<T> gelu(Vec<T> x) {
  NormalTail<T> tail = normal_tail(x);
  Vec<T> missing = tail.lifted.value * tail.ratio * tail.size * tail.lifted.power;
  return fnma(missing, set1(kUnlift<T>), positive_part(x));
}

// Phi(x) + x phi(x); for x < 0 that is exp(-x^2 / 2) (ratio - |x| / sqrt(2 pi)).
template <class T> FNN_INLINE Vec<T> gelu_backward(Vec<T> dy, Vec<T> x) {
  constexpr T density_at_0 = T(0x1.9884533d43651p-2);
  NormalTail<T> tail = normal_tail(x);
  Vec<T> difference = fnma(tail.size, set1(density_at_0), tail.ratio);
  Vec<T> left = tail.lifted.value * difference * tail.lifted.power * set1(kUnlift<T>);
  return dy * mirrored(x, left);
}

// ---- by index ------------------------------------------------------------------------------

// use(f) with the activation of ops.def's CHOICE with its default parameters; -1 is none.
template <class T, class F> FNN_INLINE void with_activation(i64 activation, F&& use) {
  switch (activation) {
    case 0: return use([](Vec<T> x) { return relu(x); });
    case 1: return use([](Vec<T> x) { return leaky_relu(x, set1(T(0.01))); });
    case 2: return use([](Vec<T> x) { return sigmoid(x); });
    case 3: return use([](Vec<T> x) { return hard_sigmoid(x); });
    case 4: return use([](Vec<T> x) { return tanh(x); });
    case 5: return use([](Vec<T> x) { return gelu(x); });
    case 6: return use([](Vec<T> x) { return gelu_tanh(x); });
    case 7: return use([](Vec<T> x) { return silu(x); });
    case 8: return use([](Vec<T> x) { return softplus(x, T(1), T(20)); });
    default: return use([](Vec<T> x) { return x; });
  }
}

// use(f) with the gradient f(dy, y) of one of them from its output; of relu for -1, too.
template <class T, class F> FNN_INLINE void with_gradient(i64 activation, F&& use) {
  switch (activation) {
    case 2: return use([](Vec<T> dy, Vec<T> y) { return sigmoid_backward_from_output(dy, y); });
    case 4: return use([](Vec<T> dy, Vec<T> y) { return tanh_backward_from_output(dy, y); });
    default: return use([](Vec<T> dy, Vec<T> y) { return relu_backward(dy, y); });
  }
}

// use(f) with f(x, gate) that a product does last.
template <class Args, class F> FNN_INLINE void with_epilogue(const Args& a, F&& use) {
  using T = std::remove_pointer_t<decltype(a.y)>;
  if (a.gate) return with_gradient<T>(a.activation, use);
  with_activation<T>(a.activation, [&](auto f) { use([=](Vec<T> x, Vec<T>) { return f(x); }); });
}
