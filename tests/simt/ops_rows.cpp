// Ops along the rows of a matrix: of 4 lanes each, of a warp, of a block that keeps them, and of a
// block that reads them again.
#include "ops_harness.h"

namespace {

struct Size {
  i64 n, c;
};
const Size kSizes[] = {{0, 5},    {3, 0},    {1, 1},    {70, 3},    {9, 10},   {40, 8},
                       {33, 31},  {9, 64},   {5, 33},   {11, 201},  {3, 1024}, {2, 1031},
                       {2, 3000}, {1, 5003}, {2, 8200}, {1, 16390}, {1, 17000}};

// Rows 0 and 1 have what makes a softmax NaN or nothing.
template <class T> T* scores(Arrays& m, Size t) {
  std::vector<double> v = Arrays::normal_values(t.n * t.c, 1, 8);
  if (t.n > 8 && t.c > 2) {
    for (i64 j = 0; j < t.c; j++) v[j] = -INFINITY;
    v[t.c + 1] = NAN;
    v[2 * t.c + 2] = INFINITY;
    v[3 * t.c] = -INFINITY;
    v[4 * t.c] = -300;
    v[4 * t.c + 1] = 300;
  }
  return m.values<T>(v);
}

template <class T> T* probabilities(Arrays& m, Size t) {
  std::vector<double> v = Arrays::normal_values(t.n * t.c, 2, 1);
  for (double& x : v) x = double(float(fabs(x) / double(t.c)));
  return m.values<T>(v);
}

}  // namespace

void test_softmax() {
  for (Size t : kSizes) {
    const Accuracy accuracy{64, false};
    const size_t shift = t.c == 8 || t.c == 1024;
    COMPARE(softmax, label("softmax", {t.n, t.c}), accuracy, shift, [=]<class T>(Arrays& m, T) {
      return softmax_args<T>{t.n, t.c, scores<T>(m, t), m.output<T>("y", t.n * t.c)};
    });
    COMPARE(log_softmax, label("log_softmax", {t.n, t.c}), accuracy, shift,
            [=]<class T>(Arrays& m, T) {
              return log_softmax_args<T>{t.n, t.c, scores<T>(m, t), m.output<T>("y", t.n * t.c)};
            });
    COMPARE(softmax_backward, label("softmax_backward", {t.n, t.c}), accuracy, shift,
            [=]<class T>(Arrays& m, T) {
              return softmax_backward_args<T>{t.n, t.c, m.normal<T>(t.n * t.c, 1),
                                              probabilities<T>(m, t), m.output<T>("dx", t.n * t.c)};
            });
    COMPARE(log_softmax_backward, label("log_softmax_backward", {t.n, t.c}), accuracy, shift,
            [=]<class T>(Arrays& m, T) {
              log_softmax_backward_args<T> a{t.n, t.c, m.normal<T>(t.n * t.c, 1), nullptr,
                                             m.output<T>("dx", t.n * t.c)};
              std::vector<double> v = Arrays::normal_values(t.n * t.c, 2, 1);
              for (double& x : v) x = -fabs(x) - 1;
              for (double& x : v) x = double(float(x));
              a.y = m.values<T>(v);
              return a;
            });
  }
}

void test_layer_norm() {
  for (Size t : kSizes) {
    const size_t shift = t.c == 8 || t.c == 1024;
    const bool plain = t.c % 2 == 0;  // without gamma and beta
    COMPARE(layer_norm, label("layer_norm", {t.n, t.c}), (Accuracy{64, false}), shift,
            [=]<class T>(Arrays& m, T) {
              layer_norm_args<T> a{};
              a.n = t.n;
              a.c = t.c;
              a.x = m.values<T>(far_from_0(t.n, t.c, 1));
              if (!plain) a.gamma = m.normal<T>(t.c, 2);
              if (!plain) a.beta = m.normal<T>(t.c, 3);
              a.eps = 1e-5;
              a.y = m.output<T>("y", t.n * t.c);
              a.mean = m.output<T>("mean", t.n);
              a.rstd = m.output<T>("rstd", t.n);
              return a;
            });
    COMPARE(layer_norm_backward, label("layer_norm_backward", {t.n, t.c}), (Accuracy{256, false}),
            shift, [=]<class T>(Arrays& m, T) {
              layer_norm_backward_args<T> a{};
              a.n = t.n;
              a.c = t.c;
              a.dy = m.normal<T>(t.n * t.c, 4);
              a.x = m.normal<T>(t.n * t.c, 1);
              if (!plain) a.gamma = m.normal<T>(t.c, 2);
              a.mean = m.values<T>(Arrays::normal_values(t.n, 5, 0.1));
              a.rstd = m.values<T>(std::vector<double>(t.n, 1.25));
              a.dx = m.output<T>("dx", t.n * t.c);
              a.dgamma = m.output<T>("dgamma", t.c);
              a.dbeta = m.output<T>("dbeta", t.c);
              return a;
            });
  }
}
