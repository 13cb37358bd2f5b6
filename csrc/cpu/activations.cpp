// The nine activations and their gradients, element by element: one read of each input and one
// write, y may be x and dx may be dy or x. The mathematics is in simd/activations.h, shared with
// matmul, so that a fused activation gives the bits of a separate one.
#include "simd/activations.h"

#include "simd/each.h"

enum : i64 { kGrain = 4096 };  // elements a thread takes at least
#define INLINE __attribute__((always_inline))

template <class T, class F> static inline void map(const Team& team, i64 n, const T* x, T* y, F f) {
  share_range(team, n, kGrain, [=](i64 begin, i64 end) {
    each_aligned_vec(y, begin, end, [=](auto at) INLINE { at.store(y, f(at.load(x))); });
  });
}

template <class T, class F>
static inline void map(const Team& team, i64 n, const T* dy, const T* x, T* dx, F f) {
  share_range(team, n, kGrain, [=](i64 begin, i64 end) {
    each_aligned_vec(dx, begin, end,
                     [=](auto at) INLINE { at.store(dx, f(at.load(dy), at.load(x))); });
  });
}

#define ACTIVATION(name)                                                    \
  KERNEL(name) {                                                            \
    map(team, a.n, a.x, a.y, [](Vec<T> x) INLINE { return name(x); });      \
  }                                                                         \
  KERNEL(name##_backward) {                                                 \
    map(team, a.n, a.dy, a.x, a.dx,                                         \
        [](Vec<T> dy, Vec<T> x) INLINE { return name##_backward(dy, x); }); \
  }

#define FROM_OUTPUT(name)                                                               \
  KERNEL(name##_backward_from_output) {                                                 \
    map(team, a.n, a.dy, a.y, a.dx,                                                     \
        [](Vec<T> dy, Vec<T> y) INLINE { return name##_backward_from_output(dy, y); }); \
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

KERNEL(leaky_relu) {
  T slope = T(a.negative_slope);
  map(team, a.n, a.x, a.y, [=](Vec<T> x) INLINE { return leaky_relu(x, set1(slope)); });
}
KERNEL(leaky_relu_backward) {
  T slope = T(a.negative_slope);
  map(team, a.n, a.dy, a.x, a.dx,
      [=](Vec<T> dy, Vec<T> x) INLINE { return leaky_relu_backward(dy, x, set1(slope)); });
}

KERNEL(softplus) {
  T beta = T(a.beta), threshold = T(a.threshold);
  map(team, a.n, a.x, a.y, [=](Vec<T> x) INLINE { return softplus(x, beta, threshold); });
}
KERNEL(softplus_backward) {
  T beta = T(a.beta), threshold = T(a.threshold);
  map(team, a.n, a.dy, a.x, a.dx,
      [=](Vec<T> dy, Vec<T> x) INLINE { return softplus_backward(dy, x, beta, threshold); });
}
