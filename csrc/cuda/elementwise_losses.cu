// Losses that look at one element at a time, with their gradients: one pass over predictions and
// targets writes the gradient and adds up the loss, block by block in a fixed order. The
// mathematics is the CPU's. A weighted mean needs a pass over the weights first.
#include "elementwise.cuh"

namespace {

enum { kMean, kSum, kNone };

// The arguments that the three ops have in common, under one name.
template <class T> struct Elements {
  i64 n, f;  // examples, values per example
  const T *x, *target, *sample_weight, *pos_weight;
  i64 p;  // pos_weight repeats after this many elements
  i64 reduction;
  T *loss, *dx;
};

// weights[i / f] for the Vec of elements from i on.
template <class T> __device__ Vec<T> spread(const T* weights, i64 f, i64 i, i64 elements) {
  i64 example = i / f, left = f - i % f;
  Vec<T> w;
#pragma unroll
  for (int l = 0; l < Vec<T>::lanes; l++) {
    w.v[l] = i + l < elements ? weights[example] : T(0);
    if (--left == 0) example++, left = f;
  }
  return w;
}

// weights[i % p] likewise.
template <class T> __device__ Vec<T> repeat(const T* weights, i64 p, i64 i) {
  i64 k = i % p;
  Vec<T> w;
#pragma unroll
  for (int l = 0; l < Vec<T>::lanes; l++) {
    w.v[l] = weights[k];
    if (++k == p) k = 0;
  }
  return w;
}

// Writes a Vec's gradient, and gives its loss.
template <class T, class F> struct Loss {
  Elements<T> e;
  const double* total_weight;  // null where it is known
  F f;

  __device__ double inverse() const {
    const double total = total_weight           ? double(e.f) * *total_weight
                         : e.reduction == kMean ? double(e.n) * double(e.f)
                                                : 1;
    return total == 0 ? 0 : 1 / total;
  }
  __device__ T constants() const { return T(inverse()); }
  template <class At> __device__ double operator()(T share, At at) const {
    const Vec<T> one = set1(T(1));
    const Vec<T> w = !e.sample_weight ? one
                     : e.f == 1       ? at.load(e.sample_weight)
                                      : spread(e.sample_weight, e.f, at.i, at.n);
    const Vec<T> positive = e.pos_weight ? repeat(e.pos_weight, e.p, at.i) : one;
    const LossAndGradient<T> r = f(at.load(e.x), at.load(e.target), positive);
    at.store(e.dx, r.gradient * (w * set1(share)));
    const Vec<T> loss = w * r.loss;
    if (e.reduction == kNone) at.store(e.loss, loss);
    return sum_in_double(select(first_n<T>(at.n - at.i), loss, zero<T>()));
  }
  __device__ void operator()(double sum) const { *e.loss = T(sum * inverse()); }
};

template <class T> struct Weights {
  const T* weights;
  __device__ NoConstants constants() const { return {}; }
  template <class At> __device__ double operator()(NoConstants, At at) const {
    return sum_in_double(at.load(weights));
  }
};
struct StoreSum {
  double* to;
  __device__ void operator()(double sum) const { *to = sum; }
};

// The total weight, and one sum a block.
template <class T> i64 loss_workspace(i64 elements) { return 8 * (1 + sum_blocks<T>(elements)); }

template <class T, class F>
cudaError_t elementwise_loss(const CudaCall& call, const Elements<T>& e, F f) {
  double *total = reinterpret_cast<double*>(call.workspace), *sums = total + 1;
  const i64 elements = e.n * e.f;
  const bool weighted = e.reduction == kMean && e.sample_weight && elements > 0;
  const Loss<T, F> loss{e, weighted ? total : nullptr, f};
  cudaError_t error = cudaSuccess;
  if (weighted) {
    error = sum_each<T>(call, e.n, Weights<T>{e.sample_weight}, sums, e.sample_weight);
    if (error != cudaSuccess) return error;
    error = finish_sum(call, sums, sum_blocks<T>(e.n), StoreSum{total});
    if (error != cudaSuccess) return error;
  }
  const T* spread_out = e.f == 1 ? e.sample_weight : nullptr;
  const T* losses = e.reduction == kNone ? e.loss : nullptr;
  error = sum_each<T>(call, elements, loss, sums, e.x, e.target, spread_out, e.dx, losses);
  if (error != cudaSuccess || e.reduction == kNone) return error;
  return finish_sum(call, sums, sum_blocks<T>(elements), loss);
}

// The functions have names of their own, so that they can be told from the kernels' arguments.
struct SigmoidCrossEntropy {
  template <class V> __device__ auto operator()(V z, V t, V pos_weight) const {
    return sigmoid_cross_entropy(z, t, pos_weight);
  }
};
struct SquaredError {
  template <class V> __device__ auto operator()(V x, V t, V) const { return squared_error(x, t); }
};
struct AbsoluteError {
  template <class V> __device__ auto operator()(V x, V t, V) const { return absolute_error(x, t); }
};

}  // namespace

CUDA_KERNEL_WITH_WORKSPACE(sigmoid_cross_entropy, loss_workspace<T>(a.n* a.f)) {
  const Elements<T> e{a.n,          a.f, a.logits,    a.targets, a.sample_weight,
                      a.pos_weight, a.p, a.reduction, a.loss,    a.dlogits};
  return elementwise_loss(call, e, SigmoidCrossEntropy());
}

CUDA_KERNEL_WITH_WORKSPACE(mse, loss_workspace<T>(a.n* a.f)) {
  const Elements<T> e{a.n,     a.f, a.pred,      a.target, a.sample_weight,
                      nullptr, 1,   a.reduction, a.loss,   a.dpred};
  return elementwise_loss(call, e, SquaredError());
}

CUDA_KERNEL_WITH_WORKSPACE(mae, loss_workspace<T>(a.n* a.f)) {
  const Elements<T> e{a.n,     a.f, a.pred,      a.target, a.sample_weight,
                      nullptr, 1,   a.reduction, a.loss,   a.dpred};
  return elementwise_loss(call, e, AbsoluteError());
}
