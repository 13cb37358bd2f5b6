// ops [NAME]: every CUDA kernel of csrc/cuda at odd sizes, next to the CPU's (ops_harness.h).
#include <string.h>

#include "ops_harness.h"

#define OP(name, doc) DECLARE_OP(name)
#include "core/each_op.h"

extern "C" void fnn_team_barrier(const Team*) {}              // teams of one
extern "C" void fnn_matmul_bf16(const void*, const Team*) {}  // not asked for

namespace {

std::string label(const char* name, std::initializer_list<i64> sizes) {
  std::string text = name;
  for (i64 size : sizes) text += (text == name ? " " : "x") + std::to_string(size);
  return text;
}

// ---- activations ---------------------------------------------------------------------------

constexpr Accuracy kElementwise{16, true};

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
  }
}

// ---- optimizers ----------------------------------------------------------------------------

template <class A, class T> void set_common(A& a, Arrays& m, T, i64 n) {
  a.n = n;
  a.param = m.updated<T>("param", n, 1);
  a.grad = m.normal<T>(n, 2);
  a.lr = m.values<double>({0.01});
}

template <class A, class T> void set_moments(A& a, Arrays& m, T x, i64 n, double step) {
  set_common(a, m, x, n);
  a.exp_avg = m.updated<T>("exp_avg", n, 3);
  a.exp_avg_sq = m.updated<T>("exp_avg_sq", n, 4, true);
  a.step = m.values<double>({step});
  a.beta1 = 0.9;
  a.beta2 = 0.999;
  a.eps = 1e-8;
}

void test_sgd() {
  for (int variant : {0, 1, 2, 3}) {
    COMPARE(sgd_step, label("sgd_step", {variant}), kElementwise, size_t(variant % 2),
            [=]<class T>(Arrays& m, T x) {
              sgd_step_args<T> a{};
              set_common(a, m, x, 1027);
              if (variant > 0) a.velocity = m.updated<T>("velocity", 1027, 3);
              a.momentum = variant > 0 ? 0.9 : 0;
              a.dampening = variant == 1 ? 0.25 : 0;
              a.nesterov = variant == 2;
              a.weight_decay = variant == 3 ? 0.01 : 0;
              a.maximize = variant == 3;
              return a;
            });
  }
}

void test_adagrad_and_rmsprop() {
  COMPARE(adagrad_step, "adagrad_step", kElementwise, 0, []<class T>(Arrays& m, T x) {
    adagrad_step_args<T> a{};
    set_common(a, m, x, 777);
    a.sum_sq = m.updated<T>("sum_sq", 777, 3, true);
    a.eps = 1e-10;
    a.weight_decay = 0.01;
    return a;
  });
  for (int variant : {0, 1, 2}) {
    COMPARE(rmsprop_step, label("rmsprop_step", {variant}), kElementwise, size_t(variant == 1),
            [=]<class T>(Arrays& m, T x) {
              rmsprop_step_args<T> a{};
              set_common(a, m, x, 1027);
              a.square_avg = m.updated<T>("square_avg", 1027, 3, true);
              if (variant == 1) {
                a.velocity = m.updated<T>("velocity", 1027, 4);
                a.grad_avg = m.values<T>(Arrays::normal_values(1027, 5, 1e-3), "grad_avg");
              }
              a.alpha = 0.99;
              a.eps = 1e-2;
              a.momentum = variant == 1 ? 0.9 : 0;
              a.centered = variant == 1;
              a.eps_in_sqrt = variant == 2;
              return a;
            });
  }
}

void test_adam() {
  for (int variant : {0, 1, 2, 3}) {
    COMPARE(adam_step, label("adam_step", {variant}), kElementwise, size_t(variant == 1),
            [=]<class T>(Arrays& m, T x) {
              adam_step_args<T> a{};
              set_moments(a, m, x, 1027, variant == 0 ? 1 : 1000);
              a.weight_decay = variant == 2 ? 0.1 : 0;
              a.decoupled = variant == 2;
              a.eps_mode = variant == 1;
              a.amsgrad = variant == 3;
              if (a.amsgrad) a.max_exp_avg_sq = m.updated<T>("max_exp_avg_sq", 1027, 6, true);
              return a;
            });
  }
  for (int step : {1, 100}) {
    COMPARE(radam_step, label("radam_step", {step}), kElementwise, 0, [=]<class T>(Arrays& m, T x) {
      radam_step_args<T> a{};
      set_moments(a, m, x, 1027, step);
      a.weight_decay = 0.1;
      a.decoupled = step == 100;
      return a;
    });
  }
}

// ---- sums ----------------------------------------------------------------------------------

void test_sums() {
  for (auto [n, c] : {std::pair(0, 3), std::pair(1, 1), std::pair(7, 33), std::pair(300, 70),
                      std::pair(1000, 5)}) {
    COMPARE(column_sum, label("column_sum", {n, c}), (Accuracy{64, false}), 0,
            [n = n, c = c]<class T>(Arrays& m, T) {
              column_sum_args<T> a{};
              a.n = n;
              a.c = c;
              a.x = m.normal<T>(size_t(n) * c, 1);
              a.y = m.output<T>("y", c);
              return a;
            });
  }
  for (i64 n : {0, 1, 1003, 70001}) {
    COMPARE(l2_norm, label("l2_norm", {n}), (Accuracy{8, false}), size_t(n == 70001),
            [=]<class T>(Arrays& m, T) {
              l2_norm_args<T> a{};
              a.n = n;
              a.x = m.normal<T>(n, 1, 3);
              a.norm = m.output<T>("norm", 1);
              return a;
            });
  }
}

// ---- softmax cross-entropy -----------------------------------------------------------------

struct LossCase {
  i64 n, c;
  int reduction;  // mean, sum, none
  bool probabilities, weighted, ignoring;
  double smoothing;
};

std::vector<double> label_values(const LossCase& t) {
  std::vector<double> v(t.n);
  for (i64 i = 0; i < t.n; i++) v[i] = t.ignoring && i % 3 == 1 ? -100.0 : double(i * 7 % t.c);
  return v;
}
std::vector<double> probability_values(const LossCase& t) {
  std::vector<double> v(t.n * t.c);
  for (i64 i = 0; i < t.n * t.c; i++) v[i] = i % t.c == i / t.c % t.c ? 0.75 : 0.25 / double(t.c);
  for (double& x : v) x = double(float(x));
  return v;
}

template <class T> softmax_cross_entropy_args<T> loss_args(Arrays& m, const LossCase& t) {
  softmax_cross_entropy_args<T> a{};
  a.n = t.n;
  a.c = t.c;
  a.logits = m.normal<T>(t.n * t.c, 1, 5);
  if (t.probabilities)
    a.probabilities = m.values<T>(probability_values(t));
  else
    a.labels = m.values<i64>(label_values(t));
  if (t.weighted) {
    a.weight = m.values<T>(std::vector<double>(t.c, 0.75));
    a.sample_weight = m.values<T>(std::vector<double>(t.n, 1.5));
  }
  a.ignore_index = -100;
  a.label_smoothing = t.smoothing;
  a.reduction = t.reduction;
  a.loss = m.output<T>("loss", t.reduction == 2 ? t.n : 1);
  a.dlogits = m.output<T>("dlogits", t.n * t.c);
  return a;
}

void test_softmax_cross_entropy() {
  const LossCase cases[] = {
      {0, 10, 0, false, false, false, 0},   {1, 1, 0, false, false, false, 0},
      {9, 10, 0, false, false, false, 0},   {300, 10, 0, false, false, true, 0},
      {300, 10, 1, false, true, true, 0.1}, {65, 3, 2, false, false, true, 0},
      {40, 10, 0, true, false, false, 0},   {40, 10, 0, true, true, false, 0.1},
      {5, 33, 0, false, false, false, 0},   {7, 200, 2, false, true, true, 0.2},
  };
  for (const LossCase& t : cases) {
    COMPARE(softmax_cross_entropy,
            label("softmax_cross_entropy", {t.n, t.c, t.reduction, t.probabilities, t.weighted}),
            (Accuracy{64, false}), size_t(t.n % 2),
            [=]<class T>(Arrays& m, T) { return loss_args<T>(m, t); });
  }
  const LossCase in_place{33, 10, 0, false, false, false, 0};
  COMPARE(softmax_cross_entropy, "softmax_cross_entropy in place", (Accuracy{64, false}), 0,
          [=]<class T>(Arrays& m, T) {
            softmax_cross_entropy_args<T> a = loss_args<T>(m, in_place);
            a.dlogits = m.values<T>(Arrays::normal_values(330, 9, 5), "dlogits in place");
            a.logits = a.dlogits;
            return a;
          });
}

// ---- matmul --------------------------------------------------------------------------------

struct MatmulCase {
  i64 m, n, k;
  bool transpose_a, transpose_b, bias, preactivation;
  int activation;
};

template <class T> matmul_args<T> matmul_arguments(Arrays& arrays, const MatmulCase& t) {
  matmul_args<T> a{};
  a.m = t.m;
  a.n = t.n;
  a.k = t.k;
  a.a = arrays.normal<T>(t.m * t.k, 1);
  a.b = arrays.normal<T>(t.k * t.n, 2);
  a.a_rs = t.transpose_a ? 1 : t.k;
  a.a_cs = t.transpose_a ? t.m : 1;
  a.b_rs = t.transpose_b ? 1 : t.n;
  a.b_cs = t.transpose_b ? t.k : 1;
  if (t.bias) a.bias = arrays.normal<T>(t.n, 3);
  a.activation = t.activation;
  a.precision = -1;
  if (t.bias && t.activation < 0) a.gate = arrays.normal<T>(t.m * t.n, 4);
  a.y = arrays.output<T>("y", t.m * t.n);
  if (t.preactivation) a.preactivation = arrays.output<T>("preactivation", t.m * t.n);
  return a;
}

void test_matmul_case(const MatmulCase& t, size_t shift) {
  COMPARE(matmul, label("matmul", {t.m, t.n, t.k, t.transpose_a, t.transpose_b, t.activation}),
          (Accuracy{256, true}), shift,
          [=]<class T>(Arrays& m, T) { return matmul_arguments<T>(m, t); });
}

void test_matmul() {
  const i64 sizes[][3] = {{1, 1, 1},    {3, 5, 0},     {0, 4, 3},
                          {70, 90, 50}, {65, 17, 300}, {130, 67, 520}};
  int i = 0;
  for (auto [m, n, k] : sizes) {
    test_matmul_case({m, n, k, i % 2 == 1, i % 4 >= 2, i % 3 == 0, false, -1}, size_t(i % 2));
    i++;
  }
  for (bool ta : {false, true}) {
    for (bool tb : {false, true}) test_matmul_case({33, 66, 40, ta, tb, true, true, 0}, 1);
  }
  for (int activation = 1; activation < 9; activation++) {
    test_matmul_case({20, 31, 9, false, false, true, activation % 2 == 0, activation}, 0);
  }
  test_matmul_case({1030, 1020, 19, false, true, true, false, 0}, 0);  // large tiles
}

struct Test {
  const char* name;
  void (*run)();
};
const Test tests[] = {
    {"activations", test_activations},
    {"sgd", test_sgd},
    {"adagrad_and_rmsprop", test_adagrad_and_rmsprop},
    {"adam", test_adam},
    {"sums", test_sums},
    {"softmax_cross_entropy", test_softmax_cross_entropy},
    {"matmul", test_matmul},
};

}  // namespace

int main(int argc, char** argv) {
  for (const Test& test : tests) {
    if (argc < 2 || !strcmp(argv[1], test.name)) test.run();
  }
  return failures ? 1 : 0;
}
