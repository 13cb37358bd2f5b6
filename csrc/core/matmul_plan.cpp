#include "matmul_plan.h"

i64 matmul_scratch(i64 m, i64 n, i64 k, i64 itemsize, int threads) {
  const bool shares = threads > 1 && matmul_shares_chains(m, n, k, true);
  const i64 chains = shares ? matmul_chains(k) * m * n * itemsize : 0;
  return threads * matmul_slot(m, n, k, itemsize).bytes() + chains;
}
