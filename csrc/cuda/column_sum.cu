// Column sums of a matrix: one read. Groups of 8 values are added up in T, the groups in double.
#include "channels.cuh"

namespace {

template <class T> struct ColumnSum {
  typedef TwoSums Sum;  // the second one stays 0
  column_sum_args<T> a;

  __device__ bool constants(const Walk<T>&) const { return true; }
  __device__ void take(const Walk<T>& walk, bool, i64 q, Sum (&sums)[Vec<T>::lanes]) const {
    Vec<T> sum = zero<T>();
#pragma unroll
    for (int r = 0; r < kTaken; r++) {
      const auto at = walk.at(q + r);
      if (at.exists) sum = sum + at.load(a.x);
    }
    add(sums, sum, zero<T>());
  }
  __device__ void finish(i64 j, const Sum& sum) const { a.y[j] = T(sum.first); }
};

}  // namespace

CUDA_KERNEL_WITH_WORKSPACE(column_sum, channel_workspace<ColumnSum<T>>(channels<T>(a.n, a.c, 1))) {
  return sum_channels<T>(call, channels<T>(a.n, a.c, 1, a.x), ColumnSum<T>{a}, call.workspace);
}
