// Ops that sum over all values of a column or channel.
#include "ops_harness.h"

void test_column_sum() {
  for (auto [n, c] : {std::pair(0, 3), std::pair(1, 1), std::pair(7, 33), std::pair(300, 70),
                      std::pair(1000, 5), std::pair(9, 520), std::pair(3000, 64)}) {
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
}

namespace {

struct Shape {
  i64 n, c, s;
  bool training, relu, full;  // full: gamma, beta, running statistics
};
const Shape kShapes[] = {
    {0, 5, 1, true, false, true},     {4, 0, 1, true, false, false},
    {3, 5, 0, true, false, true},     {2, 1, 1, true, false, true},
    {7, 33, 1, true, true, false},    {300, 70, 1, true, true, true},
    {3000, 12, 1, true, false, true}, {9, 520, 1, true, true, true},
    {300, 8, 1, false, true, true},   {5, 3, 49, true, true, true},
    {40, 4, 36, true, false, false},  {1, 2, 1000, true, true, true},
    {70, 3, 130, true, false, true},  {6, 5, 9, false, true, true},
    {33, 2, 2, true, true, true},
};

template <class T> T* channel_values(Arrays& m, const Shape& t, unsigned seed) {
  std::vector<double> v = far_from_0(t.n, t.c, seed, true), all;
  for (double x : v) {
    for (i64 k = 0; k < t.s; k++) all.push_back(x + double(x != 7) * 0.25 * double(k * k % 7));
  }
  for (double& x : all) x = double(float(x));
  return m.values<T>(all);
}

std::string shape_label(const char* name, const Shape& t) {
  return label(name, {t.n, t.c, t.s, t.training, t.relu, t.full});
}

}  // namespace

void test_batch_norm() {
  for (const Shape& t : kShapes) {
    const size_t shift = t.c == 12 || t.s == 36;
    COMPARE(batch_norm, shape_label("batch_norm", t), (Accuracy{64, !t.training}), shift,
            [=]<class T>(Arrays& m, T) {
              batch_norm_args<T> a{};
              a.n = t.n;
              a.c = t.c;
              a.s = t.s;
              a.x = channel_values<T>(m, t, 1);
              if (t.full) {
                a.gamma = m.normal<T>(t.c, 2);
                a.beta = m.normal<T>(t.c, 3);
                a.running_mean = m.updated<T>("running_mean", t.c, 4);
                a.running_var = m.updated<T>("running_var", t.c, 5, true);
              }
              a.training = t.training;
              a.momentum = 0.1;
              a.eps = 1e-5;
              a.unbiased_running_var = t.relu;
              a.activation = t.relu ? 0 : -1;
              a.y = m.output<T>("y", t.n * t.c * t.s);
              a.mean = m.output<T>("mean", t.c);
              a.rstd = m.output<T>("rstd", t.c);
              return a;
            });
    COMPARE(batch_norm_backward, shape_label("batch_norm_backward", t), (Accuracy{256, false}),
            shift, [=]<class T>(Arrays& m, T) {
              batch_norm_backward_args<T> a{};
              a.n = t.n;
              a.c = t.c;
              a.s = t.s;
              const i64 size = t.n * t.c * t.s;
              a.dy = m.normal<T>(size, 6);
              a.x = m.normal<T>(size, 7);
              if (t.full) a.gamma = m.normal<T>(t.c, 2);
              a.mean = m.values<T>(Arrays::normal_values(t.c, 8, 0.1));
              a.rstd = m.values<T>(std::vector<double>(t.c, 1.25));
              a.training = t.training;
              a.activation = t.relu ? 0 : -1;
              if (t.relu) a.y = m.normal<T>(size, 9);
              a.dx = m.output<T>("dx", size);
              a.dgamma = m.output<T>("dgamma", t.c);
              a.dbeta = m.output<T>("dbeta", t.c);
              return a;
            });
  }
}
