// Optimizer steps: the CPU's bits.
#include "ops_harness.h"

extern "C" cudaError_t fnn_cuda_adam_step_f32_list(const void* const*, int, const CudaCall*);

namespace {

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

void sgd() {
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

void adagrad_and_rmsprop() {
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

void adam() {
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

// ---- lists ---------------------------------------------------------------------------------

// Lengths of which some have no block, some one and some several; every third is not aligned.
std::vector<adam_step_args<float>> adam_list(Arrays& m, int count) {
  std::vector<adam_step_args<float>> list;
  for (int i = 0; i < count; i++) {
    m.shift = i % 3 == 2;
    const i64 n = i % 5 == 1 ? 0 : i % 100 == 7 ? 5000 + i : 10 + i % 9;
    adam_step_args<float> a{};
    set_moments(a, m, 0.f, n, 7);
    a.weight_decay = 0.1;
    a.lr = list.empty() ? a.lr : list[0].lr;
    a.step = list.empty() ? a.step : list[0].step;
    list.push_back(a);
  }
  return list;
}

std::vector<double> joined(const Arrays& m) {
  std::vector<double> all;
  for (const Result& r : m.results()) all.insert(all.end(), r.values.begin(), r.values.end());
  return all;
}

// The bits of as many single calls.
void lists() {
  const CudaCall call{};
  for (int count : {0, 1, 2, 9, 80, 700}) {
    Arrays singly(true), together(true);
    for (const auto& a : adam_list(singly, count)) OK(fnn_cuda_adam_step_f32(&a, &call));
    const auto list = adam_list(together, count);
    std::vector<const void*> args;
    for (const auto& a : list) args.push_back(&a);
    OK(fnn_cuda_adam_step_f32_list(args.data(), count, &call));
    check(label("adam_step, a list of", {count}).c_str(), joined(together), joined(singly), {1}, 0);
  }
}

}  // namespace

void test_optimizers() {
  sgd();
  adagrad_and_rmsprop();
  adam();
  lists();
}
