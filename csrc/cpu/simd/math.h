// exp, log, log1p on vectors: argument reduction, then one polynomial. float within 1 ulp over all
// inputs, double within 2; infinities, NaN and denormals as in C. Only lane-wise IEEE operations
// and fma are used, so every ISA level gives the same bits.
//
// The coefficients are our own: weighted least squares with Lawson's reweighting (Rice 1964) in
// 60 digits, refitted after each coefficient was rounded. The error bounds beside them are those
// of the rounded polynomial, relative, in u = 2^-24 (float) and 2^-53 (double).
#pragma once
#include "vec.h"

template <class T, class F, class D>
constexpr const auto& choose(const F& for_float, const D& for_double) {
  if constexpr (sizeof(T) == 4) return for_float;
  else return for_double;
}

template <class T> constexpr int kMantissa = sizeof(T) == 4 ? 23 : 52;
template <class T> constexpr T kSmallestNormal = sizeof(T) == 4 ? T(0x1p-126) : T(0x1p-1022);

// c[0] + c[1] x + c[2] x^2 + ..., unrolled by recursion.
template <size_t i = 0, class T, size_t n>
FNN_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[n]) {
  if constexpr (i == n - 1) return set1(c[i]);
  else return fma(polynomial<i + 1>(x, c), x, set1(c[i]));
}

// ---- exp -----------------------------------------------------------------------------------

// exp(r) on |r| <= ln(2)/2: 0.054u, 0.034u.
static constexpr float kExpF[] = {0x1p+0, 0x1p+0, 0x1.fffffcp-2, 0x1.55549p-3, 0x1.55589ep-5,
                                  0x1.123aa2p-7, 0x1.6a6186p-10};
static constexpr double kExpD[] = {
    0x1p+0, 0x1p+0, 0x1.000000000000ap-1, 0x1.5555555555504p-3, 0x1.55555555506bbp-5,
    0x1.111111112561bp-7, 0x1.6c16c184773ecp-10, 0x1.a01a0136699a1p-13, 0x1.a019995e2a104p-16,
    0x1.71df0b857bee6p-19, 0x1.28adfde6b270dp-22, 0x1.ada6e1eaecb91p-26};

// value * 2^exponent, before it over- or underflows; 2^-1/2 <= value <= 2^1/2.
template <class T> struct Scaled { Vec<T> value, exponent; };

// exp(x) for x clamped to where it becomes inf and far below where it becomes 0.
template <class T> FNN_INLINE Scaled<T> exp_scaled(Vec<T> x) {
  constexpr T lowest = sizeof(T) == 4 ? -150 : -800, highest = sizeof(T) == 4 ? 89 : 710;
  constexpr T log2_e = T(0x1.71547652b82fep+0);
  constexpr T ln2_hi = T(0x1.62e42fefa39efp-1);
  constexpr T ln2_lo = sizeof(T) == 4 ? T(0x1.62e42fefa39efp-1 - double(ln2_hi))
                                      : T(0x1.abc9e3b39803fp-56);
  constexpr T magic = sizeof(T) == 4 ? T(0x1.8p23) : T(0x1.8p52);  // x + magic - magic rounds x
  x = max(set1(lowest), min(set1(highest), x));
  Vec<T> exponent = fma(x, set1(log2_e), set1(magic)) - set1(magic);
  Vec<T> r = fnma(exponent, set1(ln2_hi), x);
  r = fnma(exponent, set1(ln2_lo), r);
  return {polynomial(r, choose<T>(kExpF, kExpD)), exponent};
}

template <class T> FNN_INLINE Vec<T> exp(Vec<T> x) {
  Scaled<T> e = exp_scaled(x);
  return scale(e.value, e.exponent);
}

// ---- log -----------------------------------------------------------------------------------

// (log(1 + f) - f) / f^2 on 2^-1/2 <= 1 + f <= 2^1/2: 0.014u, 0.013u of the logarithm.
static constexpr float kLogF[] = {-0x1p-1, 0x1.555546p-2, -0x1.000002p-2, 0x1.99a54p-3,
                                  -0x1.555ddap-3, 0x1.232f98p-3, -0x1.fbf30ap-4, 0x1.e72bbp-4,
                                  -0x1.df2898p-4, 0x1.14d682p-4};
static constexpr double kLogD[] = {
    -0x1p-1, 0x1.555555555556bp-2, -0x1.ffffffffffe75p-3, 0x1.9999999994d76p-3,
    -0x1.555555556b957p-3, 0x1.249249275e61ep-3, -0x1.fffffff34304dp-4, 0x1.c71c702dcb558p-4,
    -0x1.99999ab52370dp-4, 0x1.745d58e31373fp-4, -0x1.555574569f8f5p-4, 0x1.3b0d75ae5fc4p-4,
    -0x1.248975c9cf525p-4, 0x1.116a4cd7519cfp-4, -0x1.00ce04a1f5d1bp-4, 0x1.dc8fb23ca588fp-5,
    -0x1.b46e2060caa36p-5, 0x1.bbe4b3e48627ap-5, -0x1.0101b6be556f4p-4, 0x1.d2139e83751cdp-5,
    -0x1.8cbe0860484f4p-6};

// log((1 + f + low) * 2^exponent), low being a rounding error of f. The large terms are added last,
// so that only the last two additions round visibly.
template <class T> FNN_INLINE Vec<T> log_reduced(Vec<T> f, Vec<T> low, Vec<T> exponent) {
  constexpr T ln2_hi = T(0x1.62e42fefa39efp-1);
  constexpr T ln2_lo = sizeof(T) == 4 ? T(0x1.62e42fefa39efp-1 - double(ln2_hi))
                                      : T(0x1.abc9e3b39803fp-56);
  Vec<T> q = polynomial(f, choose<T>(kLogF, kLogD));
  Vec<T> tail = fma(f * f, q, fma(exponent, set1(ln2_lo), low));
  return fma(exponent, set1(ln2_hi), f + tail);
}

// The integer e with 2^-1/2 <= x * 2^-e < 2^1/2 and that product, for normal x > 0.
template <class T> struct Binary { Vec<T> mantissa, exponent; };
template <class T> FNN_INLINE Binary<T> split_exponent(Vec<T> x) {
  IntVec<T> sqrt_half = bits(set1(T(0x1.6a09e667f3bcdp-1)));
  IntVec<T> offset = bits(x) - sqrt_half;
  IntVec<T> fraction = offset & set1_int<T>((i64(1) << kMantissa<T>) - 1);
  return {from_bits(fraction + sqrt_half), to_float(shift_right_arith(offset, kMantissa<T>))};
}

// y, but what a logarithm is outside of (0, inf): -inf at 0, NaN below, x itself at inf and NaN.
template <class T> FNN_INLINE Vec<T> log_ends(Vec<T> y, Vec<T> x) {
  Vec<T> infinity = set1(T(INFINITY));
  Vec<T> end = select(x < zero<T>(), set1(T(NAN)), select(x == zero<T>(), -infinity, x));
  return select((x > zero<T>()) & (x < infinity), y, end);
}

template <class T> FNN_INLINE Vec<T> log(Vec<T> x) {
  constexpr T lift = kMantissa<T> + 1;
  Mask<T> tiny = x < set1(kSmallestNormal<T>);
  Binary<T> b = split_exponent(select(tiny, x * set1(T(i64(1) << int(lift))), x));
  Vec<T> exponent = b.exponent - select(tiny, set1(lift), zero<T>());
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

// log(1 + x) / x on 0 <= x <= 1: 0.088u, 0.015u.
static constexpr float kLog1pF[] = {0x1p+0, -0x1.ffffd2p-2, 0x1.554dd6p-2, -0x1.ff24d4p-3,
                                    0x1.93521ep-3, -0x1.3a5c36p-3, 0x1.b512e8p-4, -0x1.d79754p-5,
                                    0x1.4a2e3ep-6, -0x1.b170dep-9};
static constexpr double kLog1pD[] = {
    0x1p+0, -0x1.fffffffffffeep-2, 0x1.5555555554767p-2, -0x1.ffffffff859b8p-3,
    0x1.99999988544f3p-3, -0x1.555553db118c8p-3, 0x1.24923392ef3b5p-3, -0x1.fffe41e58edecp-4,
    0x1.c70f204e3b49ep-4, -0x1.994c07364cf91p-4, 0x1.72fcbbf5d1bc5p-4, -0x1.505e9c05f138cp-4,
    0x1.2ca86513e1c59p-4, -0x1.026952ea70557p-4, 0x1.9c8ec4d98a5bcp-5, -0x1.25a28bf8f06d5p-5,
    0x1.64d610bba80eap-6, -0x1.6189534df8f15p-7, 0x1.0eb6b4a24f024p-8, -0x1.29f60bc077d35p-10,
    0x1.a0fa05f61ceadp-13, -0x1.157f8d50d68a2p-16};

// log(1 + x) for 0 <= x <= 1 only, within 2 ulp: half the work of log1p.
template <class T> FNN_INLINE Vec<T> log1p_unit(Vec<T> x) {
  return x * polynomial(x, choose<T>(kLog1pF, kLog1pD));
}
