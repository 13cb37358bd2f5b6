// Tiled product of row-major fp32 matrices of any size, and a vector addition.
// Bugs: 1 no barrier after the fill, 2 none at the loop's end, 3 shared write out of bounds,
// 4 global read out of bounds, 5 part of a tile never written, 6 divergent barrier, 7 accumulators
// never set.
#include "demos.h"

namespace {

constexpr int BM = 64, BN = 64, BK = 16, TM = 4, TN = 4, kThreads = 256;

__global__ void vector_add_kernel(const float* a, const float* b, float* c, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}

struct Tile {
  float (*a)[BM + 4];
  float (*b)[BN];
};

template <int bug>
__device__ void fill(Tile tile, const float* a, const float* b, int m, int n, int k, int k0) {
  const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
  for (int e = threadIdx.x; e < BM * BK; e += kThreads) {
    const int row = e / BK, column = e % BK;
    const bool in_rows = bug == 4 || m0 + row < m, in_columns = k0 + column < k;
    float* to = &tile.a[column][row];
    if (bug == 3 && column == BK - 1) to += BM + 4 + 1;
    if (bug == 5 && !in_columns) continue;
    *to = in_rows && in_columns ? a[size_t(m0 + row) * k + k0 + column] : 0.f;
  }
  for (int e = threadIdx.x; e < BN * BK; e += kThreads) {
    const int row = e / BN, column = e % BN;
    const bool inside = n0 + column < n && k0 + row < k;
    tile.b[row][column] = inside ? b[size_t(k0 + row) * n + n0 + column] : 0.f;
  }
}

template <int bug>
__global__ void __launch_bounds__(kThreads)
    sgemm_kernel(const float* a, const float* b, float* c, int m, int n, int k) {
  __shared__ __align__(16) float a_tile[BK][BM + 4];
  __shared__ __align__(16) float b_tile[BK][BN];
  const int tx = threadIdx.x % (BN / TN), ty = threadIdx.x / (BN / TN);
  const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
  float sums[TM][TN];
  if (bug != 7) {
    for (int i = 0; i < TM * TN; i++) sums[i / TN][i % TN] = 0;
  }
  for (int k0 = 0; k0 < k; k0 += BK) {
    fill<bug>({a_tile, b_tile}, a, b, m, n, k, k0);
    if (bug == 6 && m0 + ty * TM < m)
      __syncthreads();
    else if (bug != 1)
      __syncthreads();
    for (int l = 0; l < BK; l++) {
      const float4 left = *reinterpret_cast<const float4*>(&a_tile[l][ty * TM]);
      const float4 right = *reinterpret_cast<const float4*>(&b_tile[l][tx * TN]);
      const float x[4] = {left.x, left.y, left.z, left.w};
      const float y[4] = {right.x, right.y, right.z, right.w};
      for (int i = 0; i < TM; i++) {
        for (int j = 0; j < TN; j++) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
      }
    }
    if (bug != 2) __syncthreads();
  }
  for (int i = 0; i < TM; i++) {
    for (int j = 0; j < TN; j++) {
      const int row = m0 + ty * TM + i, column = n0 + tx * TN + j;
      if (row < m && column < n) c[size_t(row) * n + column] = sums[i][j];
    }
  }
}

}  // namespace

cudaError_t vector_add(const float* a, const float* b, float* c, int n) {
  return simt::launch(vector_add_kernel, dim3((n + 255) / 256), dim3(256), 0, nullptr, a, b, c, n);
}

cudaError_t sgemm(int bug, const float* a, const float* b, float* c, int m, int n, int k) {
  return with_bug<7>(bug, [&](auto which) {
    const dim3 grid((n + BN - 1) / BN, (m + BM - 1) / BM);
    return simt::launch(sgemm_kernel<which()>, grid, dim3(kThreads), 0, nullptr, a, b, c, m, n, k);
  });
}
