// Softmax and its logarithm over rows, and their gradients: one read and one write of rows up to
// 64 KB, which stay in registers in between (row.cuh); longer ones are read twice, the second time
// from the L2 cache.
#include "softmax_rows.cuh"

namespace {

template <class T> struct Softmax {
  const T* x;
  T* y;
  template <class R> __device__ void operator()(const R& row) const {
    const auto e = exponentials<true>(row, row.read(x));
    const Vec<T> k = set1(T(1 / e.sum));
    row.each([&](const auto& at) { at.store(y + row.begin, e[at] * k); });
  }
};

template <class T> struct LogSoftmax {
  const T* x;
  T* y;
  template <class R> __device__ void operator()(const R& row) const {
    const auto e = exponentials<false>(row, row.read(x));
    const Vec<T> largest = set1(e.max);
    const Vec<T> log_sum = log(set1(T(e.sum * double(kUnlift<T>))));
    row.each([&](const auto& at) { at.store(y + row.begin, e.x[at] - largest - log_sum); });
  }
};

template <class T> struct SoftmaxBackward {
  const T *dy, *y;
  T* dx;
  template <class R> __device__ void operator()(const R& row) const {
    const auto d = row.read(dy), p = row.read(y);
    const Vec<T> dot = set1(T(row.sum([&](const auto& at) { return d[at] * p[at]; })));
    row.each([&](const auto& at) { at.store(dx + row.begin, p[at] * (d[at] - dot)); });
  }
};

template <class T> struct LogSoftmaxBackward {
  const T *dy, *y;
  T* dx;
  template <class R> __device__ void operator()(const R& row) const {
    const auto d = row.read(dy), p = row.read(y);
    const Vec<T> sum = set1(T(row.sum([&](const auto& at) { return d[at]; })));
    row.each([&](const auto& at) { at.store(dx + row.begin, fnma(exp(p[at]), sum, d[at])); });
  }
};

}  // namespace

CUDA_KERNEL(softmax) { return each_row<T>(call, a.n, a.c, Softmax<T>{a.x, a.y}, a.x, a.y); }
CUDA_KERNEL(log_softmax) { return each_row<T>(call, a.n, a.c, LogSoftmax<T>{a.x, a.y}, a.x, a.y); }
CUDA_KERNEL(softmax_backward) {
  return each_row<T>(call, a.n, a.c, SoftmaxBackward<T>{a.dy, a.y, a.dx}, a.dy, a.y, a.dx);
}
CUDA_KERNEL(log_softmax_backward) {
  return each_row<T>(call, a.n, a.c, LogSoftmaxBackward<T>{a.dy, a.y, a.dx}, a.dy, a.y, a.dx);
}
