// Kernels that go once over arrays of equal length, 16 bytes a thread and step.
#pragma once
#include <type_traits>

#include "math.cuh"
#include "op.cuh"

namespace {

constexpr int kEachThreads = 256;  // two blocks a multiprocessor leave a thread 128 registers
constexpr i64 kEachBlocks = 4096;  // at most; then each thread goes on to other elements

// Vec<T>::lanes elements from i on, fewer at the end of the n.
template <bool aligned> struct At {
  i64 i, n;

  template <class T> __device__ __forceinline__ Vec<T> load(const T* p) const {
    if (aligned && n - i >= Vec<T>::lanes) return load_aligned(p + i);
    return load_masked(p + i, first_n<T>(n - i));
  }
  template <class T> __device__ __forceinline__ void store(T* p, Vec<T> v) const {
    if (aligned && n - i >= Vec<T>::lanes)
      store_aligned(p + i, v);
    else
      store_masked(p + i, v, first_n<T>(n - i));
  }
};

struct NoConstants {};

// f(constants, at) for every element; f.constants(), what all elements share, is evaluated by one
// thread of each block.
template <class T, bool aligned, class F>
__global__ void __launch_bounds__(kEachThreads, 2) each_kernel(i64 n, F f) {
  using Constants = decltype(f.constants());
  __shared__ Constants constants;
  if constexpr (!std::is_same_v<Constants, NoConstants>) {
    if (threadIdx.x == 0) constants = f.constants();
    __syncthreads();
  }
  const i64 lanes = Vec<T>::lanes, step = i64(gridDim.x) * kEachThreads * lanes;
  for (i64 i = (i64(blockIdx.x) * kEachThreads + threadIdx.x) * lanes; i < n; i += step) {
    f(constants, At<aligned>{i, n});
  }
}

inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// arrays: all that f touches; null ones are not touched.
template <class T, class F, class... Arrays>
cudaError_t each(const CudaCall& call, i64 n, F f, Arrays... arrays) {
  if (n == 0) return cudaSuccess;
  const i64 blocks = (n + kEachThreads * Vec<T>::lanes - 1) / (kEachThreads * Vec<T>::lanes);
  const dim3 grid(unsigned(blocks < kEachBlocks ? blocks : kEachBlocks)), block(kEachThreads);
  if ((is_aligned(arrays) && ...)) {
    return simt::launch(each_kernel<T, true, F>, grid, block, 0, call.stream, n, f);
  }
  return simt::launch(each_kernel<T, false, F>, grid, block, 0, call.stream, n, f);
}

}  // namespace
