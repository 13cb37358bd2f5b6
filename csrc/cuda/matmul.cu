// Matrix product act(op(a) op(b) + bias): which of its kernels computes it, decided here by shape,
// strides and precision alone; but GPUs of compute capability 9.0 have a kernel of their own for
// large products in tf32 and bf16, whose bits are not those of other GPUs.
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

// A family that has been chosen, and whether it adds up the columns of b on its way.
struct Nothing {
  static constexpr bool sums_b = false;
  template <class T> i64 workspace(const matmul_args<T>&) const { return 0; }
  template <class T> cudaError_t launch(const matmul_args<T>&, const CudaCall&) const {
    return cudaSuccess;
  }
};
struct Simt {
  static constexpr bool sums_b = true;
  template <class T> i64 workspace(const matmul_args<T>& a) const {
    return simt_matmul_workspace(a);
  }
  template <class T> cudaError_t launch(const matmul_args<T>& a, const CudaCall& call) const {
    return simt_matmul(a, call);
  }
};
struct Skinny {
  static constexpr bool sums_b = false;
  template <class T> i64 workspace(const matmul_args<T>& a) const {
    return skinny_matmul_workspace(a);
  }
  template <class T> cudaError_t launch(const matmul_args<T>& a, const CudaCall& call) const {
    return skinny_matmul(a, call);
  }
};
struct TensorCores {
  static constexpr bool sums_b = true;
  Mma how;
  i64 workspace(const matmul_args<float>& a) const { return mma_matmul_workspace(a, how); }
  cudaError_t launch(const matmul_args<float>& a, const CudaCall& call) const {
    return mma_matmul(a, call, how);
  }
};
struct Hopper {
  static constexpr bool sums_b = false;
  Sm90aTile tile;
  i64 workspace(const matmul_args<float>& a) const { return sm90a_matmul_workspace(a, tile); }
  cudaError_t launch(const matmul_args<float>& a, const CudaCall& call) const {
    return sm90a_matmul(a, call, tile);
  }
};

// Multiplications below which the passes that rewrite the factors for Hopper take longer than they
// save. To be measured.
constexpr double kHopperProducts = 0x1p30;

struct SixteenBits {
  static constexpr bool sums_b = true;  // never asked for
  i64 workspace(const matmul_args<float>& a) const { return halves_matmul_workspace(a); }
  cudaError_t launch(const matmul_args<float>& a, const CudaCall& call) const {
    return halves_matmul(a, call);
  }
};

// use(the family for a)
template <class T, class Use> auto with_family(const matmul_args<T>& a, Use use) {
  if (a.m == 0 || a.n == 0) return use(Nothing());
  if (!a.halves && skinny_matmul_fits(a)) return use(Skinny());
  if constexpr (sizeof(T) == 4) {
    const bool large = double(a.m) * double(a.n) * double(a.k) >= kHopperProducts;
    if ((a.precision >= 0 || a.halves) && large && sm90a_matmul_fits(a))
      return use(Hopper{sm90a_tile(a)});
    if (a.halves) return use(SixteenBits());
    if (a.precision >= 0) return use(TensorCores{a.precision == 1 ? Mma::bf16 : Mma::tf32});
  }
  return use(Simt());
}

// The column sums of b, which is contiguous where they are wanted, by a kernel of their own.
template <class T> column_sum_args<T> sum_of_b(const matmul_args<T>& a) {
  column_sum_args<T> sum{};
  sum.n = a.k;
  sum.c = a.n;
  sum.x = a.b;
  sum.y = a.b_sum;
  return sum;
}
template <class T> i64 sum_workspace(const matmul_args<T>& a) {
  const auto sum = sum_of_b(a);
  return sizeof(T) == 4 ? fnn_cuda_column_sum_f32_workspace(&sum)
                        : fnn_cuda_column_sum_f64_workspace(&sum);
}
template <class T> cudaError_t launch_sum(const matmul_args<T>& a, const CudaCall& call) {
  const auto sum = sum_of_b(a);
  return sizeof(T) == 4 ? fnn_cuda_column_sum_f32(&sum, &call)
                        : fnn_cuda_column_sum_f64(&sum, &call);
}

template <class T> i64 workspace_of(const matmul_args<T>& a) {
  return with_family(a, [&](auto family) {
    const i64 own = family.workspace(a), sum = a.b_sum && !family.sums_b ? sum_workspace(a) : 0;
    return own > sum ? own : sum;  // one after the other
  });
}

}  // namespace

CUDA_KERNEL_WITH_WORKSPACE(matmul, workspace_of(a)) {
  return with_family(a, [&](auto family) {
    if (a.b_sum && !family.sums_b) {
      const cudaError_t error = launch_sum(a, call);
      if (error != cudaSuccess) return error;
    }
    return family.launch(a, call);
  });
}
