// Kernels that go once over arrays of equal length, 16 bytes a thread and step, and sums over them.
#pragma once
#include <type_traits>

#include "math.cuh"
#include "reduce.cuh"

namespace {

constexpr int kEachThreads = 256;  // two blocks a multiprocessor leave a thread 128 registers
constexpr i64 kEachBlocks = 4096;  // at most; then each thread goes on to other elements

// Vec<T>::lanes elements from i on, fewer at the end of the n.
template <bool aligned> struct At {
  i64 i, n;

  template <class T> __device__ __forceinline__ bool whole() const {
    return aligned && n - i >= Vec<T>::lanes;
  }
  template <class T> __device__ __forceinline__ Vec<T> load(const T* p) const {
    if (whole<T>()) return load_aligned(p + i);
    return load_masked(p + i, first_n<T>(n - i));
  }
  template <class T> __device__ __forceinline__ void store(T* p, Vec<T> v) const {
    if (whole<T>())
      store_aligned(p + i, v);
    else
      store_masked(p + i, v, first_n<T>(n - i));
  }

  // As many bytes, and numbers made of them; 0 beyond the end.
  template <class T> using Bytes = std::conditional_t<sizeof(T) == 4, uchar4, uchar2>;
  template <class T> __device__ __forceinline__ Vec<T> load_bytes(const void* p) const {
    u8 bytes[Vec<T>::lanes] = {};
    const u8* from = static_cast<const u8*>(p) + i;
    if (whole<T>()) {
      const Bytes<T> loaded = *reinterpret_cast<const Bytes<T>*>(from);
      memcpy(bytes, &loaded, sizeof bytes);
    } else {
#pragma unroll
      for (int l = 0; l < Vec<T>::lanes; l++) {
        if (i + l < n) bytes[l] = from[l];
      }
    }
    Vec<T> v;
#pragma unroll
    for (int l = 0; l < Vec<T>::lanes; l++) v.v[l] = T(bytes[l]);
    return v;
  }
  template <class T> __device__ __forceinline__ void store_bools(bool* p, Mask<T> m) const {
    if (whole<T>()) {
      Bytes<T> bytes;
      memcpy(&bytes, m.v, sizeof bytes);
      *reinterpret_cast<Bytes<T>*>(p + i) = bytes;
    } else {
#pragma unroll
      for (int l = 0; l < Vec<T>::lanes; l++) {
        if (i + l < n) p[i + l] = m.v[l];
      }
    }
  }
};

// Of a grid in which each thread has `steps` Vecs to do, unless there are more blocks than `most`.
template <class T> unsigned blocks_of_vecs(i64 n, i64 steps, i64 most) {
  const i64 per_block = kEachThreads * Vec<T>::lanes * steps,
            blocks = (n + per_block - 1) / per_block;
  return unsigned(blocks < most ? blocks : most);
}

struct NoConstants {};

// f.constants(), what all elements share, worked out by one thread of each block.
template <class F> __device__ __forceinline__ auto shared_constants(const F& f) {
  using Constants = decltype(f.constants());
  __shared__ Constants constants;
  if constexpr (!std::is_same_v<Constants, NoConstants>) {
    if (threadIdx.x == 0) constants = f.constants();
    __syncthreads();
  }
  return constants;
}

// By block `block` of `blocks`.
template <class T, bool aligned, class F>
__device__ __forceinline__ void each_vec(i64 n, i64 block, i64 blocks, F&& f) {
  const i64 lanes = Vec<T>::lanes, step = blocks * kEachThreads * lanes;
  for (i64 i = (block * kEachThreads + threadIdx.x) * lanes; i < n; i += step) {
    f(At<aligned>{i, n});
  }
}

// ---- f(constants, at) for every Vec --------------------------------------------------------

template <class T, bool aligned, class F>
__global__ void __launch_bounds__(kEachThreads, 2) each_kernel(i64 n, F f) {
  const auto constants = shared_constants(f);
  each_vec<T, aligned>(n, blockIdx.x, gridDim.x, [&](auto at) { f(constants, at); });
}

// aligned: all that f touches.
template <class T, class F>
cudaError_t each_if_aligned(const CudaCall& call, i64 n, F f, bool aligned) {
  if (n == 0) return cudaSuccess;
  const dim3 grid(blocks_of_vecs<T>(n, 1, kEachBlocks)), block(kEachThreads);
  return simt::launch(aligned ? each_kernel<T, true, F> : each_kernel<T, false, F>, grid, block, 0,
                      call.stream, n, f);
}
// arrays: all that f touches; null ones are not touched.
template <class T, class F, class... Arrays>
cudaError_t each(const CudaCall& call, i64 n, F f, Arrays... arrays) {
  return each_if_aligned<T>(call, n, f, (is_aligned(arrays) && ...));
}

// ---- the sum of f(constants, at), a double, over all Vecs ----------------------------------

template <class T> unsigned sum_blocks(i64 n) { return blocks_of_vecs<T>(n, 4, 1024); }

template <class T, bool aligned, class F>
__global__ void __launch_bounds__(kEachThreads, 2) sum_kernel(i64 n, F f, double* sums) {
  const auto constants = shared_constants(f);
  double sum = 0;
  each_vec<T, aligned>(n, blockIdx.x, gridDim.x, [&](auto at) { sum += f(constants, at); });
  sum = block_sum<kEachThreads>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One sum a block, in sums[0 .. sum_blocks<T>(n)).
template <class T, class F, class... Arrays>
cudaError_t sum_each(const CudaCall& call, i64 n, F f, double* sums, Arrays... arrays) {
  if (n == 0) return cudaSuccess;
  const bool aligned = (is_aligned(arrays) && ...);
  return simt::launch(aligned ? sum_kernel<T, true, F> : sum_kernel<T, false, F>,
                      dim3(sum_blocks<T>(n)), dim3(kEachThreads), 0, call.stream, n, f, sums);
}

}  // namespace
