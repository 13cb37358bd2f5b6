// Losses and what counts correct answers.
#include "ops_harness.h"

namespace {

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

}  // namespace

void test_softmax_cross_entropy() {
  const LossCase cases[] = {
      {0, 10, 0, false, false, false, 0},    {1, 1, 0, false, false, false, 0},
      {9, 10, 0, false, false, false, 0},    {300, 10, 0, false, false, true, 0},
      {300, 10, 1, false, true, true, 0.1},  {65, 3, 2, false, false, true, 0},
      {40, 10, 0, true, false, false, 0},    {40, 10, 0, true, true, false, 0.1},
      {5, 33, 0, false, false, false, 0},    {7, 200, 2, false, true, true, 0.2},
      {3, 1500, 0, false, true, true, 0.1},  {3, 1100, 0, true, false, false, 0},
      {2, 17000, 0, false, true, true, 0.1}, {2, 16388, 0, false, false, false, 0},
  };
  for (const LossCase& t : cases) {
    COMPARE(softmax_cross_entropy,
            label("softmax_cross_entropy", {t.n, t.c, t.reduction, t.probabilities, t.weighted}),
            (Accuracy{64, false}), size_t(t.n % 2),
            [=]<class T>(Arrays& m, T) { return loss_args<T>(m, t); });
  }
  for (i64 c : {10, 40, 1100}) {  // the rows become NaN, and nothing else is read
    COMPARE(softmax_cross_entropy, label("softmax_cross_entropy, labels out of range", {c}),
            (Accuracy{64, false}), 0, [=]<class T>(Arrays& m, T) {
              softmax_cross_entropy_args<T> a = loss_args<T>(m, {5, c, 2, false, true, false, 0});
              a.labels = m.values<i64>({0, double(c), -1, 0x1p60, double(c - 1)});
              return a;
            });
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

// ---- elementwise ---------------------------------------------------------------------------

namespace {

template <class Args> constexpr bool is_binary = requires(Args a) { a.pos_weight; };

template <class Args, class T>
Args elementwise_args(Arrays& m, T, i64 n, i64 f, int reduction, bool weighted) {
  Args a{};
  a.n = n;
  a.f = f;
  a.reduction = reduction;
  if (weighted) a.sample_weight = m.values<T>(Arrays::normal_values(n, 3, 1));
  a.loss = m.output<T>("loss", reduction == 2 ? n * f : 1);
  if constexpr (is_binary<Args>) {
    a.logits = m.normal<T>(n * f, 1, 5);
    std::vector<double> targets(n * f);
    for (i64 i = 0; i < n * f; i++) targets[i] = double(i % 5) / 4;
    a.targets = m.values<T>(targets);
    a.p = weighted ? f : 1;
    if (weighted) a.pos_weight = m.values<T>(Arrays::normal_values(f, 4, 2));
    a.dlogits = m.output<T>("dlogits", n * f);
  } else {
    a.pred = m.normal<T>(n * f, 1);
    a.target = m.normal<T>(n * f, 2);
    a.dpred = m.output<T>("dpred", n * f);
  }
  return a;
}

}  // namespace

void test_losses() {
  struct Case {
    i64 n, f;
    int reduction;  // mean, sum, none
    bool weighted;
  };
  const Case cases[] = {{0, 3, 0, false},    {0, 1, 0, true},    {5, 0, 0, true},
                        {1, 1, 1, false},    {9, 10, 0, false},  {9, 10, 0, true},
                        {9, 10, 2, true},    {77, 3, 1, true},   {1003, 1, 0, true},
                        {1003, 1, 2, false}, {21, 401, 0, false}};
  for (auto [n, f, reduction, weighted] : cases) {
    const Accuracy accuracy{16, reduction == 2};
#define LOSS_OP(name)                                                                           \
  COMPARE(name, label(#name, {n, f, reduction, weighted}), accuracy, size_t(n % 2),             \
          [n = n, f = f, reduction = reduction, weighted = weighted]<class T>(Arrays& m, T x) { \
            return elementwise_args<name##_args<T>>(m, x, n, f, reduction, weighted);           \
          });
    LOSS_OP(sigmoid_cross_entropy)
    LOSS_OP(mse)
    LOSS_OP(mae)
#undef LOSS_OP
  }
}

// ---- accuracy ------------------------------------------------------------------------------

namespace {

// Few different scores, so that there are ties; here and there a NaN or an infinity.
std::vector<double> scores(i64 n, i64 c) {
  std::vector<double> v(n * c);
  for (i64 i = 0; i < n * c; i++) v[i] = double(i * i % 7);
  for (i64 i = 3; i < n * c; i += 17) v[i] = i % 2 ? NAN : INFINITY;
  for (i64 j = 0; n > 2 && j < c; j++) v[2 * c + j] = -INFINITY;
  return v;
}

}  // namespace

void test_count_correct() {
  for (auto [n, c] : {std::pair(0, 5), std::pair(3, 0), std::pair(1, 1), std::pair(301, 3),
                      std::pair(90, 10), std::pair(33, 47), std::pair(5, 300)}) {
    for (bool probabilities : {false, true}) {
      COMPARE(count_correct, label("count_correct", {n, c, probabilities}), kExact, 0,
              [n = n, c = c, probabilities]<class T>(Arrays& m, T) {
                count_correct_args<T> a{};
                a.n = n;
                a.c = c;
                a.logits = m.values<T>(scores(n, c));
                std::vector<double> labels(static_cast<size_t>(n));
                for (int i = 0; i < n; i++) labels[size_t(i)] = i % (c + 2) - 1;
                std::vector<double> other = scores(n, c + 1);
                other.resize(size_t(n) * size_t(c));
                if (probabilities)
                  a.probabilities = m.values<T>(other);
                else
                  a.labels = m.values<i64>(labels);
                a.count = m.values<i64>({7}, "count");
                return a;
              });
    }
  }
  for (i64 n : {0, 1, 1003, 6000}) {
    COMPARE(count_correct_binary, label("count_correct_binary", {n}), kExact, size_t(n == 1003),
            [=]<class T>(Arrays& m, T) {
              count_correct_binary_args<T> a{};
              a.n = n;
              a.logits = m.normal<T>(n, 1);
              std::vector<double> targets(n);
              for (i64 i = 0; i < n; i++) targets[i] = double(i % 3 == 0);
              a.targets = m.values<T>(targets);
              a.count = m.values<i64>({7}, "count");
              return a;
            });
  }
}
