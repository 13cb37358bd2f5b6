#include "matmul_plan.h"

i64 matmul_scratch(i64 m, i64 n, i64 k, i64 itemsize, int threads) {
  return threads * matmul_slot(m, n, k, itemsize).bytes();
}
