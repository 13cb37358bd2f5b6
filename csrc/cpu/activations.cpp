// The nine activations and their gradients, element by element: one read of each input and one
// write, y may be x and dx may be dy or x. The mathematics is in simd/activations.h, shared with
// matmul, so that a fused activation gives the bits of a separate one.
#include "simd/activations.h"

enum : i64 { kGrain = 4096 };  // elements a thread takes at least
#define EACH __attribute__((always_inline))

template <class T, class F>
static inline void map(const Team& team, i64 n, const T* x, T* y, F f) {
  constexpr i64 lanes = Vec<T>::lanes;
  share_range(team, n, kGrain, [=](i64 i, i64 end) {
    for (; i + lanes <= end; i += lanes) store(y + i, f(load(x + i)));
    if (i < end) store_n(y + i, f(load_n(x + i, end - i)), end - i);
  });
}

template <class T, class F>
static inline void map(const Team& team, i64 n, const T* dy, const T* x, T* dx, F f) {
  constexpr i64 lanes = Vec<T>::lanes;
  share_range(team, n, kGrain, [=](i64 i, i64 end) {
    for (; i + lanes <= end; i += lanes) store(dx + i, f(load(dy + i), load(x + i)));
    i64 rest = end - i;
    if (rest > 0) store_n(dx + i, f(load_n(dy + i, rest), load_n(x + i, rest)), rest);
  });
}

#define ACTIVATION(name)                                                                        \
  KERNEL(name) {                                                                                \
    map(team, a.n, a.x, a.y, [](Vec<T> x) EACH { return name(x); });                                 \
  }                                                                                             \
  KERNEL(name##_backward) {                                                                     \
    map(team, a.n, a.dy, a.x, a.dx, [](Vec<T> dy, Vec<T> x) EACH { return name##_backward(dy, x); }); \
  }

ACTIVATION(relu)
ACTIVATION(sigmoid)
ACTIVATION(hard_sigmoid)
ACTIVATION(tanh)
ACTIVATION(gelu)
ACTIVATION(gelu_tanh)
ACTIVATION(silu)

KERNEL(leaky_relu) {
  Vec<T> slope = set1(T(a.negative_slope));
  map(team, a.n, a.x, a.y, [=](Vec<T> x) EACH { return leaky_relu(x, slope); });
}
KERNEL(leaky_relu_backward) {
  Vec<T> slope = set1(T(a.negative_slope));
  map(team, a.n, a.dy, a.x, a.dx, [=](Vec<T> dy, Vec<T> x) EACH {
    return leaky_relu_backward(dy, x, slope);
  });
}

KERNEL(softplus) {
  Vec<T> beta = set1(T(a.beta)), threshold = set1(T(a.threshold));
  map(team, a.n, a.x, a.y, [=](Vec<T> x) EACH { return softplus(x, beta, threshold); });
}
KERNEL(softplus_backward) {
  Vec<T> beta = set1(T(a.beta)), threshold = set1(T(a.threshold));
  map(team, a.n, a.dy, a.x, a.dx, [=](Vec<T> dy, Vec<T> x) EACH {
    return softplus_backward(dy, x, beta, threshold);
  });
}
