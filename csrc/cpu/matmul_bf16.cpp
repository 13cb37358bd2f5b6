// matmul with precision='bf16': factors rounded to bfloat16 and stored so while they are
// multiplied, sums in float32. Built once more with AVX512-BF16, which multiplies two terms at
// once.
#include "simd/matmul_product.h"

extern "C" void FNN_CAT(FNN_ISA, matmul_bf16, f32)(const void* args, const Team* team) {
  multiply<float, true>(*static_cast<const matmul_args<float>*>(args), *team);
}
