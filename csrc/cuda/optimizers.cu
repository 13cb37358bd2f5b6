// Optimizer steps: decay, moments, bias correction and the update of an element fused, so that
// gradient, state and parameter cross memory once. The arithmetic is that of cpu/optimizers.cpp.
// Learning rate and step number are read from device memory, so that a captured graph may be
// replayed with new ones; what follows from them is worked out in double by one thread of a block.
#include "elementwise.cuh"

namespace {

// The gradient to descend along. Without a penalty the parameter stays out of it, infinite or not.
template <class T>
__device__ __forceinline__ Vec<T> descent(i64 maximize, double penalty, Vec<T> grad, Vec<T> param) {
  const Vec<T> g = maximize ? -grad : grad;
  return penalty != 0 ? fma(set1(T(penalty)), param, g) : g;
}

// keep * mean + (1 - keep) * x, of x or of x^2.
template <class T>
__device__ __forceinline__ Vec<T> running_mean(double keep, Vec<T> mean, Vec<T> x) {
  return fma(set1(T(keep)), mean, set1(T(1 - keep)) * x);
}
template <class T>
__device__ __forceinline__ Vec<T> running_square(double keep, Vec<T> mean, Vec<T> x) {
  return fma(set1(T(1 - keep)) * x, x, set1(T(keep)) * mean);
}

template <class T> struct Sgd {
  sgd_step_args<T> a;
  __device__ T constants() const { return T(*a.lr); }
  template <class At> __device__ void operator()(T lr, At at) const {
    const Vec<T> param = at.load(a.param), momentum = set1(T(a.momentum));
    Vec<T> g = descent(a.maximize, a.weight_decay, at.load(a.grad), param);
    if (a.momentum != 0) {
      const Vec<T> take = set1(T(1 - a.dampening));
      const Vec<T> velocity = fma(momentum, at.load(a.velocity), take * g);
      at.store(a.velocity, velocity);
      g = a.nesterov ? fma(momentum, velocity, g) : velocity;
    }
    at.store(a.param, fnma(set1(lr), g, param));
  }
};

template <class T> struct Adagrad {
  adagrad_step_args<T> a;
  __device__ T constants() const { return T(*a.lr); }
  template <class At> __device__ void operator()(T lr, At at) const {
    const Vec<T> param = at.load(a.param);
    const Vec<T> g = descent(a.maximize, a.weight_decay, at.load(a.grad), param);
    const Vec<T> sum_sq = fma(g, g, at.load(a.sum_sq));
    at.store(a.sum_sq, sum_sq);
    at.store(a.param, fnma(set1(lr), g / (sqrt(sum_sq) + set1(T(a.eps))), param));
  }
};

template <class T> struct RmsProp {
  rmsprop_step_args<T> a;
  __device__ T constants() const { return T(*a.lr); }
  template <class At> __device__ void operator()(T lr, At at) const {
    const Vec<T> param = at.load(a.param), eps = set1(T(a.eps));
    Vec<T> g = descent(a.maximize, a.weight_decay, at.load(a.grad), param);
    Vec<T> power = running_square(a.alpha, at.load(a.square_avg), g);
    at.store(a.square_avg, power);
    if (a.centered) {
      const Vec<T> mean = running_mean(a.alpha, at.load(a.grad_avg), g);
      at.store(a.grad_avg, mean);
      power = max(zero<T>(), fnma(mean, mean, power));  // rounding can take a variance below 0
    }
    g = g / (a.eps_in_sqrt ? sqrt(power + eps) : sqrt(power) + eps);
    if (a.momentum != 0) {
      g = fma(set1(T(a.momentum)), at.load(a.velocity), g);
      at.store(a.velocity, g);
    }
    at.store(a.param, fnma(set1(lr), g, param));
  }
};

// What Adam and RAdam share: param = shrink * param - rate * update(both moments).
template <class T> struct AdamConstants {
  T rate, shrink, unbias;
  bool rectified;
};

template <class T, class Args> __device__ T shrink(const Args& a) {
  return T(a.decoupled ? 1 - *a.lr * a.weight_decay : 1);
}

template <class T, class Args, class At, class F>
__device__ __forceinline__ void adam(const Args& a, const AdamConstants<T>& c, At at, F update) {
  const Vec<T> param = at.load(a.param);
  const Vec<T> g = descent(a.maximize, a.decoupled ? 0 : a.weight_decay, at.load(a.grad), param);
  const Vec<T> m = running_mean(a.beta1, at.load(a.exp_avg), g);
  const Vec<T> v = running_square(a.beta2, at.load(a.exp_avg_sq), g);
  at.store(a.exp_avg, m);
  at.store(a.exp_avg_sq, v);
  at.store(a.param, fnma(set1(c.rate), update(m, v), set1(c.shrink) * param));
}

template <class T> struct Adam {
  adam_step_args<T> a;
  __device__ AdamConstants<T> constants() const {
    const double bias1 = 1 - pow(a.beta1, *a.step);
    const double root_bias2 = ::sqrt(1 - pow(a.beta2, *a.step));
    const bool hat = a.eps_mode == 1;
    return {T(*a.lr / bias1 * (hat ? root_bias2 : 1)), shrink<T>(a), T(hat ? 1 : 1 / root_bias2),
            true};
  }
  template <class At> __device__ void operator()(const AdamConstants<T>& c, At at) const {
    adam(a, c, at, [&](Vec<T> m, Vec<T> v) {
      if (a.amsgrad) {
        const Vec<T> most = at.load(a.max_exp_avg_sq);
        v = select(isnan(most), most, max(most, v));
        at.store(a.max_exp_avg_sq, v);
      }
      return m / fma(sqrt(v), set1(c.unbias), set1(T(a.eps)));
    });
  }
};

template <class T> struct Radam {
  radam_step_args<T> a;
  __device__ AdamConstants<T> constants() const {
    const double left1 = pow(a.beta1, *a.step), left2 = pow(a.beta2, *a.step);
    const double limit = 2 / (1 - a.beta2) - 1;  // rho in the paper: the moving average's length
    const double length = limit - 2 * *a.step * left2 / (1 - left2);
    const bool rectified = length > 5;  // a shorter one has no variance: momentum alone
    const double variance =
        (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length);
    const double rate = *a.lr / (1 - left1) * (rectified ? ::sqrt(variance * (1 - left2)) : 1);
    return {T(rate), shrink<T>(a), T(1), rectified};
  }
  template <class At> __device__ void operator()(const AdamConstants<T>& c, At at) const {
    adam(a, c, at,
         [&](Vec<T> m, Vec<T> v) { return c.rectified ? m / (sqrt(v) + set1(T(a.eps))) : m; });
  }
};

}  // namespace

CUDA_KERNEL(sgd_step) { return each<T>(call, a.n, Sgd<T>{a}, a.param, a.grad, a.velocity); }
CUDA_KERNEL(adagrad_step) { return each<T>(call, a.n, Adagrad<T>{a}, a.param, a.grad, a.sum_sq); }
CUDA_KERNEL(rmsprop_step) {
  return each<T>(call, a.n, RmsProp<T>{a}, a.param, a.grad, a.square_avg, a.velocity, a.grad_avg);
}
CUDA_KERNEL(adam_step) {
  return each<T>(call, a.n, Adam<T>{a}, a.param, a.grad, a.exp_avg, a.exp_avg_sq, a.max_exp_avg_sq);
}
CUDA_KERNEL(radam_step) {
  return each<T>(call, a.n, Radam<T>{a}, a.param, a.grad, a.exp_avg, a.exp_avg_sq);
}
