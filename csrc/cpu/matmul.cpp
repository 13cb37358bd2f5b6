// The matrix product, in simd/matmul_product.h.
#include "simd/matmul_product.h"

KERNEL(matmul) {
  if constexpr (sizeof(T) == sizeof(float)) {
    if (a.precision == 1) return fnn_matmul_bf16(&a, &team);
  }
  multiply<T, false>(a, team);
}
