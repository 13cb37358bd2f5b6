// Small kernels that exercise the emulator. bug 0 is correct; the others are mistakes that the
// emulator must find (tests/test_simt.py says which build finds which).
#pragma once
#include <type_traits>

#include "simt.cuh"

using bf16 = __nv_bfloat16;

// f(std::integral_constant<int, bug>), for a bug of 0..most.
template <int most, class F> cudaError_t with_bug(int bug, F f) {
  if constexpr (most >= 0) {
    if (bug == most) return f(std::integral_constant<int, most>());
    return with_bug<most - 1>(bug, f);
  } else {
    return cudaErrorInvalidValue;
  }
}

cudaError_t vector_add(const float* a, const float* b, float* c, int n);
cudaError_t sgemm(int bug, const float* a, const float* b, float* c, int m, int n, int k);
cudaError_t cross_entropy(int bug, const float* logits, const int* labels, float* gradient,
                          float* loss, int rows, int columns);
// b is k x n; k and n are multiples of 8.
cudaError_t mma_gemm(int bug, const bf16* a, const bf16* b, float* c, int m, int n, int k);
// b is n x k, or k x n with transpose_b; k (and n) are multiples of 8.
cudaError_t wgmma_gemm(int bug, bool transpose_b, const bf16* a, const bf16* b, float* c, int m,
                       int n, int k);
cudaError_t last_block_sum(int bug, const float* x, float* partial, unsigned* counter, float* sum,
                           int n, int blocks);
// sums[t] = twice the sum over blocks of x[128 * block + t].
cudaError_t last_group_sum(int bug, const float* x, float* partial, unsigned* counters, float* sums,
                           int blocks);
cudaError_t grid_reverse(int bug, const float* x, float* scratch, float* y, int n);
// c = a a^T of a 64 x 64 matrix, brought to shared memory by ordinary writes.
cudaError_t proxy_product(int bug, const bf16* a, float* c);
// y = 2 x of a 64 x 64 matrix through TMA loads and stores, in two halves of one buffer.
cudaError_t tma_double(int bug, const float* x, float* y);
// Half the warps write, the others read, with named barriers.
cudaError_t named_barriers(int bug, const float* x, float* y);
