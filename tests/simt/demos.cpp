// demos NAME BUG [M N K]: one of kernels/, compared with a result in double precision.
#include "kernels/demos.h"

#include <string.h>

#include "harness.h"

namespace {

constexpr double kBound = 1e-6;  // of the sum of the terms' sizes

int bug, m = 70, n = 90, k = 50;

void run_vector_add() {
  const int count = 1000;
  const std::vector<float> a = random_normal(count, 1), b = random_normal(count, 2);
  Device<float> da(a), db(b), dc(count);
  OK(vector_add(da, db, dc, count));
  std::vector<double> expected(count);
  for (int i = 0; i < count; i++) expected[i] = double(a[i]) + b[i];
  check("vector_add", dc.copy(), expected, {10}, kBound);
}

void run_sgemm() {
  const std::vector<float> a = random_normal(size_t(m) * k, 1), b = random_normal(size_t(k) * n, 2);
  Device<float> da(a), db(b), dc(size_t(m) * n);
  OK(sgemm(bug, da, db, dc, m, n, k));
  const Product c = multiply(a, b, m, n, k);
  check("sgemm", dc.copy(), c.value, c.magnitude, kBound);
}

void run_cross_entropy() {
  const int rows = m, columns = n;
  const std::vector<float> x = random_normal(size_t(rows) * columns);
  std::vector<int> labels(rows);
  for (int i = 0; i < rows; i++) labels[i] = i * 7 % columns;
  Device<float> dx(x), gradient(x.size()), loss(1);
  Device<int> dlabels(labels);
  OK(cudaMemset(loss.get(), 0, sizeof(float)));
  OK(cross_entropy(bug, dx, dlabels, gradient, loss, rows, columns));

  std::vector<double> expected(x.size());
  double total = 0;
  for (int i = 0; i < rows; i++) {
    const float* row = &x[size_t(i) * columns];
    double sum = 0;
    for (int j = 0; j < columns; j++) sum += exp(double(row[j]));
    for (int j = 0; j < columns; j++) {
      expected[size_t(i) * columns + j] = (exp(double(row[j])) / sum - (j == labels[i])) / rows;
    }
    total += (log(sum) - row[labels[i]]) / rows;
  }
  check("cross_entropy gradient", gradient.copy(), expected, {1.0 / rows}, kBound);
  check("cross_entropy loss", loss.copy(), {total}, {10}, kBound);
}

void run_mma_gemm() {
  const int n8 = (n + 7) / 8 * 8, k8 = (k + 7) / 8 * 8;
  const std::vector<bf16> a = random_normal<bf16>(size_t(m) * k8, 1);
  const std::vector<bf16> b = random_normal<bf16>(size_t(k8) * n8, 2);
  Device<bf16> da(a), db(b);
  Device<float> dc(size_t(m) * n8);
  OK(mma_gemm(bug, da, db, dc, m, n8, k8));
  const Product c = multiply(a, b, m, n8, k8);
  check("mma_gemm", dc.copy(), c.value, c.magnitude, kBound);
}

void run_wgmma(bool transpose_b) {
  const int n8 = transpose_b ? (n + 7) / 8 * 8 : n, k8 = (k + 7) / 8 * 8;
  const std::vector<bf16> a = random_normal<bf16>(size_t(m) * k8, 1);
  const std::vector<bf16> b = random_normal<bf16>(size_t(k8) * n8, 2);
  Device<bf16> da(a), db(b);
  Device<float> dc(size_t(m) * n8);
  OK(wgmma_gemm(bug, transpose_b, da, db, dc, m, n8, k8));
  const Product c = multiply(a, b, m, n8, k8, !transpose_b);
  check("wgmma_gemm", dc.copy(), c.value, c.magnitude, kBound);
}

void run_last_block_sum() {
  const int count = 1000, blocks = 8;
  const std::vector<float> x = random_normal(count);
  Device<float> dx(x), partial(blocks), sum(1);
  Device<unsigned> counter(1);
  OK(cudaMemset(counter.get(), 0, sizeof(unsigned)));
  OK(last_block_sum(bug, dx, partial, counter, sum, count, blocks));
  double expected = 0, size = 0;
  for (float v : x) {
    expected += v;
    size += fabs(v);
  }
  check("last_block_sum", sum.copy(), {expected}, {size}, kBound);
}

void run_last_group_sum() {
  const int blocks = 5;
  const std::vector<float> x = random_normal(128 * blocks);
  Device<float> dx(x), partial(x.size()), sums(128);
  Device<unsigned> counters(std::vector<unsigned>(2, 0));
  OK(last_group_sum(bug, dx, partial, counters, sums, blocks));
  std::vector<double> expected(128);
  for (size_t i = 0; i < x.size(); i++) expected[i % 128] += 2.0 * x[i];
  check("last_group_sum", sums.copy(), expected, {10}, kBound);
}

void run_grid_reverse() {
  const int count = 1000;
  const std::vector<float> x = random_normal(count);
  Device<float> dx(x), scratch(count), y(count);
  OK(grid_reverse(bug, dx, scratch, y, count));
  std::vector<double> expected(count);
  for (int i = 0; i < count; i++) expected[i] = 2.0 * x[count - 1 - i];
  check("grid_reverse", y.copy(), expected, {1}, kBound);
}

void run_named_barriers() {
  const std::vector<float> x = random_normal(5 * 64);
  Device<float> dx(x), y(x.size());
  OK(named_barriers(bug, dx, y));
  std::vector<double> expected(x.size());
  for (size_t i = 0; i < x.size(); i++) expected[i] = x[i / 64 * 64 + 63 - i % 64];
  check("named_barriers", y.copy(), expected, {1}, 0);
}

void run_proxy_product() {
  const std::vector<bf16> a = random_normal<bf16>(64 * 64);
  Device<bf16> da(a);
  Device<float> dc(64 * 64);
  OK(proxy_product(bug, da, dc));
  const Product c = multiply(a, a, 64, 64, 64, true);
  check("proxy_product", dc.copy(), c.value, c.magnitude, kBound);
}

// The maps are of 52 x 52 of the 64 x 64 elements: what lies outside must stay untouched.
void run_tma_double() {
  const std::vector<float> x = random_normal(64 * 64), before(64 * 64, -1.f);
  Device<float> dx(x), dy(before);
  OK(tma_double(bug, dx, dy));
  std::vector<double> expected(x.size());
  for (size_t i = 0; i < x.size(); i++) {
    expected[i] = i / 64 < 52 && i % 64 < 52 ? 2.0 * x[i] : -1;
  }
  check("tma_double", dy.copy(), expected, {1}, 0);
}

struct Demo {
  const char* name;
  void (*run)();
};
const Demo demos[] = {
    {"vector_add", run_vector_add},           {"sgemm", run_sgemm},
    {"cross_entropy", run_cross_entropy},     {"mma_gemm", run_mma_gemm},
    {"wgmma_gemm", [] { run_wgmma(false); }}, {"wgmma_gemm_transposed", [] { run_wgmma(true); }},
    {"last_block_sum", run_last_block_sum},   {"grid_reverse", run_grid_reverse},
    {"named_barriers", run_named_barriers},   {"proxy_product", run_proxy_product},
    {"tma_double", run_tma_double},           {"last_group_sum", run_last_group_sum},
};

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2) bug = atoi(argv[2]);
  if (argc > 5) {
    m = atoi(argv[3]);
    n = atoi(argv[4]);
    k = atoi(argv[5]);
  }
  for (const Demo& demo : demos) {
    if (argc < 2 || !strcmp(argv[1], "all") || !strcmp(argv[1], demo.name)) demo.run();
  }
  return failures ? 1 : 0;
}
