// Sums and maxima over the lanes of a warp and the threads of a block, in a fixed order; and the
// block that comes last, which may put together what all blocks have left.
#pragma once
#include "op.cuh"

namespace {

// Over groups of `width` lanes, a power of two; every lane of the group gets the result.
template <int width = 32, class T> __device__ __forceinline__ T warp_sum(T x) {
#pragma unroll
  for (int by = width / 2; by > 0; by /= 2) x += __shfl_xor_sync(~0u, x, by);
  return x;
}
// The larger of two; a NaN among the values may or may not be the result.
template <int width = 32, class T> __device__ __forceinline__ T warp_max(T x) {
#pragma unroll
  for (int by = width / 2; by > 0; by /= 2) {
    const T other = __shfl_xor_sync(~0u, x, by);
    x = x > other ? x : other;
  }
  return x;
}

// Over a block of `threads`; the first warp gets the result. All threads of the block take part.
template <int threads, class T> __device__ __forceinline__ T block_sum(T x) {
  __shared__ T of_warp[threads / 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  x = warp_sum(x);
  __syncthreads();  // the last sum has been read
  if (lane == 0) of_warp[warp] = x;
  __syncthreads();
  return warp_sum(warp == 0 && lane < threads / 32 ? of_warp[lane] : T(0));
}

// True for the threads of the last of `blocks` blocks to come here, which then see what the others
// wrote before. The counter is 0 before and after.
__device__ __forceinline__ bool is_last_block(unsigned* counter, unsigned blocks) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicInc(counter, blocks - 1) == blocks - 1;
    __threadfence();
  }
  __syncthreads();
  return last;
}

// One block: finish(sum of n numbers) by thread 0.
constexpr int kSumThreads = 256;
template <class F>
__global__ void __launch_bounds__(kSumThreads) finish_sum_kernel(const double* x, i64 n, F finish) {
  double sum = 0;
  for (i64 i = threadIdx.x; i < n; i += kSumThreads) sum += x[i];
  sum = block_sum<kSumThreads>(sum);
  if (threadIdx.x == 0) finish(sum);
}
template <class F> cudaError_t finish_sum(const CudaCall& call, const double* x, i64 n, F finish) {
  return simt::launch(finish_sum_kernel<F>, dim3(1), dim3(kSumThreads), 0, call.stream, x, n,
                      finish);
}

}  // namespace
