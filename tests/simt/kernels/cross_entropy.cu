// Softmax cross-entropy and its gradient, a block of four warps per row.
// Bugs: 1 no barrier before the warps' results are read, 2 a shuffle that some lanes leave early,
// 3 array too small by one, 4 addition without an atomic, 5 array reused without a barrier,
// 6 early exit before a barrier.
#include "demos.h"

namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

__device__ float warp_max(float v) {
  for (int by = 16; by; by /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, by));
  return v;
}
__device__ float warp_sum(float v) {
  for (int by = 16; by; by /= 2) v += __shfl_xor_sync(~0u, v, by);
  return v;
}

template <int bug>
__global__ void cross_entropy_kernel(const float* logits, const int* labels, float* gradient,
                                     float* loss, int rows, int columns) {
  __shared__ float shared[bug == 3 ? kWarps - 1 : kWarps];
  const int row = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const float* x = logits + size_t(row) * columns;
  if (bug == 6 && int(threadIdx.x) >= columns) return;

  float most = -INFINITY;
  for (int c = threadIdx.x; c < columns; c += kThreads) {
    most = fmaxf(most, x[c]);
    if (bug == 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
  }
  most = warp_max(most);
  float* of_warp = shared;
  if (lane == 0) of_warp[warp] = most;
  if (bug != 1) __syncthreads();
  most = of_warp[0];
  for (int w = 1; w < kWarps; w++) most = fmaxf(most, of_warp[w]);
  if (bug != 5) __syncthreads();

  float sum = 0;
  for (int c = threadIdx.x; c < columns; c += kThreads) sum += expf(x[c] - most);
  sum = warp_sum(sum);
  if (lane == 0) of_warp[warp] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kWarps; w++) sum += of_warp[w];

  const float scale = 1.f / rows;
  for (int c = threadIdx.x; c < columns; c += kThreads) {
    const float p = expf(x[c] - most) / sum;
    gradient[size_t(row) * columns + c] = (p - (c == labels[row] ? 1.f : 0.f)) * scale;
  }
  if (threadIdx.x == 0) {
    const float mine = (logf(sum) + most - x[labels[row]]) * scale;
    if (bug == 4)
      *loss += mine;
    else
      atomicAdd(loss, mine);
  }
}

}  // namespace

cudaError_t cross_entropy(int bug, const float* logits, const int* labels, float* gradient,
                          float* loss, int rows, int columns) {
  return with_bug<6>(bug, [&](auto which) {
    return simt::launch(cross_entropy_kernel<which()>, dim3(rows), dim3(kThreads), 0, nullptr,
                        logits, labels, gradient, loss, rows, columns);
  });
}
