// The begin of a training step and its end. What changes from step to step and from run to run is
// read from device memory, so that one captured graph serves them all.
#include "../../core/permutation.h"
#include "../op.cuh"
#include "steps.h"

namespace fnn {
namespace {

constexpr int kThreads = 256, kWarp = 32;

// Row of the data that is row r of the batch at hand.
__device__ __forceinline__ i64 row_of(const CudaRun& run, i64 batch, i64 r) {
  const i64 step = run.period ? run.step % run.period : run.step;
  const i64 row = run.first_row + step * batch + r;
  return run.shuffle ? permuted(row, run.rows, run.seed, run.epoch) : row;
}

template <class Unit>
__device__ __forceinline__ void copy_row(char* to, const char* from, i64 bytes, unsigned lane) {
  for (i64 i = lane; i < bytes / i64(sizeof(Unit)); i += kWarp) {
    reinterpret_cast<Unit*>(to)[i] = reinterpret_cast<const Unit*>(from)[i];
  }
}

__device__ __forceinline__ float fused(float x, float scale, float offset) {
  return fmaf(x, scale, offset);
}
__device__ __forceinline__ double fused(double x, double scale, double offset) {
  return fma(x, scale, offset);
}

// As the op rescale.
template <class T>
__device__ __forceinline__ void rescale_row(char* to, const char* from, i64 bytes, double scale,
                                            double offset, unsigned lane) {
  for (i64 i = lane; i < bytes; i += kWarp) {
    const u8 x = reinterpret_cast<const u8*>(from)[i];
    reinterpret_cast<T*>(to)[i] = fused(T(x), T(scale), T(offset));
  }
}

// A warp for each row of each input. Every lane works the row's number out for itself.
__global__ void __launch_bounds__(kThreads) gather_kernel(const __grid_constant__ CudaGather a) {
  const i64 r = (i64(blockIdx.x) * kThreads + threadIdx.x) / kWarp;
  const unsigned lane = threadIdx.x % kWarp, input = blockIdx.y;
  if (r + lane + input == 0 && a.run->lr) *a.lr = a.run->lr[a.run->step];
  if (r >= a.batch) return;
  const i64 bytes = a.each[input].row_bytes;
  const int widened = a.each[input].widened;
  const double scale = a.each[input].scale, offset = a.each[input].offset;
  char* to = a.each[input].to + r * bytes * (widened ? widened : 1);
  const char* from = a.run->sources[input] + row_of(*a.run, a.batch, r) * bytes;
  const u64 together = u64(to) | u64(from) | u64(bytes);
  if (widened == 4) {
    rescale_row<float>(to, from, bytes, scale, offset, lane);
  } else if (widened == 8) {
    rescale_row<double>(to, from, bytes, scale, offset, lane);
  } else if (together % 16 == 0) {
    copy_row<uint4>(to, from, bytes, lane);
  } else if (together % 4 == 0) {
    copy_row<u32>(to, from, bytes, lane);
  } else {
    copy_row<u8>(to, from, bytes, lane);
  }
}

__global__ void __launch_bounds__(kWarp) conclude_kernel(const __grid_constant__ CudaConclude a) {
  const unsigned i = threadIdx.x;
  const i64 step = a.run->step;
  __syncwarp();
  if (i < unsigned(a.records) && a.run->records[i]) {
    const i64 words = a.each[i].size / 4;
    u32* to = reinterpret_cast<u32*>(a.run->records[i]) + step * words;
    for (i64 w = 0; w < words; w++) to[w] = static_cast<const u32*>(a.each[i].from)[w];
  }
  if (i > 0) return;
  a.run->step = step + 1;
  if (!a.updates) return;
  const i64 updates = *a.updates + 1;
  *a.updates = updates;
  *a.step = double(updates + 1);
}

}  // namespace

cudaError_t launch_gather(const CudaGather& gather, cudaStream_t stream) {
  const unsigned blocks = blocks_for(gather.batch, kThreads / kWarp);
  const dim3 grid(blocks ? blocks : 1, unsigned(gather.inputs));
  return simt::launch(gather_kernel, grid, dim3(kThreads), 0, stream, gather);
}

cudaError_t launch_conclude(const CudaConclude& conclude, cudaStream_t stream) {
  return simt::launch(conclude_kernel, dim3(1), dim3(kWarp), 0, stream, conclude);
}

}  // namespace fnn
