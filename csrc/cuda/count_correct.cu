// Accuracy: how many rows have their largest score at the target. With a known target no argmax is
// needed: the row is right unless an element before the target is at least as large or one after it
// larger. NaN counts as the largest value, the first of equals wins (as torch.argmax). One read of
// the scores, by 4 lanes a row or by 32; counts are integers, which may be added in any order.
#include "elementwise.cuh"

namespace {

constexpr int kThreads = 256;

typedef unsigned long long Count;

// Adds up over the block, and that to *total. All threads of the block take part.
__device__ void count(unsigned here, i64* total) {
  here = block_sum<kThreads>(here);
  if (threadIdx.x == 0 && here > 0) atomicAdd(reinterpret_cast<Count*>(total), Count(here));
}

// Whether x is larger; NaN is larger than any number.
template <class T> __device__ bool beats(T x, T best) { return x != x ? best == best : x > best; }

// The first largest of row[0 .. c), for all lanes of a group; c for an empty row.
template <int width, class T> __device__ i64 argmax(const T* row, i64 c) {
  T best = T(-INFINITY);
  i64 place = c;
  for (i64 j = threadIdx.x % width; j < c; j += width) {
    if (place == c || beats(row[j], best)) best = row[j], place = j;
  }
#pragma unroll
  for (int by = width / 2; by > 0; by /= 2) {
    const T other = __shfl_xor_sync(~0u, best, by);
    const i64 there = __shfl_xor_sync(~0u, place, by);
    if (beats(other, best) || (!beats(best, other) && there < place)) best = other, place = there;
  }
  return place;
}

// Whether the lane's elements leave the target the first largest.
template <int width, class T> __device__ bool holds(const T* row, i64 c, i64 target) {
  if (target < 0 || target >= c) return false;
  const T best = row[target];
  for (i64 j = threadIdx.x % width; j < c; j += width) {
    if (j < target ? !beats(best, row[j]) : beats(row[j], best)) return false;
  }
  return true;
}

template <class T, int width>
__global__ void __launch_bounds__(kThreads) count_correct_kernel(count_correct_args<T> a) {
  const i64 i = (i64(blockIdx.x) * kThreads + threadIdx.x) / width;
  const i64 c = i < a.n ? a.c : 0;
  const i64 target = !a.labels ? argmax<width>(a.probabilities + i * a.c, c)
                     : i < a.n ? a.labels[i]
                               : -1;
  int wrong = !holds<width>(a.logits + i * a.c, c, target);
#pragma unroll
  for (int by = width / 2; by > 0; by /= 2) wrong |= __shfl_xor_sync(~0u, wrong, by);
  count(threadIdx.x % width == 0 && !wrong, a.count);
}

template <class T> struct CountBinary {
  const T *logits, *targets;
  __device__ NoConstants constants() const { return {}; }
  template <class At> __device__ double operator()(NoConstants, At at) const {
    const Vec<T> x = at.load(logits), t = at.load(targets);
    int right = 0;
#pragma unroll
    for (int l = 0; l < Vec<T>::lanes; l++) {
      right += at.i + l < at.n && (x.v[l] > 0) == (t.v[l] > T(0.5));
    }
    return right;
  }
};
struct StoreCount {
  i64* count;
  __device__ void operator()(double sum) const { *count = i64(sum); }
};

}  // namespace

CUDA_KERNEL(count_correct) {
  const cudaError_t error = cudaMemsetAsync(a.count, 0, sizeof *a.count, call.stream);
  if (error != cudaSuccess || a.n == 0) return error;
  const i64 width = a.c <= 32 ? 4 : 32;
  return simt::launch(width == 4 ? count_correct_kernel<T, 4> : count_correct_kernel<T, 32>,
                      dim3(blocks_for(a.n, kThreads / width)), dim3(kThreads), 0, call.stream, a);
}

// Sums of doubles are exact for integers.
CUDA_KERNEL_WITH_WORKSPACE(count_correct_binary, 8 * sum_blocks<T>(a.n)) {
  double* sums = reinterpret_cast<double*>(call.workspace);
  const cudaError_t error =
      sum_each<T>(call, a.n, CountBinary<T>{a.logits, a.targets}, sums, a.logits, a.targets);
  if (error != cudaSuccess) return error;
  return finish_sum(call, sums, sum_blocks<T>(a.n), StoreCount{a.count});
}
