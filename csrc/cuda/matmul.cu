// Matrix product act(op(a) op(b) + bias): which of its kernels computes it, decided here by shape,
// strides and precision alone.
//
// Full precision runs on the ordinary cores. Mma::tf32x3 is as accurate in the emulator
// (tests/simt), but how a tensor core rounds its sums only a GPU can tell, as well as which of the
// two is faster; and where a factor is infinite it gives NaN. Until then nothing but the tests
// takes it.
#include "matmul.h"

#define FNN_DECLARE(type)                                             \
  extern "C" i64 fnn_cuda_column_sum_##type##_workspace(const void*); \
  extern "C" cudaError_t fnn_cuda_column_sum_##type(const void*, const CudaCall*);
FNN_DECLARE(f32)
FNN_DECLARE(f64)

namespace {

enum class Family { none, simt, skinny, mma };

template <class T> Family family_of(const matmul_args<T>& a) {
  if (a.m == 0 || a.n == 0) return Family::none;
  if (skinny_matmul_fits(a)) return Family::skinny;
  return sizeof(T) == 4 && a.precision >= 0 ? Family::mma : Family::simt;
}
Mma how_of(i64 precision) { return precision == 1 ? Mma::bf16 : Mma::tf32; }

// The column sums of b, which is contiguous where they are wanted, by a kernel of their own.
template <class T> column_sum_args<T> sum_of_b(const matmul_args<T>& a) {
  column_sum_args<T> sum{};
  sum.n = a.k;
  sum.c = a.n;
  sum.x = a.b;
  sum.y = a.b_sum;
  return sum;
}
template <class T> bool sums_b_apart(const matmul_args<T>& a) {
  return a.b_sum && (family_of(a) == Family::none || family_of(a) == Family::skinny);
}

template <class T> i64 workspace_of(const matmul_args<T>& a) {
  i64 bytes = 0;
  if (sums_b_apart(a)) {
    const auto sum = sum_of_b(a);
    bytes = sizeof(T) == 4 ? fnn_cuda_column_sum_f32_workspace(&sum)
                           : fnn_cuda_column_sum_f64_workspace(&sum);
  }
  i64 own = 0;
  switch (family_of(a)) {
    case Family::none: break;
    case Family::simt: own = simt_matmul_workspace(a); break;
    case Family::skinny: own = skinny_matmul_workspace(a); break;
    case Family::mma:
      if constexpr (sizeof(T) == 4) own = mma_matmul_workspace(a, how_of(a.precision));
      break;
  }
  return own > bytes ? own : bytes;
}

}  // namespace

CUDA_KERNEL_WITH_WORKSPACE(matmul, workspace_of(a)) {
  if (sums_b_apart(a)) {
    const auto sum = sum_of_b(a);
    const cudaError_t error = sizeof(T) == 4 ? fnn_cuda_column_sum_f32(&sum, &call)
                                             : fnn_cuda_column_sum_f64(&sum, &call);
    if (error != cudaSuccess) return error;
  }
  switch (family_of(a)) {
    case Family::simt: return simt_matmul(a, call);
    case Family::skinny: return skinny_matmul(a, call);
    case Family::mma:
      if constexpr (sizeof(T) == 4) return mma_matmul(a, call, how_of(a.precision));
    default: return cudaSuccess;
  }
}
