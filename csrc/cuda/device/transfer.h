// Kernels that bring a call's arguments into the form that the ops' kernels take.
#pragma once
#include <cuda_runtime_api.h>

#include "../../core/cuda.h"

namespace fnn {

// A device's note of the first index out of range: ~0 while there is none, else its row in the
// upper half and the index plus 2^31 in the lower one, both as far as 32 bits reach.
struct IndexNote {
  unsigned long long first;
  long long limit;
  int op;
};

// And where the host sees, without waiting, that there is one: a 1 in its own memory.
struct IndexNotes {
  IndexNote* note;
  volatile int* there;
};

cudaError_t launch_copy(const CudaCopy& copy, cudaStream_t stream);
cudaError_t launch_indices(const CudaIndices& indices, IndexNotes notes, cudaStream_t stream);
cudaError_t launch_numbers(const CudaNumbers& numbers, cudaStream_t stream);

}  // namespace fnn
