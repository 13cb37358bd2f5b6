// One update of a Vec of weights, for the CPU and for the GPU: constants(a) is what all weights
// share, computed in double and rounded once (1 - 0.9999 in float would be off by 2,780 units), and
// update(a, constants, at) does the rest at one place of the arrays. Adding a small product to a
// large value is one fma, so Adam's moments are within 4 u and its update within 8 u. Formulas:
// PyTorch's, from the papers that ops.def names.
#pragma once
#include "vec.h"

// The gradient to descend along. Without a penalty the parameter stays out of it, infinite or not.
template <class T> struct Descent {
  T sign, penalty;
  bool penalised;
};
template <class T> FNN_INLINE Descent<T> descent(i64 maximize, double l2) {
  return {T(maximize ? -1 : 1), T(l2), l2 != 0};
}
template <class T> FNN_INLINE Vec<T> downhill(const Descent<T>& d, Vec<T> grad, Vec<T> param) {
  const Vec<T> g = set1(d.sign) * grad;
  return d.penalised ? fma(set1(d.penalty), param, g) : g;
}

// keep * mean + take * x, take being 1 - keep; of x or of x^2.
template <class T> struct RunningMean {
  T keep, take;
};
template <class T> FNN_INLINE RunningMean<T> running_mean(double keep) {
  return {T(keep), T(1 - keep)};
}
template <class T> FNN_INLINE Vec<T> add(const RunningMean<T>& r, Vec<T> mean, Vec<T> x) {
  return fma(set1(r.keep), mean, set1(r.take) * x);
}
template <class T> FNN_INLINE Vec<T> add_square(const RunningMean<T>& r, Vec<T> mean, Vec<T> x) {
  return fma(set1(r.take) * x, x, set1(r.keep) * mean);
}

// ---- SGD -----------------------------------------------------------------------------------

template <class T> struct SgdConstants {
  Descent<T> descent;
  T lr, momentum, take;
  bool with_velocity, nesterov;
};
template <class T> FNN_INLINE SgdConstants<T> constants(const sgd_step_args<T>& a) {
  return {descent<T>(a.maximize, a.weight_decay),
          T(*a.lr),
          T(a.momentum),
          T(1 - a.dampening),
          a.momentum != 0,
          a.nesterov != 0};
}
template <class T, class At>
FNN_INLINE void update(const sgd_step_args<T>& a, const SgdConstants<T>& c, At at) {
  const Vec<T> param = at.load(a.param), momentum = set1(c.momentum);
  Vec<T> g = downhill(c.descent, at.load(a.grad), param);
  if (c.with_velocity) {
    const Vec<T> velocity = fma(momentum, at.load(a.velocity), set1(c.take) * g);
    at.store(a.velocity, velocity);
    g = c.nesterov ? fma(momentum, velocity, g) : velocity;
  }
  at.store(a.param, fnma(set1(c.lr), g, param));
}

// ---- Adagrad -------------------------------------------------------------------------------

template <class T> struct AdagradConstants {
  Descent<T> descent;
  T lr, eps;
};
template <class T> FNN_INLINE AdagradConstants<T> constants(const adagrad_step_args<T>& a) {
  return {descent<T>(a.maximize, a.weight_decay), T(*a.lr), T(a.eps)};
}
template <class T, class At>
FNN_INLINE void update(const adagrad_step_args<T>& a, const AdagradConstants<T>& c, At at) {
  const Vec<T> param = at.load(a.param), g = downhill(c.descent, at.load(a.grad), param);
  const Vec<T> sum_sq = fma(g, g, at.load(a.sum_sq));
  at.store(a.sum_sq, sum_sq);
  at.store(a.param, fnma(set1(c.lr), g / (sqrt(sum_sq) + set1(c.eps)), param));
}

// ---- RMSProp -------------------------------------------------------------------------------

template <class T> struct RmspropConstants {
  Descent<T> descent;
  RunningMean<T> running;
  T lr, eps, momentum;
  bool centered, eps_in_sqrt, with_velocity;
};
template <class T> FNN_INLINE RmspropConstants<T> constants(const rmsprop_step_args<T>& a) {
  return {descent<T>(a.maximize, a.weight_decay),
          running_mean<T>(a.alpha),
          T(*a.lr),
          T(a.eps),
          T(a.momentum),
          a.centered != 0,
          a.eps_in_sqrt != 0,
          a.momentum != 0};
}
template <class T, class At>
FNN_INLINE void update(const rmsprop_step_args<T>& a, const RmspropConstants<T>& c, At at) {
  const Vec<T> param = at.load(a.param), eps = set1(c.eps);
  Vec<T> g = downhill(c.descent, at.load(a.grad), param);
  Vec<T> power = add_square(c.running, at.load(a.square_avg), g);
  at.store(a.square_avg, power);
  if (c.centered) {
    const Vec<T> mean = add(c.running, at.load(a.grad_avg), g);
    at.store(a.grad_avg, mean);
    power = max(zero<T>(), fnma(mean, mean, power));  // rounding can take a variance below 0
  }
  g = g / (c.eps_in_sqrt ? sqrt(power + eps) : sqrt(power) + eps);
  if (c.with_velocity) {
    g = fma(set1(c.momentum), at.load(a.velocity), g);
    at.store(a.velocity, g);
  }
  at.store(a.param, fnma(set1(c.lr), g, param));
}

// ---- Adam, RAdam ---------------------------------------------------------------------------

// What they share: param = shrink * param - rate * quotient(both moments).
template <class T> struct AdamConstants {
  Descent<T> descent;
  RunningMean<T> first, second;
  T rate, shrink, unbias, eps;
  bool divides, amsgrad;
};
template <class T, class Args>
FNN_INLINE AdamConstants<T> adam_constants(const Args& a, double rate, double unbias) {
  return {descent<T>(a.maximize, a.decoupled ? 0 : a.weight_decay),
          running_mean<T>(a.beta1),
          running_mean<T>(a.beta2),
          T(rate),
          T(a.decoupled ? 1 - *a.lr * a.weight_decay : 1),
          T(unbias),
          T(a.eps),
          true,
          false};
}
template <class T, class Args, class At, class F>
FNN_INLINE void update_by_moments(const Args& a, const AdamConstants<T>& c, At at, F&& quotient) {
  const Vec<T> param = at.load(a.param), g = downhill(c.descent, at.load(a.grad), param);
  const Vec<T> m = add(c.first, at.load(a.exp_avg), g);
  const Vec<T> v = add_square(c.second, at.load(a.exp_avg_sq), g);
  at.store(a.exp_avg, m);
  at.store(a.exp_avg_sq, v);
  at.store(a.param, fnma(set1(c.rate), quotient(m, v), set1(c.shrink) * param));
}

template <class T> FNN_INLINE AdamConstants<T> constants(const adam_step_args<T>& a) {
  const double bias1 = 1 - ::pow(a.beta1, *a.step);
  const double root_bias2 = ::sqrt(1 - ::pow(a.beta2, *a.step));
  const bool hat = a.eps_mode == 1;
  AdamConstants<T> c =
      adam_constants<T>(a, *a.lr / bias1 * (hat ? root_bias2 : 1), hat ? 1 : 1 / root_bias2);
  c.amsgrad = a.amsgrad != 0;
  return c;
}
template <class T, class At>
FNN_INLINE void update(const adam_step_args<T>& a, const AdamConstants<T>& c, At at) {
  update_by_moments<T>(a, c, at, [&](Vec<T> m, Vec<T> v) {
    if (c.amsgrad) {
      const Vec<T> most = at.load(a.max_exp_avg_sq);
      v = select(isnan(most), most, max(most, v));
      at.store(a.max_exp_avg_sq, v);
    }
    return m / fma(sqrt(v), set1(c.unbias), set1(c.eps));
  });
}

template <class T> FNN_INLINE AdamConstants<T> constants(const radam_step_args<T>& a) {
  const double left1 = ::pow(a.beta1, *a.step), left2 = ::pow(a.beta2, *a.step);
  const double limit = 2 / (1 - a.beta2) - 1;  // rho in the paper: the length of the moving average
  const double length = limit - 2 * *a.step * left2 / (1 - left2);
  const bool rectified = length > 5;  // a shorter one has no variance: momentum alone
  const double variance =
      (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length);
  const double rate = *a.lr / (1 - left1) * (rectified ? ::sqrt(variance * (1 - left2)) : 1);
  AdamConstants<T> c = adam_constants<T>(a, rate, 1);
  c.divides = rectified;
  return c;
}
template <class T, class At>
FNN_INLINE void update(const radam_step_args<T>& a, const AdamConstants<T>& c, At at) {
  update_by_moments<T>(
      a, c, at, [&](Vec<T> m, Vec<T> v) { return c.divides ? m / (sqrt(v) + set1(c.eps)) : m; });
}
