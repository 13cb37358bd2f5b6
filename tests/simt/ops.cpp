// ops [NAME]: the CUDA kernels of csrc/cuda but the matrix product's (matmul_ops.cpp) at odd sizes,
// next to the CPU's (ops_harness.h).
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
};

}  // namespace

int main(int argc, char** argv) {
  for (const Test& test : tests) {
    if (argc < 2 || !strcmp(argv[1], test.name)) test.run();
  }
  return failures ? 1 : 0;
}
