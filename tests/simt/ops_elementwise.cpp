// Ops that go element by element, with the CPU's bits, and those that feed a step and judge its
// gradients.
#include "ops_harness.h"

namespace {

// Ordinary numbers, large ones, and the ends of the range.
std::vector<double> inputs(i64 n) {
  std::vector<double> v = Arrays::normal_values(size_t(n), 3, 4);
  const double ends[] = {0,   -0.0, INFINITY, -INFINITY, NAN, 90, -90,
                         104, -104, 0x1p-130, -0x1p-140, 3,   -3};
  for (size_t i = 0; i < std::size(ends) && 4 * i < v.size(); i++) v[4 * i] = ends[i];
  return v;
}

template <class Args, class T> Args forward(Arrays& m, T, i64 n) {
  Args a{};
  a.n = n;
  a.x = m.values<T>(inputs(n));
  a.y = m.output<T>("y", n);
  return a;
}
template <class Args, class T> Args backward(Arrays& m, T, i64 n) {
  Args a{};
  a.n = n;
  a.dy = m.normal<T>(n, 5);
  a.x = m.values<T>(inputs(n));
  a.dx = m.output<T>("dx", n);
  return a;
}

template <class A> void set_parameters(A& a) {
  if constexpr (requires { a.negative_slope; }) a.negative_slope = 0.125;
  if constexpr (requires { a.beta; }) {
    a.beta = 1.5;
    a.threshold = 20;
  }
}

}  // namespace

void test_activations() {
  for (i64 n : {1, 1027, 5003}) {
    const size_t shift = n == 1027;
#define ACTIVATION(name)                                                               \
  COMPARE(name, label(#name, {n}), kElementwise, shift, [=]<class T>(Arrays& m, T x) { \
    auto a = forward<name##_args<T>>(m, x, n);                                         \
    set_parameters(a);                                                                 \
    return a;                                                                          \
  });                                                                                  \
  COMPARE(name##_backward, label(#name "_backward", {n}), kElementwise, shift,         \
          [=]<class T>(Arrays& m, T x) {                                               \
            auto a = backward<name##_backward_args<T>>(m, x, n);                       \
            set_parameters(a);                                                         \
            return a;                                                                  \
          });
    ACTIVATION(relu)
    ACTIVATION(leaky_relu)
    ACTIVATION(sigmoid)
    ACTIVATION(hard_sigmoid)
    ACTIVATION(tanh)
    ACTIVATION(gelu)
    ACTIVATION(gelu_tanh)
    ACTIVATION(silu)
    ACTIVATION(softplus)
#undef ACTIVATION
#define FROM_OUTPUT(name)                                                                       \
  COMPARE(name##_backward_from_output, label(#name "_backward_from_output", {n}), kElementwise, \
          shift, [=]<class T>(Arrays& m, T) {                                                   \
            name##_backward_from_output_args<T> a{};                                            \
            a.n = n;                                                                            \
            a.dy = m.values<T>(inputs(n));                                                      \
            a.y = m.values<T>(inputs(n));                                                       \
            a.dx = m.output<T>("dx", n);                                                        \
            return a;                                                                           \
          });
    FROM_OUTPUT(sigmoid)
    FROM_OUTPUT(tanh)
#undef FROM_OUTPUT
  }
}

// p = 0 keeps all; an offset beyond 32 bits counts.
void test_dropout() {
  struct Case {
    i64 n, offset;
    double p;
  };
  for (auto [n, offset, p] : {Case{0, 0, 0.5}, Case{1, 0, 0.5}, Case{1003, 5, 0.25},
                              Case{5000, i64(3) << 32, 0.9}, Case{64, 1, 0}}) {
    const size_t shift = n == 1003;
    COMPARE(dropout, label("dropout", {n, offset}), kElementwise, shift,
            [=]<class T>(Arrays& m, T) {
              dropout_args<T> a{};
              a.n = n;
              a.x = m.values<T>(inputs(n));
              a.p = p;
              a.seed = i64(0x123456789abcdef0);
              a.offset = m.values<i64>({double(offset)});
              a.y = m.output<T>("y", n);
              a.mask = reinterpret_cast<bool*>(m.bytes(n, "mask"));
              return a;
            });
    COMPARE(dropout_backward, label("dropout_backward", {n}), kElementwise, shift,
            [=]<class T>(Arrays& m, T) {
              dropout_backward_args<T> a{};
              a.n = n;
              a.dy = m.values<T>(inputs(n));
              a.mask = reinterpret_cast<bool*>(m.bytes(n, nullptr, 2));
              a.p = p;
              a.dx = m.output<T>("dx", n);
              return a;
            });
  }
}

void test_feeding() {
  for (i64 n : {0, 1, 1003, 4096}) {
    COMPARE(rescale, label("rescale", {n}), kElementwise, size_t(n == 1003),
            [=]<class T>(Arrays& m, T) {
              rescale_args<T> a{};
              a.n = n;
              a.x = m.bytes(n, nullptr, 256);
              a.scale = 1 / 255.0;
              a.offset = -0.5;
              a.y = m.output<T>("y", n);
              return a;
            });
  }
  for (auto [n, f] : {std::pair(0, 3), std::pair(1, 1), std::pair(9, 784), std::pair(13, 36),
                      std::pair(20, 33)}) {
    COMPARE(take_rows, label("take_rows", {n, f}), kExact, size_t(f == 36),
            [n = n, f = f]<class T>(Arrays& m, T) {
              take_rows_args<T> a{};
              a.rows = 7;
              a.n = n;
              a.f = f;
              a.x = m.bytes(7 * f, nullptr, 256);
              std::vector<double> index(static_cast<size_t>(n));
              for (int i = 0; i < n; i++) index[size_t(i)] = i * 5 % 7;
              a.index = m.values<i64>(index);
              a.y = m.bytes(n * f, "y");
              return a;
            });
  }
}

void test_gradients() {
  for (i64 n : {0, 1, 1003, 70001}) {
    const size_t shift = n == 1003;
    COMPARE(l2_norm, label("l2_norm", {n}), (Accuracy{8, false}), shift,
            [=]<class T>(Arrays& m, T) {
              l2_norm_args<T> a{};
              a.n = n;
              a.x = m.normal<T>(n, 1, 3);
              a.norm = m.output<T>("norm", 1);
              return a;
            });
    for (double max_norm : {2.0, 1e6}) {
      COMPARE(clip_grad_norm, label("clip_grad_norm", {n, i64(max_norm)}), (Accuracy{8, false}),
              shift, [=]<class T>(Arrays& m, T) {
                clip_grad_norm_args<T> a{};
                a.n = n;
                a.grad = m.updated<T>("grad", n, 1);
                a.max_norm = max_norm;
                a.norm = m.output<T>("norm", 1);
                return a;
              });
    }
    for (i64 bad : {i64(-1), i64(0), n - 2, n - 1}) {
      COMPARE(first_nonfinite, label("first_nonfinite", {n, bad}), kExact, shift,
              [=]<class T>(Arrays& m, T) {
                first_nonfinite_args<T> a{};
                a.n = n;
                std::vector<double> v = Arrays::normal_values(n, 1, 1);
                for (i64 i = bad; i >= 0 && i < n; i += 1 + n / 3) v[i] = i % 2 ? INFINITY : NAN;
                a.x = m.values<T>(v);
                a.index = m.values<i64>({7}, "index");
                return a;
              });
    }
  }
}

void test_probes() {
  for (i64 n : {0, 1, 1003}) {
    COMPARE(probe_fma, label("probe_fma", {n}), kElementwise, size_t(n == 1003),
            [=]<class T>(Arrays& m, T) {
              probe_fma_args<T> a{};
              a.n = n;
              a.x = m.normal<T>(n, 1);
              a.rounds = 37;
              a.y = m.output<T>("y", n);
              return a;
            });
  }
  for (auto [n, c] : {std::pair(1, 0), std::pair(3, 4096), std::pair(5, 333)}) {
    COMPARE(probe_read, label("probe_read", {n, c}), (Accuracy{64, false}), 0,
            [n = n, c = c]<class T>(Arrays& m, T) {
              probe_read_args<T> a{};
              a.n = n;
              a.c = c;
              a.x = m.normal<T>(size_t(n) * size_t(c), 1);
              a.y = m.output<T>("y", size_t(n));
              return a;
            });
  }
}
