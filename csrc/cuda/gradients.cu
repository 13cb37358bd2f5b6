// The norm of a gradient: one read. Squares of floats are exact as doubles and can't overflow; each
// chunk of 2^15 elements leaves one sum, and a second kernel adds those.
#include "math.cuh"
#include "reduce.cuh"

namespace {

constexpr int kThreads = 256;

i64 chunks(i64 n) { return (n + kChunk - 1) / kChunk; }

template <class T>
__global__ void __launch_bounds__(kThreads)
    square_sums_kernel(const T* x, i64 n, bool aligned, double* sums) {
  const i64 begin = i64(blockIdx.x) * kChunk, end = n < begin + kChunk ? n : begin + kChunk;
  const i64 lanes = Vec<T>::lanes;
  double sum = 0;
  for (i64 i = begin + threadIdx.x * lanes; i < end; i += kThreads * lanes) {
    const bool whole = aligned && end - i >= lanes;
    const Vec<T> v = whole ? load_aligned(x + i) : load_masked(x + i, first_n<T>(end - i));
    for (int j = 0; j < lanes; j++) sum = ::fma(double(v.v[j]), double(v.v[j]), sum);
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <class T> struct StoreRoot {
  T* norm;
  __device__ void operator()(double sum) const { *norm = T(::sqrt(sum)); }
};

}  // namespace

CUDA_KERNEL_WITH_WORKSPACE(l2_norm, chunks(a.n) * 8) {
  double* sums = reinterpret_cast<double*>(call.workspace);
  if (a.n > 0) {
    const bool aligned = reinterpret_cast<uintptr_t>(a.x) % 16 == 0;
    const cudaError_t error = simt::launch(square_sums_kernel<T>, dim3(unsigned(chunks(a.n))),
                                           dim3(kThreads), 0, call.stream, a.x, a.n, aligned, sums);
    if (error != cudaSuccess) return error;
  }
  return finish_sum(call, sums, chunks(a.n), StoreRoot<T>{a.norm});
}
