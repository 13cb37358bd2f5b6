// Optimizer steps: decay, moments, bias correction and the update of an element fused, so that
// gradient, state and parameter cross memory once. Adding a small product to a large value is one
// fma, and what is the same for all elements is computed in double and rounded once: 1 - 0.9999 in
// float would be off by 2,780 units (so Adam's moments are within 4 u, its update within 8 u).
// Formulas: PyTorch's, from the papers that ops.def names.
#include "simd/each.h"

namespace {

enum : i64 { kGrain = 4096 };

template <class T, class Args, class F>
FNN_INLINE void each_weight(const Args& a, const Team& team, F&& f) {
  share_range(team, a.n, kGrain,
              [&](i64 begin, i64 end) { each_aligned_vec(a.param, begin, end, f); });
}

// The gradient to descend along. Without a penalty the parameter stays out of it, infinite or not.
template <class T> struct Descent {
  bool penalised;
  Vec<T> sign, penalty;
  Descent(i64 maximize, double l2)
      : penalised(l2 != 0), sign(set1(T(maximize ? -1 : 1))), penalty(set1(T(l2))) {}
  Vec<T> operator()(Vec<T> grad, Vec<T> param) const {
    return penalised ? fma(penalty, param, sign * grad) : sign * grad;
  }
};

// keep * mean + (1 - keep) * x, of x or of x^2.
template <class T> struct RunningMean {
  Vec<T> keep, take;
  explicit RunningMean(double k) : keep(set1(T(k))), take(set1(T(1 - k))) {}
  Vec<T> add(Vec<T> mean, Vec<T> x) const { return fma(keep, mean, take * x); }
  Vec<T> add_square(Vec<T> mean, Vec<T> x) const { return fma(take * x, x, keep * mean); }
};

// What Adam and RAdam share: param = shrunk param - rate * update(at, both moments).
template <class T, class Args, class F>
FNN_INLINE void adam(const Args& a, const Team& team, double rate, F&& update) {
  const Descent<T> descent(a.maximize, a.decoupled ? 0 : a.weight_decay);
  const RunningMean<T> first(a.beta1), second(a.beta2);
  const Vec<T> shrink = set1(T(a.decoupled ? 1 - *a.lr * a.weight_decay : 1)), step = set1(T(rate));
  each_weight<T>(a, team, [&](auto at) {
    Vec<T> param = at.load(a.param), g = descent(at.load(a.grad), param);
    Vec<T> m = first.add(at.load(a.exp_avg), g), v = second.add_square(at.load(a.exp_avg_sq), g);
    at.store(a.exp_avg, m);
    at.store(a.exp_avg_sq, v);
    at.store(a.param, fnma(step, update(at, m, v), shrink * param));
  });
}

}  // namespace

KERNEL(sgd_step) {
  const Descent<T> descent(a.maximize, a.weight_decay);
  const Vec<T> lr = set1(T(*a.lr)), momentum = set1(T(a.momentum)), take = set1(T(1 - a.dampening));
  each_weight<T>(a, team, [&](auto at) {
    Vec<T> param = at.load(a.param), g = descent(at.load(a.grad), param);
    if (a.momentum != 0) {
      Vec<T> velocity = fma(momentum, at.load(a.velocity), take * g);
      at.store(a.velocity, velocity);
      g = a.nesterov ? fma(momentum, velocity, g) : velocity;
    }
    at.store(a.param, fnma(lr, g, param));
  });
}

KERNEL(adagrad_step) {
  const Descent<T> descent(a.maximize, a.weight_decay);
  const Vec<T> lr = set1(T(*a.lr)), eps = set1(T(a.eps));
  each_weight<T>(a, team, [&](auto at) {
    Vec<T> param = at.load(a.param), g = descent(at.load(a.grad), param);
    Vec<T> sum_sq = fma(g, g, at.load(a.sum_sq));
    at.store(a.sum_sq, sum_sq);
    at.store(a.param, fnma(lr, g / (sqrt(sum_sq) + eps), param));
  });
}

KERNEL(rmsprop_step) {
  const Descent<T> descent(a.maximize, a.weight_decay);
  const RunningMean<T> running(a.alpha);
  const Vec<T> lr = set1(T(*a.lr)), momentum = set1(T(a.momentum)), eps = set1(T(a.eps));
  each_weight<T>(a, team, [&](auto at) {
    Vec<T> param = at.load(a.param), g = descent(at.load(a.grad), param);
    Vec<T> power = running.add_square(at.load(a.square_avg), g);
    at.store(a.square_avg, power);
    if (a.centered) {
      Vec<T> mean = running.add(at.load(a.grad_avg), g);
      at.store(a.grad_avg, mean);
      power = max(zero<T>(), fnma(mean, mean, power));  // rounding can take a variance below 0
    }
    g = g / (a.eps_in_sqrt ? sqrt(power + eps) : sqrt(power) + eps);
    if (a.momentum != 0) {
      g = fma(momentum, at.load(a.velocity), g);
      at.store(a.velocity, g);
    }
    at.store(a.param, fnma(lr, g, param));
  });
}

KERNEL(adam_step) {
  const double bias1 = 1 - pow(a.beta1, *a.step), root_bias2 = sqrt(1 - pow(a.beta2, *a.step));
  const bool hat = a.eps_mode == 1;
  const double rate = *a.lr / bias1 * (hat ? root_bias2 : 1);
  const Vec<T> unbias = set1(T(hat ? 1 : 1 / root_bias2)), eps = set1(T(a.eps));
  adam<T>(a, team, rate, [&](auto at, Vec<T> m, Vec<T> v) {
    if (a.amsgrad) {
      Vec<T> most = at.load(a.max_exp_avg_sq);
      v = select(isnan(most), most, max(most, v));
      at.store(a.max_exp_avg_sq, v);
    }
    return m / fma(sqrt(v), unbias, eps);
  });
}

KERNEL(radam_step) {
  const double left1 = pow(a.beta1, *a.step), left2 = pow(a.beta2, *a.step);
  const double limit = 2 / (1 - a.beta2) - 1;  // rho in the paper: the length of the moving average
  const double length = limit - 2 * *a.step * left2 / (1 - left2);
  const bool rectified = length > 5;  // a shorter one has no variance: momentum alone
  const double variance =
      (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length);
  const double rate = *a.lr / (1 - left1) * (rectified ? sqrt(variance * (1 - left2)) : 1);
  const Vec<T> eps = set1(T(a.eps));
  adam<T>(a, team, rate,
          [&](auto, Vec<T> m, Vec<T> v) { return rectified ? m / (sqrt(v) + eps) : m; });
}
