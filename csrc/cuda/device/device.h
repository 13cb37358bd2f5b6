// What _cuda offers to _core.
#pragma once
#include "../../core/cuda.h"

namespace fnn {

extern const CudaApi cuda_api;

}  // namespace fnn
