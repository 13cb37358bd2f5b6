// The CUDA kernels that were built, by op.
#pragma once
#include "../../core/dispatch.h"
#include "../call.h"

namespace fnn {

struct CudaKernel {
  cudaError_t (*launch)(const void* args, const CudaCall* call);  // null: there is none
  i64 (*workspace)(const void* args);
  // Of many, which differ in their arrays and lengths alone; for ops that take lists.
  cudaError_t (*launch_list)(const void* const* args, int count, const CudaCall* call);
};

extern const CudaKernel cuda_kernels[op_count][2];  // [op][0: float, 1: double]

}  // namespace fnn
