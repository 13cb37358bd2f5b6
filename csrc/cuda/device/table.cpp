// Weak references: an op's kernel is there as soon as a file of csrc/cuda defines it.
#include "table.h"

// clang-format off
#define MAYBE extern "C" __attribute__((weak, visibility("hidden")))
#define ENTRY(op, type)                                                       \
  MAYBE cudaError_t fnn_cuda_##op##_##type(const void*, const CudaCall*);     \
  MAYBE i64 fnn_cuda_##op##_##type##_workspace(const void*);                  \
  MAYBE cudaError_t fnn_cuda_##op##_##type##_list(const void* const*, int, const CudaCall*);
// clang-format on
#define OP(op, doc) ENTRY(op, f32) ENTRY(op, f64)
#include "../../core/each_op.h"
#undef ENTRY

namespace fnn {

#define ENTRY(op, type) \
  {fnn_cuda_##op##_##type, fnn_cuda_##op##_##type##_workspace, fnn_cuda_##op##_##type##_list}
#define OP(op, doc) {ENTRY(op, f32), ENTRY(op, f64)},
const CudaKernel cuda_kernels[op_count][2] = {
#include "../../core/each_op.h"
};

}  // namespace fnn
