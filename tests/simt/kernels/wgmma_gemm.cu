// bf16 product on Hopper's tensor cores: TMA, a ring of mbarriers, wgmma; one producer warp and one
// consumer warpgroup.
// Bugs: 1 stage released before wgmma_wait, 2 no wgmma_fence, 3 wrong number of bytes expected,
// 4 wrong parity, 5 descriptor without swizzle, 6 stages never released, 7 accumulators read before
// the wait.
#include "demos.h"

namespace {

constexpr int BM = 64, BN = 64, BK = 64, kStages = 3, kThreads = 128 + 32;

struct Smem {
  bf16 a[kStages][BM * BK], b[kStages][BN * BK];
  uint64_t full[kStages], empty[kStages];
};

// Rows of 128 bytes, swizzled; groups of eight rows 1024 bytes apart.
template <int bug> __device__ uint64_t descriptor(const void* p) {
  const uint64_t start = (simt::smem_u32(p) & 0x3FFFF) >> 4, stride = 1024 >> 4;
  const uint64_t swizzle = bug == 5 ? 0 : 1;
  return start | uint64_t(1) << 16 | stride << 32 | swizzle << 62;
}

template <int bug, bool transpose_b>
__device__ void produce(Smem* smem, const CUtensorMap* a_map, const CUtensorMap* b_map, int steps) {
  const int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
  for (int step = 0; step < steps; step++) {
    const int s = step % kStages, parity = step / kStages & 1;
    simt::mbar_wait(&smem->empty[s], bug == 4 ? parity : parity ^ 1);
    const size_t bytes = sizeof smem->a[0] + (bug == 3 ? 0 : sizeof smem->b[0]);
    simt::mbar_expect_tx(&smem->full[s], uint32_t(bytes));
    simt::tma_load_2d(smem->a[s], a_map, &smem->full[s], step * BK, m0);
    simt::tma_load_2d(smem->b[s], b_map, &smem->full[s], transpose_b ? n0 : step * BK,
                      transpose_b ? step * BK : n0);
  }
}

template <int bug, bool transpose_b>
__device__ void consume(Smem* smem, float* c, int m, int n, int steps) {
  float sums[BN / 2] = {};
  for (int step = 0; step < steps; step++) {
    const int s = step % kStages, parity = step / kStages & 1;
    simt::mbar_wait(&smem->full[s], parity);
    if (bug != 2) simt::wgmma_fence();
    for (int k = 0; k < BK; k += 16) {
      const uint64_t a = descriptor<bug>(smem->a[s]) + (k * 2 >> 4);
      const uint64_t b = descriptor<bug>(smem->b[s]) + ((transpose_b ? k * 128 : k * 2) >> 4);
      simt::wgmma_bf16<BN, 0, transpose_b>(sums, a, b);
    }
    simt::wgmma_commit();
    if (bug != 1 && bug != 7) simt::wgmma_wait<0>();
    if (bug != 6 && threadIdx.x == 0) simt::mbar_arrive(&smem->empty[s]);
  }
  if (bug == 1) simt::wgmma_wait<0>();
  simt::wgmma_pin(sums);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int i = 0; i < BN / 2; i++) {
    const int row = blockIdx.y * BM + warp * 16 + lane / 4 + 8 * (i / 2 % 2);
    const int column = blockIdx.x * BN + i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (row < m && column < n) c[size_t(row) * n + column] = sums[i];
  }
  if (bug == 7) simt::wgmma_wait<0>();
}

template <int bug, bool transpose_b>
__global__ void __launch_bounds__(kThreads)
    wgmma_gemm_kernel(const __grid_constant__ CUtensorMap a_map,
                      const __grid_constant__ CUtensorMap b_map, float* c, int m, int n, int k) {
  DYN_SMEM(Smem, smem);
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; s++) {
      simt::mbar_init(&smem->full[s], 1);
      simt::mbar_init(&smem->empty[s], 1);
    }
    simt::fence_mbar_init();
  }
  __syncthreads();
  const int steps = (k + BK - 1) / BK;
  if (threadIdx.x < 128)
    consume<bug, transpose_b>(smem, c, m, n, steps);
  else if (threadIdx.x == 128)
    produce<bug, transpose_b>(smem, &a_map, &b_map, steps);
}

cudaError_t map_bf16(CUtensorMap* map, const bf16* p, int width, int height, int box_height) {
  return simt::make_tensor_map_2d(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, p, width, height,
                                  size_t(width) * 2, 64, box_height, CU_TENSOR_MAP_SWIZZLE_128B);
}

}  // namespace

cudaError_t wgmma_gemm(int bug, bool transpose_b, const bf16* a, const bf16* b, float* c, int m,
                       int n, int k) {
  CUtensorMap a_map, b_map;
  cudaError_t error = map_bf16(&a_map, a, k, m, BM);
  if (error == cudaSuccess) {
    error = transpose_b ? map_bf16(&b_map, b, n, k, BK) : map_bf16(&b_map, b, k, n, BN);
  }
  if (error != cudaSuccess) return error;
  const dim3 grid((n + BN - 1) / BN, (m + BM - 1) / BM), block(kThreads);
  if (transpose_b) {
    return simt::launch(wgmma_gemm_kernel<0, true>, grid, block, sizeof(Smem), nullptr, a_map,
                        b_map, c, m, n, k);
  }
  return with_bug<7>(bug, [&](auto which) {
    return simt::launch(wgmma_gemm_kernel<which(), false>, grid, block, sizeof(Smem), nullptr,
                        a_map, b_map, c, m, n, k);
  });
}
