// bf16 product on tensor cores: three stages of cp.async, ldmatrix, mma.sync m16n8k16.
// Bugs: 1 one group too many left under way, 2 no barrier after the wait, 3 stage refilled too
// early, 4 fragments swapped, 5 ldmatrix beyond the tile, 6 rows beyond the matrix are read.
#include "demos.h"

namespace {

constexpr int BM = 64, BN = 64, BK = 32, kThreads = 128, kStages = 3;
constexpr int kPitchA = BK + 8, kPitchB = BN + 8;  // rows in different banks

struct Smem {
  bf16 a[kStages][BM * kPitchA], b[kStages][BK * kPitchB];
};

template <int bug>
__device__ void fill(Smem* smem, int stage, const bf16* a, const bf16* b, int m, int n, int k,
                     int k0) {
  const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
  for (int e = threadIdx.x; e < BM * BK / 8; e += kThreads) {
    const int row = e / (BK / 8), column = e % (BK / 8) * 8;
    const bool inside = (bug == 6 || m0 + row < m) && k0 + column < k;
    simt::cp_async16(&smem->a[stage][row * kPitchA + column],
                     inside ? a + size_t(m0 + row) * k + k0 + column : a, inside);
  }
  for (int e = threadIdx.x; e < BK * BN / 8; e += kThreads) {
    const int row = e / (BN / 8), column = e % (BN / 8) * 8;
    const bool inside = n0 + column < n && k0 + row < k;
    simt::cp_async16(&smem->b[stage][row * kPitchB + column],
                     inside ? b + size_t(k0 + row) * n + n0 + column : b, inside);
  }
}

template <int bug>
__device__ void multiply_stage(const bf16* a, const bf16* b, int wm, int wn,
                               float (&sums)[2][4][4]) {
  const int lane = threadIdx.x % 32;
  for (int kk = 0; kk < BK; kk += 16) {
    uint32_t left[2][4], right[4][2];
    for (int i = 0; i < 2; i++) {
      const int row = wm + i * 16 + lane % 16 + (bug == 5 ? 16 : 0);
      simt::ldmatrix_x4(left[i], a + row * kPitchA + kk + lane / 16 * 8);
      if (bug == 4) {
        const uint32_t second = left[i][1];
        left[i][1] = left[i][2];
        left[i][2] = second;
      }
    }
    for (int j = 0; j < 2; j++) {
      uint32_t r[4];
      simt::ldmatrix_x4_trans(r, b + (kk + lane % 16) * kPitchB + wn + j * 16 + lane / 16 * 8);
      for (int i = 0; i < 4; i++) right[2 * j + i / 2][i % 2] = r[i];
    }
    for (int i = 0; i < 2; i++) {
      for (int j = 0; j < 4; j++) simt::mma_m16n8k16_bf16(sums[i][j], left[i], right[j]);
    }
  }
}

template <int bug>
__global__ void __launch_bounds__(kThreads)
    mma_gemm_kernel(const bf16* a, const bf16* b, float* c, int m, int n, int k) {
  DYN_SMEM(Smem, smem);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int wm = warp / 2 * 32, wn = warp % 2 * 32;
  const int steps = (k + BK - 1) / BK;
  float sums[2][4][4] = {};
  for (int s = 0; s < kStages - 1; s++) {
    if (s < steps) fill<bug>(smem, s, a, b, m, n, k, s * BK);
    simt::cp_async_commit();
  }
  for (int step = 0; step < steps; step++) {
    simt::cp_async_wait<bug == 1 ? kStages - 1 : kStages - 2>();
    if ((bug != 2 && bug != 3) || (bug == 3 && step == 0)) __syncthreads();
    const int next = step + kStages - 1;
    if (next < steps) fill<bug>(smem, next % kStages, a, b, m, n, k, next * BK);
    simt::cp_async_commit();
    multiply_stage<bug>(smem->a[step % kStages], smem->b[step % kStages], wm, wn, sums);
  }
  simt::cp_async_wait<0>();
  for (int e = 0; e < 32; e++) {
    const int i = e / 16, j = e / 4 % 4, r = e % 4;
    const int row = blockIdx.y * BM + wm + i * 16 + lane / 4 + 8 * (r / 2);
    const int column = blockIdx.x * BN + wn + j * 8 + lane % 4 * 2 + r % 2;
    if (row < m && column < n) c[size_t(row) * n + column] = sums[i][j][r];
  }
}

}  // namespace

cudaError_t mma_gemm(int bug, const bf16* a, const bf16* b, float* c, int m, int n, int k) {
  return with_bug<6>(bug, [&](auto which) {
    const dim3 grid((n + BN - 1) / BN, (m + BM - 1) / BM);
    return simt::launch(mma_gemm_kernel<which()>, grid, dim3(kThreads), sizeof(Smem), nullptr, a, b,
                        c, m, n, k);
  });
}
