// Calls of the CUDA runtime: with a device current that was not, and with errors told as ours.
#pragma once
#include <cuda_runtime_api.h>

#include "../../core/cuda.h"

namespace fnn {

inline CudaError::Kind kind_of(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return CudaError::none;
    case cudaErrorMemoryAllocation: return CudaError::memory;
    case cudaErrorNotSupported: return CudaError::unsupported;
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorContextIsDestroyed: return CudaError::lost;
    default: return CudaError::other;
  }
}

inline CudaError told(cudaError_t error) {
  if (error == cudaSuccess) return {CudaError::none, "", ""};
  cudaGetLastError();  // the next call of anybody must not be told of this one
  return {kind_of(error), cudaGetErrorName(error), cudaGetErrorString(error)};
}

// The calling thread's current device, for the lifetime of one.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    error = cudaGetDevice(&before_);
    if (error != cudaSuccess || before_ == device) return;
    error = cudaSetDevice(device);
    changed_ = error == cudaSuccess;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;

  cudaError_t error;

 private:
  int before_ = 0;
  bool changed_ = false;
};

// f() with the device current.
template <class F> CudaError on_device(int device, F f) {
  OnDevice here(device);
  return told(here.error != cudaSuccess ? here.error : f());
}

inline cudaStream_t stream_of(CudaQueue queue) { return static_cast<cudaStream_t>(queue.stream); }

}  // namespace fnn
