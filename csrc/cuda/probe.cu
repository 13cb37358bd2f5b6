// What the GPU can do, so that timings can be told as a share of it. probe_fma: a Vec of
// independent FMA chains a thread, hiding each other's latency. probe_read: a block a row, every
// byte of x read once and next to nothing written.
#include "elementwise.cuh"

namespace {

constexpr int kThreads = 256;

template <class T> struct Chains {
  const T* x;
  T* y;
  i64 rounds;

  __device__ NoConstants constants() const { return {}; }
  template <class At> __device__ void operator()(NoConstants, At at) const {
    const Vec<T> half = set1(T(0.5));
    Vec<T> chain = at.load(x);
#pragma unroll 32
    for (i64 round = 0; round < rounds; round++) chain = fma(chain, half, half);
    at.store(y, chain);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads)
    read_rows_kernel(const T* x, i64 c, bool aligned, T* y) {
  constexpr i64 lanes = Vec<T>::lanes;
  const T* row = x + i64(blockIdx.x) * c;
  Vec<T> sums = zero<T>();
#pragma unroll 4
  for (i64 j = threadIdx.x * lanes; j < c; j += kThreads * lanes) {
    sums = sums + (aligned ? load_aligned(row + j) : load_n(row + j, c - j));
  }
  T sum = sums.v[0];
#pragma unroll
  for (int l = 1; l < lanes; l++) sum += sums.v[l];
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) y[blockIdx.x] = sum;
}

}  // namespace

CUDA_KERNEL(probe_fma) { return each<T>(call, a.n, Chains<T>{a.x, a.y, a.rounds}, a.x, a.y); }

CUDA_KERNEL(probe_read) {
  if (a.n == 0) return cudaSuccess;
  const bool aligned = is_aligned(a.x) && a.c % Vec<T>::lanes == 0;
  return simt::launch(read_rows_kernel<T>, dim3(unsigned(a.n)), dim3(kThreads), 0, call.stream, a.x,
                      a.c, aligned, a.y);
}
