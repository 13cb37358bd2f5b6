// What a launcher gets besides its op's arguments.
#pragma once
#include <cuda_runtime_api.h>

struct CudaCall {
  cudaStream_t stream;
  char* workspace;  // device memory of as many bytes as the op asks for, aligned to 256
};
