// Between blocks: the last one to finish adds up what all have left; and a barrier of the grid.
// Bugs of last_block_sum: 1 no fence before the counter, 2 no __syncwarp in an exchange through
// shared memory. Of last_group_sum, where each half of a block has a counter of its own: 1 no
// barrier of the half before the fence, 2 no fence, 3 no barrier after the counter. Of
// grid_reverse: 1 no barrier of the grid. Of named_barriers: 1 the reader does not say that it has
// read.
#include "demos.h"

namespace {

template <int bug>
__global__ void last_block_sum_kernel(const float* x, float* partial, unsigned* counter, float* sum,
                                      int n) {
  __shared__ float shared[128];
  __shared__ bool last;
  const int t = threadIdx.x;
  float mine = 0;
  for (int i = blockIdx.x * 128 + t; i < n; i += gridDim.x * 128) mine += x[i];
  shared[t] = mine;
  __syncthreads();
  for (int half = 64; half >= 32; half /= 2) {
    if (t < half) shared[t] += shared[t + half];
    __syncthreads();
  }
  for (int half = 16; half && t < 32; half /= 2) {
    const float other = shared[t + half];
    if (bug != 2) __syncwarp();
    shared[t] += other;
    if (bug != 2) __syncwarp();
  }
  if (t == 0) {
    partial[blockIdx.x] = shared[0];
    if (bug != 1) __threadfence();
    last = atomicAdd(counter, 1u) == gridDim.x - 1;
    __threadfence();
  }
  __syncthreads();
  if (last && t == 0) {
    float total = 0;
    for (int b = 0; b < int(gridDim.x); b++) total += partial[b];
    *sum = total;
  }
}

struct Halves {
  bool last[2];
};

template <int bug>
__global__ void last_group_sum_kernel(const float* x, float* partial, unsigned* counters,
                                      float* sums) {
  DYN_SMEM(Halves, smem);
  const int t = threadIdx.x, half = t / 64;
  partial[blockIdx.x * 128 + t] = 2 * x[blockIdx.x * 128 + t];
  if (bug != 1) simt::bar_sync(1 + half, 64);
  if (t % 64 == 0) {
    if (bug != 2) __threadfence();
    smem->last[half] = atomicInc(&counters[half], gridDim.x - 1) == gridDim.x - 1;
    __threadfence();
  }
  if (bug != 3) simt::bar_sync(1 + half, 64);
  if (!smem->last[half]) return;
  float sum = 0;
  for (int b = 0; b < int(gridDim.x); b++) sum += partial[b * 128 + t];
  sums[t] = sum;
}

template <int bug>
__global__ void grid_reverse_kernel(const float* x, float* scratch, float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) scratch[i] = x[i] * 2.f;
  if (bug != 1) simt::grid_sync();
  if (i < n) y[i] = scratch[n - 1 - i];
}

constexpr int kRounds = 5;

struct Box {
  float values[64];
};

template <int bug> __global__ void named_barriers_kernel(const float* x, float* y) {
  DYN_SMEM(Box, box);
  const int lane = threadIdx.x % 64;
  for (int round = 0; round < kRounds; round++) {
    if (threadIdx.x < 64) {
      if (round > 0 && bug != 1) simt::bar_sync(2, 128);
      box->values[lane] = x[round * 64 + lane];
      simt::bar_arrive(1, 128);
    } else {
      simt::bar_sync(1, 128);
      y[round * 64 + lane] = box->values[63 - lane];
      if (round + 1 < kRounds && bug != 1) simt::bar_arrive(2, 128);
    }
  }
}

}  // namespace

cudaError_t last_block_sum(int bug, const float* x, float* partial, unsigned* counter, float* sum,
                           int n, int blocks) {
  return with_bug<2>(bug, [&](auto which) {
    return simt::launch(last_block_sum_kernel<which()>, dim3(blocks), dim3(128), 0, nullptr, x,
                        partial, counter, sum, n);
  });
}

cudaError_t last_group_sum(int bug, const float* x, float* partial, unsigned* counters, float* sums,
                           int blocks) {
  return with_bug<3>(bug, [&](auto which) {
    return simt::launch(last_group_sum_kernel<which()>, dim3(blocks), dim3(128), sizeof(Halves),
                        nullptr, x, partial, counters, sums);
  });
}

cudaError_t grid_reverse(int bug, const float* x, float* scratch, float* y, int n) {
  return with_bug<1>(bug, [&](auto which) {
    return simt::launch_coop(grid_reverse_kernel<which()>, dim3((n + 63) / 64), dim3(64), 0,
                             nullptr, x, scratch, y, n);
  });
}

cudaError_t named_barriers(int bug, const float* x, float* y) {
  return with_bug<1>(bug, [&](auto which) {
    return simt::launch(named_barriers_kernel<which()>, dim3(1), dim3(128), sizeof(Box), nullptr, x,
                        y);
  });
}
