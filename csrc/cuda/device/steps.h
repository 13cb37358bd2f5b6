// Training steps as graphs, and the kernels at a step's begin and end.
#pragma once
#include <cuda_runtime_api.h>

#include "../../core/cuda_steps.h"

namespace fnn {

cudaError_t launch_gather(const CudaGather& gather, cudaStream_t stream);
cudaError_t launch_conclude(const CudaConclude& conclude, cudaStream_t stream);

extern const CudaSteps cuda_steps;

}  // namespace fnn
