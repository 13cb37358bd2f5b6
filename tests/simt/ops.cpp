// ops [NAME]: every CUDA kernel of csrc/cuda at odd sizes, next to the CPU's (ops_harness.h).
#include <string.h>

#include "ops_harness.h"

extern "C" void fnn_team_barrier(const Team*) {}              // teams of one
extern "C" void fnn_matmul_bf16(const void*, const Team*) {}  // not asked for

void test_activations();
void test_dropout();
void test_feeding();
void test_gradients();
void test_column_sum();
void test_batch_norm();
void test_layer_norm();
void test_losses();
void test_softmax();
void test_softmax_cross_entropy();
void test_count_correct();
void test_optimizers();
void test_probes();

namespace {

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
    {"dropout", test_dropout},
    {"feeding", test_feeding},
    {"gradients", test_gradients},
    {"column_sum", test_column_sum},
    {"batch_norm", test_batch_norm},
    {"layer_norm", test_layer_norm},
    {"losses", test_losses},
    {"softmax", test_softmax},
    {"softmax_cross_entropy", test_softmax_cross_entropy},
    {"count_correct", test_count_correct},
    {"optimizers", test_optimizers},
    {"probes", test_probes},
    {"matmul", test_matmul},
};

}  // namespace

int main(int argc, char** argv) {
  for (const Test& test : tests) {
    if (argc < 2 || !strcmp(argv[1], test.name)) test.run();
  }
  return failures ? 1 : 0;
}
