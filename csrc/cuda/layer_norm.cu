// Layer normalisation (Ba, Kiros & Hinton 2016). Forward: a row's mean and corrected two-pass
// variance (Chan, Golub & LeVeque 1983, equation 1.7), then the result, while the row is in
// registers: one read and one write (row.cuh). Backward: dgamma and dbeta down the columns, then dx
// along each row; both read the gradient and the input.
#include "channels.cuh"
#include "row.cuh"

namespace {

template <class T> struct LayerNorm {
  layer_norm_args<T> a;

  template <class R> __device__ void operator()(const R& row) const {
    const double n = a.c > 0 ? double(a.c) : 1;
    const auto x = row.read(a.x);
    const auto sum_around = [&](T center) {
      return row.sum([&](const auto& at) { return x[at] - set1(center); });
    };
    const T start = row.columns > 0 ? a.x[row.begin] : T(0);
    const T near = start + T(sum_around(start) / n);  // exact when the row is constant
    const double residual = sum_around(near) / n;
    const double squares = row.sum([&](const auto& at) {
      const Vec<T> d = x[at] - set1(near);
      return d * d;
    });
    const double rstd = 1 / ::sqrt(squares / n - residual * residual + a.eps);
    const T mean = T(double(near) + residual);
    const T lost = T(((double(near) - double(mean)) + residual) * rstd);
    row.sync();  // y may be x, whose first element all threads have read
    if (row.leads() && row.i < a.n) {
      a.mean[row.i] = mean;
      a.rstd[row.i] = T(rstd);
    }
    row.each([&](const auto& at) {
      const Vec<T> gamma = a.gamma ? at.load(a.gamma) : set1(T(1));
      const Vec<T> beta = a.beta ? at.load(a.beta) : zero<T>();
      const Vec<T> xhat = fma(x[at] - set1(mean), set1(T(rstd)), -set1(lost));
      at.store(a.y + row.begin, fma(xhat, gamma, beta));
    });
  }
};

template <class T> struct ColumnGradients {
  typedef TwoSums Sum;
  layer_norm_backward_args<T> a;

  __device__ bool constants(const Walk<T>&) const { return true; }
  __device__ void take(const Walk<T>& walk, bool, i64 q, Sum (&sums)[Vec<T>::lanes]) const {
    Vec<T> dgamma = zero<T>(), dbeta = zero<T>();
#pragma unroll
    for (int r = 0; r < kTaken; r++) {
      const auto at = walk.at(q + r);
      if (!at.exists) continue;
      const Vec<T> dy = at.load(a.dy);
      const Vec<T> xhat = (at.load(a.x) - set1(a.mean[at.i])) * set1(a.rstd[at.i]);
      dgamma = fma(dy, xhat, dgamma);
      dbeta = dbeta + dy;
    }
    add(sums, dgamma, dbeta);
  }
  __device__ void finish(i64 j, const Sum& sum) const {
    a.dgamma[j] = T(sum.first);
    a.dbeta[j] = T(sum.second);
  }
};

template <class T> struct RowGradient {
  layer_norm_backward_args<T> a;

  template <class R> __device__ void operator()(const R& row) const {
    const auto dy = row.read(a.dy), x = row.read(a.x);
    const bool exists = row.i < a.n;
    const Vec<T> mean = set1(exists ? a.mean[row.i] : T(0));
    const Vec<T> rstd = set1(exists ? a.rstd[row.i] : T(0));
    const auto gradient = [&](const auto& at) {  // of xhat
      return a.gamma ? dy[at] * at.load(a.gamma) : dy[at];
    };
    const double sum = row.sum(gradient);
    const double products =
        row.sum([&](const auto& at) { return gradient(at) * ((x[at] - mean) * rstd); });
    const Vec<T> shift = set1(T(sum / double(a.c))), slope = set1(T(products / double(a.c)));
    row.each([&](const auto& at) {
      const Vec<T> xhat = (x[at] - mean) * rstd;
      at.store(a.dx + row.begin, rstd * (fnma(xhat, slope, gradient(at)) - shift));
    });
  }
};

}  // namespace

CUDA_KERNEL(layer_norm) {
  return each_row<T>(call, a.n, a.c, LayerNorm<T>{a}, a.x, a.gamma, a.beta, a.y);
}

// The columns come first, as dx may be dy or x.
CUDA_KERNEL_WITH_WORKSPACE(layer_norm_backward,
                           channel_workspace<ColumnGradients<T>>(channels<T>(a.n, a.c, 1))) {
  const cudaError_t error = sum_channels<T>(call, channels<T>(a.n, a.c, 1, a.dy, a.x),
                                            ColumnGradients<T>{a}, call.workspace);
  if (error != cudaSuccess) return error;
  return each_row<T>(call, a.n, a.c, RowGradient<T>{a}, a.dy, a.x, a.gamma, a.dx);
}
