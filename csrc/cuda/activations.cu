// The nine activations and their gradients, element by element: one read of each input and one
// write; y may be x, and dx may be dy or x. The mathematics is the CPU's, to the bit.
#include "elementwise.cuh"

namespace {

template <class T, class F> struct Forward {
  const T* x;
  T* y;
  F f;
  __device__ NoConstants constants() const { return {}; }
  template <class At> __device__ void operator()(NoConstants, At at) const {
    at.store(y, f(at.load(x)));
  }
};

template <class T, class F> struct Backward {
  const T *dy, *x;
  T* dx;
  F f;
  __device__ NoConstants constants() const { return {}; }
  template <class At> __device__ void operator()(NoConstants, At at) const {
    at.store(dx, f(at.load(dy), at.load(x)));
  }
};

template <class Args, class T, class F>
cudaError_t forward(const CudaCall& call, const Args& a, T*, F f) {
  return each<T>(call, a.n, Forward<T, F>{a.x, a.y, f}, a.x, a.y);
}
template <class Args, class T, class F>
cudaError_t backward(const CudaCall& call, const Args& a, T*, F f) {
  return each<T>(call, a.n, Backward<T, F>{a.dy, a.x, a.dx, f}, a.dy, a.x, a.dx);
}
template <class Args, class T, class F>
cudaError_t from_output(const CudaCall& call, const Args& a, T*, F f) {
  return each<T>(call, a.n, Backward<T, F>{a.dy, a.y, a.dx, f}, a.dy, a.y, a.dx);
}

}  // namespace

// The functions have names of their own, so that they can be told from the kernels' arguments.
#define ACTIVATION(name)                                                                       \
  namespace {                                                                                  \
  template <class T> struct name##_function {                                                  \
    __device__ Vec<T> operator()(Vec<T> x) const { return name(x); }                           \
    __device__ Vec<T> operator()(Vec<T> dy, Vec<T> x) const { return name##_backward(dy, x); } \
  };                                                                                           \
  }                                                                                            \
  CUDA_KERNEL(name) { return forward(call, a, a.y, name##_function<T>()); }                    \
  CUDA_KERNEL(name##_backward) { return backward(call, a, a.dx, name##_function<T>()); }

#define FROM_OUTPUT(name)                                       \
  namespace {                                                   \
  template <class T> struct name##_from_output {                \
    __device__ Vec<T> operator()(Vec<T> dy, Vec<T> y) const {   \
      return name##_backward_from_output(dy, y);                \
    }                                                           \
  };                                                            \
  }                                                             \
  CUDA_KERNEL(name##_backward_from_output) {                    \
    return from_output(call, a, a.dx, name##_from_output<T>()); \
  }

ACTIVATION(relu)
ACTIVATION(sigmoid)
ACTIVATION(hard_sigmoid)
ACTIVATION(tanh)
ACTIVATION(gelu)
ACTIVATION(gelu_tanh)
ACTIVATION(silu)
FROM_OUTPUT(sigmoid)
FROM_OUTPUT(tanh)

namespace {

template <class T> struct LeakyRelu {
  T slope;
  __device__ Vec<T> operator()(Vec<T> x) const { return leaky_relu(x, set1(slope)); }
  __device__ Vec<T> operator()(Vec<T> dy, Vec<T> x) const {
    return leaky_relu_backward(dy, x, set1(slope));
  }
};

template <class T> struct Softplus {
  T beta, threshold;
  __device__ Vec<T> operator()(Vec<T> x) const { return softplus(x, beta, threshold); }
  __device__ Vec<T> operator()(Vec<T> dy, Vec<T> x) const {
    return softplus_backward(dy, x, beta, threshold);
  }
};

}  // namespace

CUDA_KERNEL(leaky_relu) { return forward(call, a, a.y, LeakyRelu<T>{T(a.negative_slope)}); }
CUDA_KERNEL(leaky_relu_backward) {
  return backward(call, a, a.dx, LeakyRelu<T>{T(a.negative_slope)});
}
CUDA_KERNEL(softplus) { return forward(call, a, a.y, Softplus<T>{T(a.beta), T(a.threshold)}); }
CUDA_KERNEL(softplus_backward) {
  return backward(call, a, a.dx, Softplus<T>{T(a.beta), T(a.threshold)});
}
