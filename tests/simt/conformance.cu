// Every wrapper of csrc/cuda/simt.cuh on small inputs with known answers. Compiles with g++ for the
// emulator and with nvcc for a GPU, where it tells whether the PTX does what the emulator assumes:
//   nvcc -std=c++20 -gencode arch=compute_90a,code=sm_90a -I csrc -I csrc/cuda
//        -I tests/simt -o conformance tests/simt/conformance.cu && ./conformance
// Inputs are multiples of 1/64 of at most 4, so sums of products are exact in any order.
#include <algorithm>
#include <utility>

#include "harness.h"
#include "reduce.cuh"

namespace {

using bf16 = __nv_bfloat16;

template <class T> std::vector<T> grid_values(size_t count, int step) {
  std::vector<T> v(count);
  for (size_t i = 0; i < count; i++) v[i] = T(float(int(i * step % 61) - 30) / 16);
  return v;
}

template <class T> std::vector<double> widened(const std::vector<T>& v) {
  std::vector<double> wide(v.size());
  for (size_t i = 0; i < v.size(); i++) wide[i] = double(float(v[i]));
  return wide;
}

template <class T>
void check_exact(const char* what, const Device<T>& got, const std::vector<double>& expected) {
  OK(cudaDeviceSynchronize());
  check(what, got.copy(), expected, {1}, 0);
}

// ---- warps ---------------------------------------------------------------------------------

__global__ void shuffle_kernel(int* y) {
  const int lane = threadIdx.x;
  y[lane] = __shfl_sync(~0u, lane, 5, 8);
  y[32 + lane] = __shfl_xor_sync(~0u, lane, 3);
  y[64 + lane] = __shfl_down_sync(~0u, lane, 4, 16);
  y[96 + lane] = __shfl_up_sync(~0u, lane, 2);
  y[128 + lane] = int(__ballot_sync(~0u, lane % 3 == 0));
  y[160 + lane] = __any_sync(~0u, lane == 7) + 2 * __all_sync(~0u, lane < 31);
  const unsigned half = lane < 16 ? 0xFFFFu : 0xFFFF0000u;
  y[192 + lane] = __shfl_xor_sync(half, lane, 1, 16);
}
void test_shuffles() {
  Device<int> y(224);
  OK(simt::launch(shuffle_kernel, dim3(1), dim3(32), 0, nullptr, y.get()));
  std::vector<double> expected(224);
  unsigned thirds = 0;
  for (int lane = 0; lane < 32; lane += 3) thirds |= 1u << lane;
  for (int lane = 0; lane < 32; lane++) {
    expected[lane] = lane / 8 * 8 + 5;
    expected[32 + lane] = lane ^ 3;
    expected[64 + lane] = lane % 16 + 4 < 16 ? lane + 4 : lane;
    expected[96 + lane] = lane >= 2 ? lane - 2 : lane;
    expected[128 + lane] = int(thirds);
    expected[160 + lane] = 1;
    expected[192 + lane] = lane ^ 1;
  }
  check_exact("shuffles and votes", y, expected);
}

__global__ void atomics_kernel(unsigned* y, float* sum) {
  atomicAdd(&y[0], 3u);
  atomicMax(&y[1], threadIdx.x);
  atomicMin(&y[2], threadIdx.x + 7);
  atomicInc(&y[3], 9u);
  atomicCAS(&y[4], 0u, 1u + threadIdx.x / 64);
  atomicAdd(sum, 0.5f);
}
void test_atomics() {
  const std::vector<unsigned> start = {0, 0, 1000, 0, 0};
  Device<unsigned> y(start);
  Device<float> sum(std::vector<float>(1, 0.f));
  OK(simt::launch(atomics_kernel, dim3(4), dim3(64), 0, nullptr, y.get(), sum.get()));
  check_exact("atomics", y, {768, 63, 7, 256 % 10, 1});
  check_exact("atomic float addition", sum, {128});
}

__global__ void reductions_kernel(const double* x, double* partial, unsigned* counter, double* y) {
  const double mine = x[blockIdx.x * 128 + threadIdx.x];
  const double of_eight = warp_sum<8>(mine), most = warp_max(mine);
  if (blockIdx.x == 0 && threadIdx.x == 13) y[1] = of_eight;
  if (blockIdx.x == 0 && threadIdx.x == 40) y[2] = most;
  const double sum = block_sum<128>(mine);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
  if (!is_last_block(counter, gridDim.x)) return;
  if (threadIdx.x != 0) return;
  double total = 0;
  for (unsigned b = 0; b < gridDim.x; b++) total += partial[b];
  y[0] = total;
}
void test_reductions() {
  const std::vector<double> x = grid_values<double>(4 * 128, 7);
  Device<double> dx(x), partial(4), y(3);
  Device<unsigned> counter(std::vector<unsigned>(1, 0));
  for (int launch = 0; launch < 2; launch++) {
    OK(simt::launch(reductions_kernel, dim3(4), dim3(128), 0, nullptr, dx.get(), partial.get(),
                    counter.get(), y.get()));
  }
  std::vector<double> expected(3);
  for (double v : x) expected[0] += v;
  for (int i = 8; i < 16; i++) expected[1] += x[i];
  expected[2] = *std::max_element(x.begin() + 32, x.begin() + 64);
  check_exact("sums of warps and blocks, last block", y, expected);
  check_exact("the last block resets its counter", counter, {0});
}

// ---- launches, barriers --------------------------------------------------------------------

__global__ void add_one_kernel(const float* x, float* y, int n) {
  simt::wait_for_previous_kernel();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = __ldg(&x[i]) + 1;
  simt::let_next_kernel_start();
}
void test_dependent_launches() {
  const int n = 1000;
  Device<float> x(std::vector<float>(n, 0.f)), y(n);
  for (int i = 0; i < 4; i++) {
    OK(simt::launch_dependent(add_one_kernel, dim3(8), dim3(128), 0, nullptr,
                              i % 2 ? y.get() : x.get(), i % 2 ? x.get() : y.get(), n));
  }
  check_exact("programmatic dependent launches", x, std::vector<double>(n, 4));
}

void test_launch_errors() {
  const cudaError_t error =
      simt::launch(add_one_kernel, dim3(1), dim3(2048), 0, nullptr, static_cast<float*>(nullptr),
                   static_cast<float*>(nullptr), 0);
  failures += error == cudaSuccess;
  printf("%s a launch of 2048 threads a block is refused\n", error ? "ok  " : "FAIL");
  cudaGetLastError();
}

struct Exchange {
  int values[64];
};
__global__ void barriers_kernel(int* scratch, int* y) {
  DYN_SMEM(Exchange, smem);
  const int t = threadIdx.x, i = blockIdx.x * 128 + t;
  if (t < 64) {
    smem->values[t] = 100 * blockIdx.x + t;
    simt::bar_arrive(3, 128);
  } else {
    simt::bar_sync(3, 128);
    scratch[i - 64] = smem->values[127 - t];
    scratch[i] = -1;
  }
  simt::grid_sync();
  y[i] = scratch[256 - 1 - i];
}
void test_barriers() {
  Device<int> scratch(256), y(256);
  OK(simt::launch_coop(barriers_kernel, dim3(2), dim3(128), sizeof(Exchange), nullptr,
                       scratch.get(), y.get()));
  std::vector<double> expected(256, -1);
  for (int i = 0; i < 256; i++) {
    const int from = 255 - i;
    if (from % 128 < 64) expected[i] = 100 * (from / 128) + 63 - from % 128;
  }
  check_exact("named barriers, grid sync", y, expected);
}

// ---- cp.async, ldmatrix, mma.sync ----------------------------------------------------------

__global__ void cp_async_kernel(const float* x, float* y) {
  __shared__ __align__(16) float smem[256];
  const int t = threadIdx.x;
  simt::cp_async16(&smem[4 * t], &x[4 * t], t != 3);
  simt::cp_async_commit();
  simt::cp_async4(&smem[128 + t], &x[128 + t], t != 5);
  simt::cp_async_commit();
  simt::cp_async_wait<1>();
  __syncwarp();
  for (int i = t; i < 128; i += 32) y[i] = smem[i];
  simt::cp_async_wait<0>();
  __syncwarp();
  y[128 + t] = smem[128 + 31 - t];
}
__global__ void cp_async_part_kernel(const float* x, float* y) {
  __shared__ __align__(16) float smem[20];
  const int t = threadIdx.x;
  if (t < 5) simt::cp_async16_part(&smem[4 * t], &x[4 * t], 4 * t);
  simt::cp_async_commit();
  simt::cp_async_wait<0>();
  __syncwarp();
  if (t < 20) y[t] = smem[t];
}
void test_cp_async_part() {
  const std::vector<float> x = grid_values<float>(20, 7);
  Device<float> dx(x), y(20);
  OK(simt::launch(cp_async_part_kernel, dim3(1), dim3(32), 0, nullptr, dx.get(), y.get()));
  std::vector<double> expected = widened(x);
  for (int i = 0; i < 20; i++) expected[i] = i % 4 < i / 4 ? x[i] : 0;
  check_exact("cp.async of part of 16 bytes", y, expected);
}

void test_cp_async() {
  const std::vector<float> x = grid_values<float>(160, 7);
  Device<float> dx(x), y(160);
  OK(simt::launch(cp_async_kernel, dim3(1), dim3(32), 0, nullptr, dx.get(), y.get()));
  std::vector<double> expected = widened(x);
  for (int i = 12; i < 16; i++) expected[i] = 0;
  for (int t = 0; t < 32; t++) expected[128 + t] = t == 31 - 5 ? 0 : x[128 + 31 - t];
  check_exact("cp.async 16 and 4 bytes, zero fill, groups", y, expected);
}

__global__ void streaming_kernel(const float4* x, float4* y) {
  const int i = threadIdx.x;
  __stcs(&y[i], __ldcs(&x[i]));
  __stcg(&y[32 + i], __ldcg(&x[32 + i]));
}
void test_streaming() {
  const std::vector<float> x = grid_values<float>(256, 5);
  Device<float> dx(x), y(256);
  OK(simt::launch(streaming_kernel, dim3(1), dim3(32), 0, nullptr,
                  reinterpret_cast<const float4*>(dx.get()), reinterpret_cast<float4*>(y.get())));
  check_exact("streaming loads and stores of 16 bytes", y, widened(x));
}

enum class Half { bf16, fp16 };

// 16 x 16 times 16 x 8, b row-major: one operand by ldmatrix, the other transposed.
template <Half half> __global__ void mma_16_kernel(const uint16_t* a, const uint16_t* b, float* c) {
  __shared__ __align__(16) uint16_t a_tile[16 * 16], b_tile[16 * 16];
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) a_tile[i] = a[i];
  for (int i = lane; i < 256; i += 32) b_tile[i] = b[i];
  __syncwarp();
  uint32_t left[4], both[4];
  simt::ldmatrix_x4(left, &a_tile[lane % 16 * 16 + lane / 16 * 8]);
  simt::ldmatrix_x4_trans(both, &b_tile[lane % 16 * 16 + lane / 16 * 8]);
  for (int j = 0; j < 2; j++) {
    const uint32_t right[2] = {both[2 * j], both[2 * j + 1]};
    float d[4] = {};
    if (half == Half::bf16)
      simt::mma_m16n8k16_bf16(d, left, right);
    else
      simt::mma_m16n8k16_fp16(d, left, right);
    for (int i = 0; i < 4; i++) {
      c[(lane / 4 + 8 * (i / 2)) * 16 + 8 * j + 2 * (lane % 4) + i % 2] = d[i];
    }
  }
}
template <Half half, class T> void test_mma_16(const char* what) {
  const std::vector<T> a = grid_values<T>(256, 7), b = grid_values<T>(256, 11);
  Device<T> da(a), db(b);
  Device<float> c(256);
  OK(simt::launch(mma_16_kernel<half>, dim3(1), dim3(32), 0, nullptr,
                  reinterpret_cast<const uint16_t*>(da.get()),
                  reinterpret_cast<const uint16_t*>(db.get()), c.get()));
  check_exact(what, c, multiply(a, b, 16, 16, 16).value);
}

__global__ void mma_8_kernel(const float* a, const float* b, float* c) {
  const int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  uint32_t left[4], right[2];
  for (int i = 0; i < 4; i++) left[i] = simt::to_tf32(a[(g + 8 * (i % 2)) * 8 + t + 4 * (i / 2)]);
  for (int i = 0; i < 2; i++) right[i] = simt::to_tf32(b[(t + 4 * i) * 8 + g]);
  float d[4] = {};
  simt::mma_m16n8k8_tf32(d, left, right);
  for (int i = 0; i < 4; i++) c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = d[i];
}
void test_mma_8() {
  const std::vector<float> a = grid_values<float>(128, 7), b = grid_values<float>(64, 11);
  Device<float> da(a), db(b), c(128);
  OK(simt::launch(mma_8_kernel, dim3(1), dim3(32), 0, nullptr, da.get(), db.get(), c.get()));
  check_exact("mma.m16n8k8.tf32", c, multiply(a, b, 16, 8, 8).value);
}

__global__ void tf32_kernel(const float* x, float* y) {
  y[threadIdx.x] = __uint_as_float(simt::to_tf32(x[threadIdx.x]) & ~0x1fffu);
}
void test_tf32_rounding() {
  std::vector<float> x(32);
  std::vector<double> expected(32);
  for (int i = 0; i < 32; i++) {  // steps of an eighth of tf32's last place
    x[i] = (i % 2 ? -1.f : 1.f) * (1 + float(i) * 0x1p-13f);
    expected[i] = (i % 2 ? -1 : 1) * (1 + floor(i * 0x1p-3 + 0.5) * 0x1p-10);
  }
  Device<float> dx(x), y(32);
  OK(simt::launch(tf32_kernel, dim3(1), dim3(32), 0, nullptr, dx.get(), y.get()));
  check_exact("cvt.rna.tf32", y, expected);
}

// ---- Hopper: TMA, mbarriers, wgmma ---------------------------------------------------------

struct TmaSmem {
  float in[32 * 32];
  uint64_t bar;
};
__global__ void tma_kernel(const __grid_constant__ CUtensorMap from,
                           const __grid_constant__ CUtensorMap to) {
  DYN_SMEM(TmaSmem, smem);
  const int t = threadIdx.x;
  if (t == 0) {
    simt::mbar_init(&smem->bar, 65);
    simt::fence_mbar_init();
  }
  __syncthreads();
  for (int round = 0; round < 2; round++) {
    const int x = 40 * round - 10, y = 30 * round;
    if (t == 0) {
      simt::tma_store_wait_read<0>();
      simt::mbar_expect_tx(&smem->bar, sizeof smem->in);
      simt::tma_load_2d(smem->in, &from, &smem->bar, x, y);
    }
    simt::mbar_arrive(&smem->bar);
    simt::mbar_wait(&smem->bar, round & 1);
    for (int i = t; i < 32 * 32; i += 64) smem->in[i] += 1;
    simt::fence_proxy_async();
    __syncthreads();
    if (t == 0) {
      simt::tma_store_2d(&to, smem->in, x, y);
      simt::tma_store_commit();
    }
  }
  if (t == 0) simt::tma_store_wait<0>();
}
void test_tma() {
  const int rows = 50, pitch = 64, width = 53;
  const std::vector<float> x = grid_values<float>(size_t(rows) * pitch, 13);
  Device<float> dx(x), y(std::vector<float>(size_t(rows) * pitch, -9.f));
  CUtensorMap from, to;
  for (auto [map, p] : {std::pair(&from, dx.get()), std::pair(&to, y.get())}) {
    OK(simt::make_tensor_map_2d(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, p, width, rows, pitch * 4, 32,
                                32, CU_TENSOR_MAP_SWIZZLE_NONE));
  }
  OK(simt::launch(tma_kernel, dim3(1), dim3(64), sizeof(TmaSmem), nullptr, from, to));
  std::vector<double> expected(x.size(), -9);
  for (int i = 0; i < rows; i++) {
    for (int j = 0; j < width; j++) {
      const bool first = i < 32 && j < 22, second = i >= 30 && j >= 30;
      if (first || second) expected[size_t(i) * pitch + j] = double(x[size_t(i) * pitch + j]) + 1;
    }
  }
  check_exact("TMA load and store, edges, mbarrier phases", y, expected);
}

constexpr int kDepth = 64;  // terms of the products below

template <class T, int n> struct WgmmaSmem {
  T a[64 * kDepth], b[n * kDepth];
  uint64_t bar;
};

// A row of the swizzled pattern has 16 << swizzle bytes; the descriptor numbers them differently.

__device__ uint64_t descriptor(const void* p, int swizzle, uint32_t leading, uint32_t stride) {
  const uint64_t start = (simt::smem_u32(p) & 0x3FFFF) >> 4, layout = 4 - swizzle;
  return start | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 | layout << 62;
}

// c (64 x n) = a (64 x kDepth) b^T (n x kDepth), both K-major, in panels as wide as the pattern.
template <class T, int n, int swizzle>
__global__ void wgmma_kernel(const __grid_constant__ CUtensorMap a_map,
                             const __grid_constant__ CUtensorMap b_map, float* c) {
  constexpr int panel = (16 << swizzle) / int(sizeof(T)), step = 32 / int(sizeof(T));
  using Smem = WgmmaSmem<T, n>;
  DYN_SMEM(Smem, smem);
  const int t = threadIdx.x;
  if (t == 0) {
    simt::mbar_init(&smem->bar, 1);
    simt::fence_mbar_init();
  }
  __syncthreads();
  if (t == 0) {
    simt::mbar_expect_tx(&smem->bar, (64 + n) * kDepth * sizeof(T));
    for (int p = 0; p < kDepth / panel; p++) {
      simt::tma_load_2d(smem->a + p * 64 * panel, &a_map, &smem->bar, p * panel, 0);
      simt::tma_load_2d(smem->b + p * n * panel, &b_map, &smem->bar, p * panel, 0);
    }
  }
  simt::mbar_wait(&smem->bar, 0);
  float d[n / 2];
  for (int i = 0; i < n / 2; i++) d[i] = 1000;  // the first product must not add to it
  simt::wgmma_pin(d);
  simt::wgmma_fence();
#pragma unroll
  for (int k = 0; k < kDepth; k += step) {
    const int p = k / panel, inside = k % panel;
    const uint64_t a =
        descriptor(smem->a + p * 64 * panel + inside, swizzle, 16, 8 * (16 << swizzle));
    const uint64_t b =
        descriptor(smem->b + p * n * panel + inside, swizzle, 16, 8 * (16 << swizzle));
    if constexpr (std::is_same_v<T, __half>)
      simt::wgmma_fp16<n>(d, a, b, k > 0);
    else if constexpr (sizeof(T) == 2)
      simt::wgmma_bf16<n>(d, a, b, k > 0);
    else
      simt::wgmma_tf32<n>(d, a, b, k > 0);
  }
  simt::wgmma_commit();
  simt::wgmma_wait<0>();
  simt::wgmma_pin(d);
  for (int i = 0; i < n / 2; i++) {
    const int row = t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2);
    c[row * n + i / 4 * 8 + t % 4 * 2 + i % 2] = d[i];
  }
}

template <class T, int n, int swizzle = 3> void test_wgmma(const char* what) {
  const std::vector<T> a = grid_values<T>(64 * kDepth, 7), b = grid_values<T>(n * kDepth, 11);
  Device<T> da(a), db(b);
  Device<float> c(64 * n);
  const CUtensorMapDataType type = std::is_same_v<T, __half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                   : sizeof(T) == 2          ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                             : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  const uint32_t panel = (16 << swizzle) / sizeof(T);
  CUtensorMap a_map, b_map;
  OK(simt::make_tensor_map_2d(&a_map, type, da.get(), kDepth, 64, kDepth * sizeof(T), panel, 64,
                              CUtensorMapSwizzle(swizzle)));
  OK(simt::make_tensor_map_2d(&b_map, type, db.get(), kDepth, n, kDepth * sizeof(T), panel, n,
                              CUtensorMapSwizzle(swizzle)));
  OK(simt::launch(wgmma_kernel<T, n, swizzle>, dim3(1), dim3(128), sizeof(WgmmaSmem<T, n>), nullptr,
                  a_map, b_map, c.get()));
  check_exact(what, c, multiply(a, b, 64, n, kDepth, true).value);
}

// a^T b of row-major a and b (kDepth x 64): both operands MN-major. Registers move on the way.
__global__ void wgmma_transposed_kernel(const __grid_constant__ CUtensorMap a_map,
                                        const __grid_constant__ CUtensorMap b_map, float* c) {
  using Smem = WgmmaSmem<bf16, 64>;
  DYN_SMEM(Smem, smem);
  const int t = threadIdx.x;
  if (t == 0) {
    simt::mbar_init(&smem->bar, 1);
    simt::fence_mbar_init();
  }
  __syncthreads();
  if (t == 0) {
    simt::mbar_expect_tx(&smem->bar, 2 * 64 * kDepth * 2);
    simt::tma_load_2d(smem->a, &a_map, &smem->bar, 0, 0);
    simt::tma_load_2d(smem->b, &b_map, &smem->bar, 0, 0);
  }
  simt::setmaxnreg_dec<96>();
  simt::setmaxnreg_inc<128>();
  simt::mbar_wait(&smem->bar, 0);
  float d[32] = {};
  simt::wgmma_pin(d);
  simt::wgmma_fence();
#pragma unroll
  for (int k = 0; k < kDepth; k += 16) {
    simt::wgmma_bf16<64, 1, 1>(d, descriptor(smem->a + k * 64, 3, 64 * 128, 1024),
                               descriptor(smem->b + k * 64, 3, 64 * 128, 1024));
  }
  simt::wgmma_commit();
  simt::wgmma_wait<0>();
  simt::wgmma_pin(d);
  for (int i = 0; i < 32; i++) {
    const int row = t / 32 * 16 + t % 32 / 4 + 8 * (i / 2 % 2);
    c[row * 64 + i / 4 * 8 + t % 4 * 2 + i % 2] = d[i];
  }
}
void test_wgmma_transposed() {
  const std::vector<bf16> a = grid_values<bf16>(64 * kDepth, 7),
                          b = grid_values<bf16>(64 * kDepth, 11);
  std::vector<bf16> a_transposed(a.size());
  for (int i = 0; i < 64 * 64; i++) a_transposed[i % 64 * 64 + i / 64] = a[i];
  Device<bf16> da(a), db(b);
  Device<float> c(64 * 64);
  CUtensorMap a_map, b_map;
  for (auto [map, p] : {std::pair(&a_map, da.get()), std::pair(&b_map, db.get())}) {
    OK(simt::make_tensor_map_2d(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, p, 64, kDepth, 128, 64,
                                kDepth, CU_TENSOR_MAP_SWIZZLE_128B));
  }
  OK(simt::launch(wgmma_transposed_kernel, dim3(1), dim3(128), sizeof(WgmmaSmem<bf16, 64>), nullptr,
                  a_map, b_map, c.get()));
  check_exact("wgmma, both operands MN-major; setmaxnreg", c,
              multiply(a_transposed, b, 64, 64, kDepth).value);
}

bool has_sm90() {
#ifdef __CUDACC__
  int major = 0;
  OK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
  return major == 9;
#else
  return true;
#endif
}

}  // namespace

int main() {
  test_shuffles();
  test_atomics();
  test_reductions();
  test_launch_errors();
  test_barriers();
  test_cp_async();
  test_cp_async_part();
  test_streaming();
  test_mma_16<Half::bf16, bf16>("ldmatrix, mma.m16n8k16.bf16");
  test_mma_16<Half::fp16, __half>("ldmatrix, mma.m16n8k16.fp16");
  test_mma_8();
  test_tf32_rounding();
  if (!has_sm90()) {
    printf("skipped: TMA, wgmma and dependent launches need a GPU of compute capability 9.0\n");
    return failures ? 1 : 0;
  }
  test_dependent_launches();
  test_tma();
  test_wgmma<bf16, 64>("wgmma m64n64k16 bf16, 128-byte swizzle");
  test_wgmma<bf16, 128>("wgmma m64n128k16 bf16");
  test_wgmma<bf16, 192>("wgmma m64n192k16 bf16");
  test_wgmma<bf16, 256>("wgmma m64n256k16 bf16");
  test_wgmma<bf16, 64, 2>("wgmma m64n64k16 bf16, 64-byte swizzle");
  test_wgmma<bf16, 64, 1>("wgmma m64n64k16 bf16, 32-byte swizzle");
  test_wgmma<__half, 64>("wgmma m64n64k16 fp16");
  test_wgmma<__half, 128>("wgmma m64n128k16 fp16");
  test_wgmma<__half, 192>("wgmma m64n192k16 fp16");
  test_wgmma<__half, 256>("wgmma m64n256k16 fp16");
  test_wgmma<float, 64>("wgmma m64n64k8 tf32");
  test_wgmma<float, 128>("wgmma m64n128k8 tf32");
  test_wgmma<float, 192>("wgmma m64n192k8 tf32");
  test_wgmma<float, 256>("wgmma m64n256k8 tf32");
  test_wgmma_transposed();
  return failures ? 1 : 0;
}
