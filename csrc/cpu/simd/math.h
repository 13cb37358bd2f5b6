// exp, log, log1p, tanh, erf, erfc on vectors: float within 1 ulp over all inputs, double within 2;
// infinities, NaN and denormals as in C. Only lane-wise IEEE operations, fma and table look-ups are
// used, so every ISA level gives the same bits. exp and log reduce the argument to one polynomial;
// tanh, erf and erfcx(x) = exp(x^2) erfc(x) look the coefficients of one of 16 polynomials up.
#pragma once
#include "math_tables.h"
#include "vec.h"

template <class T, class F, class D>
constexpr const auto& choose(const F& for_float, const D& for_double) {
  if constexpr (sizeof(T) == 4)
    return for_float;
  else
    return for_double;
}

template <class T> constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
template <class T> constexpr int kBias = sizeof(T) == 4 ? 127 : 1023;
template <class T> constexpr T kSmallestNormal = sizeof(T) == 4 ? T(0x1p-126) : T(0x1p-1022);
template <class T> constexpr T kLn2 = T(0x1.62e42fefa39efp-1);
template <class T>
constexpr T kLn2Low =
    sizeof(T) == 4 ? T(0x1.62e42fefa39efp-1 - double(kLn2<T>)) : T(0x1.abc9e3b39803fp-56);

// c[0] + c[1] x + c[2] x^2 + ..., unrolled by recursion; from the coefficient `first` on.
template <size_t first = 0, class T, size_t n>
FNN_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[n]) {
  if constexpr (first == n - 1)
    return set1(c[first]);
  else
    return fma(polynomial<first + 1>(x, c), x, set1(c[first]));
}

template <class T> FNN_INLINE Vec<T> copy_sign(Vec<T> size, Vec<T> sign) {
  return from_bits(bits(size) | (bits(sign) & bits(set1(T(-0.0)))));
}

// ---- exp -----------------------------------------------------------------------------------

// x = r + e ln 2 with |r| <= ln(2)/2. e + shift are the low bits of `biased`: the sum with
// 1.5 * 2^mantissa has no fraction.
template <class T> struct Reduced {
  Vec<T> r, e, biased;
};
template <int shift = 0, class T> FNN_INLINE Reduced<T> reduce(Vec<T> x) {
  constexpr T magic = (sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52)) + shift;
  Vec<T> biased = fma(x, set1(T(0x1.71547652b82fep+0)), set1(magic));
  Vec<T> e = biased - set1(magic);
  return {fnma(e, set1(kLn2Low<T>), fnma(e, set1(kLn2<T>), x)), e, biased};
}

// polynomial of the reduced argument
template <class T> FNN_INLINE Vec<T> exp_reduced(Vec<T> r) {
  return polynomial(r, choose<T>(kExp_float, kExp_double));
}

template <class T> FNN_INLINE Vec<T> exp(Vec<T> x) {
  constexpr T limit = sizeof(T) == 4 ? 150 : 800;  // far beyond overflow and underflow
  Reduced<T> x_ = reduce(max(set1(-limit), min(set1(limit), x)));
  return scale(exp_reduced(x_.r), x_.e);
}

// 2^shift exp(x + low) = value * power, a power of two, where that is a normal number: its exponent
// field is simply shifted into place.
template <class T> struct Scaled {
  Vec<T> value, power;
};
template <int shift, class T> FNN_INLINE Scaled<T> exp_shifted(Vec<T> x, Vec<T> low) {
  Reduced<T> x_ = reduce<shift + kBias<T>>(x);
  return {exp_reduced(x_.r + low), from_bits(shift_left(bits(x_.biased), kMantissa<T>))};
}
template <int shift, class T> FNN_INLINE Scaled<T> exp_shifted(Vec<T> x) {
  Reduced<T> x_ = reduce<shift + kBias<T>>(x);
  return {exp_reduced(x_.r), from_bits(shift_left(bits(x_.biased), kMantissa<T>))};
}

// ---- log -----------------------------------------------------------------------------------

// log((1 + f + low) * 2^exponent), low being a rounding error of f. The large terms are added last,
// so that only the last two additions round visibly.
template <class T> FNN_INLINE Vec<T> log_reduced(Vec<T> f, Vec<T> low, Vec<T> exponent) {
  Vec<T> q = polynomial(f, choose<T>(kLog_float, kLog_double));
  Vec<T> tail = fma(f * f, q, fma(exponent, set1(kLn2Low<T>), low));
  return fma(exponent, set1(kLn2<T>), f + tail);
}

// The integer e with 2^-1/2 <= x * 2^-e < 2^1/2 and that product, for normal x > 0.
template <class T> struct Binary {
  Vec<T> mantissa, exponent;
};
template <class T> FNN_INLINE Binary<T> split_exponent(Vec<T> x) {
  IntVec<T> sqrt_half = bits(set1(T(0x1.6a09e667f3bcdp-1)));
  IntVec<T> offset = bits(x) - sqrt_half;
  IntVec<T> fraction = offset & set1_int<T>((i64(1) << kMantissa<T>)-1);
  return {from_bits(fraction + sqrt_half), to_float(shift_right_arith(offset, kMantissa<T>))};
}

// y, but what a logarithm is outside of (0, inf): -inf at 0, NaN below, x itself at inf and NaN.
template <class T> FNN_INLINE Vec<T> log_ends(Vec<T> y, Vec<T> x) {
  Vec<T> infinity = set1(T(INFINITY));
  Vec<T> end = select(x < zero<T>(), set1(T(NAN)), select(x == zero<T>(), -infinity, x));
  return select((x > zero<T>()) & (x < infinity), y, end);
}

template <class T> FNN_INLINE Vec<T> log(Vec<T> x) {
  constexpr int lift = kMantissa<T> + 1;
  Mask<T> tiny = x < set1(kSmallestNormal<T>);
  Binary<T> b = split_exponent(select(tiny, x * set1(T(i64(1) << lift)), x));
  Vec<T> exponent = b.exponent - select(tiny, set1(T(lift)), zero<T>());
  return log_ends(log_reduced(b.mantissa - set1(T(1)), zero<T>(), exponent), x);
}

// 1 + x would lose digits of x: (1 + x) 2^-e - 1 is x s - (1 - s) with s = 2^-e, and its rounding
// error is known.
template <class T> FNN_INLINE Vec<T> log1p(Vec<T> x) {
  Vec<T> one = set1(T(1)), sum = one + x;
  Binary<T> b = split_exponent(sum);
  Vec<T> s = scale(one, -b.exponent);
  Vec<T> f = fma(x, s, s - one);
  Vec<T> low = fma(x, s, s - one - f);
  return select(x == zero<T>(), x, log_ends(log_reduced(f, low, b.exponent), sum));
}

// log(1 + x) for 0 <= x <= 1 only, within 2 ulp: half the work of log1p. And that over x.
template <class T> FNN_INLINE Vec<T> log1p_unit_ratio(Vec<T> x) {
  return polynomial(x, choose<T>(kLogUnit_float, kLogUnit_double));
}
template <class T> FNN_INLINE Vec<T> log1p_unit(Vec<T> x) { return x * log1p_unit_ratio(x); }

// ---- tanh, erf -----------------------------------------------------------------------------

template <class T, int n> FNN_INLINE IntVec<T> find_piece(const Piecewise<T, n>& table, Vec<T> x) {
  return shift_right(bits(x + set1(table.offset)), kMantissa<T> - 2);
}

// The chosen polynomial's terms from t^first on, divided by t^first.
template <int first, class T, int n>
FNN_INLINE Vec<T> piece(const Piecewise<T, n>& table, IntVec<T> i, Vec<T> t) {
  Vec<T> c = lookup(table.rows[1 + first], i);
  if constexpr (first == n - 1)
    return c;
  else
    return fma(piece<first + 1>(table, i, t), t, c);
}

// An odd function that is 1 beyond table.limit. Constant terms are exact to far below an ulp and
// near 0 it is x + x q(x), so that only the last addition rounds visibly.
template <class T, int n> FNN_INLINE Vec<T> saturating(const Piecewise<T, n>& table, Vec<T> x) {
  Vec<T> size = min(set1(table.limit), abs(x));
  IntVec<T> i = find_piece(table, size);
  Vec<T> t = size - lookup(table.rows[0], i);
  // In the first piece, whose constant is 0, x itself; in the others the constant, which is larger.
  Vec<T> start = max(lookup(table.rows[1], i), min(set1(table.first), size));
  return copy_sign(fma(piece<1>(table, i, t), t, start), x);
}

template <class T> FNN_INLINE Vec<T> tanh(Vec<T> x) {
  return saturating(choose<T>(kTanh_float, kTanh_double), x);
}

template <class T> FNN_INLINE Vec<T> erf(Vec<T> x) {
  return saturating(choose<T>(kErf_float, kErf_double), x);
}

// ---- erfc ----------------------------------------------------------------------------------

// value + low: a result and its rounding error.
template <class T> struct Double {
  Vec<T> value, low;
};

// exp(r + low) for |r| <= ln(2)/2.
template <class T> FNN_INLINE Double<T> exp_double(Vec<T> r, Vec<T> low) {
  Vec<T> q = polynomial<2>(r, choose<T>(kExp_float, kExp_double)), one = set1(T(1));
  Vec<T> p = fma(r * r, q, r), p_low = fma(r * r, q, r - p) + low;
  Vec<T> value = one + p;
  return {value, one - value + p + p_low};
}

// Mills' ratio of the normal distribution to a constant: exp(x^2 / 2) (1 - Phi(x)), of piece i at t
// from its centre.
template <class T> FNN_INLINE Double<T> mills(IntVec<T> i, Vec<T> t) {
  const auto& table = choose<T>(kMills_float, kMills_double);
  Vec<T> start = lookup(table.rows[1], i), slope = piece<1>(table, i, t);
  Vec<T> value = fma(slope, t, start);
  return {value, fma(slope, t, start - value)};
}

// 2 exp(-x^2) mills(sqrt(2) x), each factor with its rounding error.
template <class T> FNN_INLINE Vec<T> erfc(Vec<T> x) {
  constexpr T sqrt_2 = T(0x1.6a09e667f3bcdp+0);
  constexpr T sqrt_2_low = T(0x1.6a09e667f3bcdp+0 - double(sqrt_2) - 0x1.bdd3413b26456p-54);
  const auto& table = choose<T>(kMills_float, kMills_double);
  Vec<T> size = min(set1(table.limit / sqrt_2), abs(x));
  IntVec<T> i = find_piece(table, size * set1(sqrt_2));
  Vec<T> t = fma(size, set1(sqrt_2), -lookup(table.rows[0], i));
  Double<T> ratio = mills(i, fma(size, set1(sqrt_2_low), t));

  Vec<T> square = size * size, square_low = fma(size, size, -square);
  Vec<T> e = reduce(-square).e;
  Vec<T> high = fnma(e, set1(kLn2<T>), -square);  // exact
  Vec<T> rest = fma(e, set1(kLn2Low<T>), square_low), r = high - rest;
  Double<T> power = exp_double(r, high - r - rest);

  Vec<T> low = fma(power.value, ratio.low, power.low * ratio.value);
  Vec<T> y = scale(fma(power.value, ratio.value, low), e + set1(T(1)));
  return select(x < zero<T>(), set1(T(2)) - y, y);
}
