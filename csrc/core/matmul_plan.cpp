#include "matmul_plan.h"

i64 matmul_scratch(i64 m, i64 n, i64 k, i64 itemsize, int threads) {
  const i64 chains = threads > 1 ? matmul_shared_chains(m, n, k) : 0;
  return threads * matmul_slot(m, n, k, itemsize).bytes() + chains * m * n * itemsize;
}
