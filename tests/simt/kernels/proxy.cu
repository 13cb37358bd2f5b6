// Shared memory seen by ordinary code and by the asynchronous proxy (TMA, wgmma).
// Bugs of proxy_product: 1 no fence.proxy.async after ordinary writes, 2 no barrier, 3 no barrier
// after mbar_init. Of tma_double: 1 no fence before the store, 2 buffer rewritten before the store
// has read it, 3 the kernel ends before that.
#include "demos.h"

namespace {

struct Smem {
  bf16 a[64 * 64];
  uint64_t bar;
};

__device__ uint64_t descriptor(const void* p) {
  const uint64_t start = (simt::smem_u32(p) & 0x3FFFF) >> 4;
  return start | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

template <int bug> __global__ void proxy_product_kernel(const bf16* a, float* c) {
  DYN_SMEM(Smem, smem);
  const int t = threadIdx.x;
  if (t == 0) simt::mbar_init(&smem->bar, 128);
  for (int i = t; i < 64 * 64; i += 128) {
    const int row = i / 64, column = i % 64;
    smem->a[row * 64 + ((column / 8) ^ (row % 8)) * 8 + column % 8] = a[i];
  }
  if (bug != 1) simt::fence_proxy_async();
  if (bug != 2 && bug != 3) __syncthreads();
  if (bug != 2) simt::mbar_arrive(&smem->bar);
  if (bug != 2) simt::mbar_wait(&smem->bar, 0);

  float sums[32] = {};
  simt::wgmma_fence();
  for (int k = 0; k < 64; k += 16) {
    simt::wgmma_bf16<64>(sums, descriptor(smem->a) + k / 8, descriptor(smem->a) + k / 8);
  }
  simt::wgmma_commit();
  simt::wgmma_wait<0>();
  simt::wgmma_pin(sums);
  for (int i = 0; i < 32; i++) {
    const int row = t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2);
    c[row * 64 + i / 4 * 8 + t % 4 * 2 + i % 2] = sums[i];
  }
}

struct Buffer {
  float values[32 * 32];
  uint64_t bar;
};

template <int bug>
__global__ void tma_double_kernel(const __grid_constant__ CUtensorMap x_map,
                                  const __grid_constant__ CUtensorMap y_map) {
  DYN_SMEM(Buffer, buffer);
  const int t = threadIdx.x;
  if (t == 0) simt::mbar_init(&buffer->bar, 1);
  __syncthreads();
  for (int box = 0; box < 4; box++) {
    const int x = box % 2 * 32, y = box / 2 * 32;
    if (t == 0) {
      if (bug != 2 && box > 0) simt::tma_store_wait_read<0>();
      simt::mbar_expect_tx(&buffer->bar, sizeof buffer->values);
      simt::tma_load_2d(buffer->values, &x_map, &buffer->bar, x, y);
    }
    simt::mbar_wait(&buffer->bar, box & 1);
    for (int i = t; i < 32 * 32; i += 64) buffer->values[i] *= 2;
    if (bug != 1) simt::fence_proxy_async();
    __syncthreads();
    if (t == 0) {
      simt::tma_store_2d(&y_map, buffer->values, x, y);
      simt::tma_store_commit();
    }
  }
  if (t == 0 && bug != 3) simt::tma_store_wait<0>();
}

cudaError_t map_fp32(CUtensorMap* map, const float* p) {
  return simt::make_tensor_map_2d(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, p, 52, 52, 64 * 4, 32, 32,
                                  CU_TENSOR_MAP_SWIZZLE_128B);
}

}  // namespace

cudaError_t proxy_product(int bug, const bf16* a, float* c) {
  return with_bug<3>(bug, [&](auto which) {
    return simt::launch(proxy_product_kernel<which()>, dim3(1), dim3(128), sizeof(Smem), nullptr, a,
                        c);
  });
}

cudaError_t tma_double(int bug, const float* x, float* y) {
  CUtensorMap x_map, y_map;
  cudaError_t error = map_fp32(&x_map, x);
  if (error == cudaSuccess) error = map_fp32(&y_map, y);
  if (error != cudaSuccess) return error;
  return with_bug<3>(bug, [&](auto which) {
    return simt::launch(tma_double_kernel<which()>, dim3(1), dim3(64), sizeof(Buffer), nullptr,
                        x_map, y_map);
  });
}
