// What a training step asks of a whole gradient: its norm, clipping by it (Pascanu, Mikolov &
// Bengio 2013), and whether it is finite. One read; clipping reads and writes again, but only when
// there is something to clip, which the GPU finds out by itself. Squares of floats are exact as
// doubles and can't overflow.
#include "elementwise.cuh"

namespace {

template <class T> struct Squares {
  const T* x;
  __device__ NoConstants constants() const { return {}; }
  template <class At> __device__ double operator()(NoConstants, At at) const {
    const Vec<T> v = at.load(x);
    double sum = 0;
#pragma unroll
    for (int l = 0; l < Vec<T>::lanes; l++) sum = ::fma(double(v.v[l]), double(v.v[l]), sum);
    return sum;
  }
};

template <class T> struct StoreRoot {
  T* norm;
  double* wide;  // or null
  __device__ void operator()(double sum) const {
    *norm = T(::sqrt(sum));
    if (wide) *wide = ::sqrt(sum);
  }
};

template <class T>
cudaError_t norm_of(const CudaCall& call, const T* x, i64 n, double* sums, StoreRoot<T> finish) {
  const cudaError_t error = sum_each<T>(call, n, Squares<T>{x}, sums, x);
  if (error != cudaSuccess) return error;
  return finish_sum(call, sums, sum_blocks<T>(n), finish);
}

template <class T> struct Shrink {
  T* grad;
  double max_norm;
  const double* norm;

  struct Constants {
    T factor;
    bool clips;
  };
  __device__ Constants constants() const {
    const double factor = max_norm / (*norm + 1e-6);
    return {T(factor), !(factor >= 1)};  // NaN, too
  }
  template <class At> __device__ void operator()(const Constants& c, At at) const {
    if (c.clips) at.store(grad, at.load(grad) * set1(c.factor));
  }
};

// The smallest place, as integers may meet in any order; -1 is the largest unsigned one.
template <class T> struct FindNonfinite {
  const T* x;
  i64* index;
  __device__ NoConstants constants() const { return {}; }
  template <class At> __device__ void operator()(NoConstants, At at) const {
    const Vec<T> v = at.load(x);
#pragma unroll
    for (int l = Vec<T>::lanes - 1; l >= 0; l--) {
      if (v.v[l] - v.v[l] == 0) continue;
      atomicMin(reinterpret_cast<unsigned long long*>(index), u64(at.i + l));
    }
  }
};

}  // namespace

CUDA_KERNEL_WITH_WORKSPACE(l2_norm, 8 * sum_blocks<T>(a.n)) {
  double* sums = reinterpret_cast<double*>(call.workspace);
  return norm_of(call, a.x, a.n, sums, StoreRoot<T>{a.norm, nullptr});
}

CUDA_KERNEL_WITH_WORKSPACE(clip_grad_norm, 8 * (1 + sum_blocks<T>(a.n))) {
  double* norm = reinterpret_cast<double*>(call.workspace);
  const cudaError_t error = norm_of(call, a.grad, a.n, norm + 1, StoreRoot<T>{a.norm, norm});
  if (error != cudaSuccess) return error;
  return each<T>(call, a.n, Shrink<T>{a.grad, a.max_norm, norm}, a.grad);
}

CUDA_KERNEL(first_nonfinite) {
  const cudaError_t error = cudaMemsetAsync(a.index, 0xFF, sizeof *a.index, call.stream);
  if (error != cudaSuccess) return error;
  return each<T>(call, a.n, FindNonfinite<T>{a.x, a.index}, a.x);
}
