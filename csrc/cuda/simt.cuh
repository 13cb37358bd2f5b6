// The one header that CUDA kernels include, and the only place for inline PTX and for launching.
// The same kernel source compiles with nvcc for the GPU and with g++ (C++20) for a CPU, where
// tests/simt/emulator.h defines the same names and finds races, accesses out of bounds and misused
// asynchronous copies (tests/simt/README.md has the rules that make that possible).
//
// Every wrapper is one forced-inline asm statement here, an emulated one there, and a case in
// tests/simt/conformance.cu, which runs on both. Names follow the PTX manual (ISA 9.0).
#pragma once

#ifndef __CUDACC__
#include "emulator.h"
#else

#include <cooperative_groups.h>
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define SIMT_DEVICE static __device__ __forceinline__

// Instructions of sm_90 (TMA, clusters) and of sm_90a (wgmma, setmaxnreg). Kernels for them are
// never launched on other GPUs; their code still compiles for those.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define SIMT_ON_SM90(...) __VA_ARGS__
#else
#define SIMT_ON_SM90(...) __trap()
#endif
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SIMT_ON_SM90A(...) __VA_ARGS__
#else
#define SIMT_ON_SM90A(...) __trap()
#endif

// A pointer to the block's dynamic shared memory, aligned as TMA's 128-byte swizzle wants it.
#define DYN_SMEM(T, name)                                              \
  extern __shared__ __align__(1024) unsigned char simt_dynamic_smem[]; \
  T* name = reinterpret_cast<T*>(simt_dynamic_smem)

namespace simt {

// ---- launches ------------------------------------------------------------------------------

// The error that launching gave; what a kernel does wrong while it runs comes with a later call.
template <class... P, class... A>
cudaError_t launch_with(cudaLaunchAttribute* attribute, void (*kernel)(P...), dim3 grid, dim3 block,
                        size_t shared, cudaStream_t stream, A&&... arguments) {
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = attribute;
  config.numAttrs = attribute ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, static_cast<P>(arguments)...);
}

template <class... P, class... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
                   A&&... arguments) {
  return launch_with(nullptr, kernel, grid, block, shared, stream, arguments...);
}

// All blocks at once, so that they may wait for each other (grid_sync).
template <class... P, class... A>
cudaError_t launch_coop(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                        cudaStream_t stream, A&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  return launch_with(&attribute, kernel, grid, block, shared, stream, arguments...);
}

// Programmatic dependent launch (sm_90): the kernel may start while the one before it in the stream
// still runs, and must call wait_for_previous_kernel() before it touches what that one writes.
template <class... P, class... A>
cudaError_t launch_dependent(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
                             cudaStream_t stream, A&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return launch_with(&attribute, kernel, grid, block, shared, stream, arguments...);
}
SIMT_DEVICE void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
SIMT_DEVICE void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---- barriers, fences, registers -----------------------------------------------------------

SIMT_DEVICE void grid_sync() { cooperative_groups::this_grid().sync(); }

// Named barriers 1 to 15 for `threads` threads of the block, whole warps.
SIMT_DEVICE void bar_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
SIMT_DEVICE void bar_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Ordinary writes before it are seen by TMA and wgmma after it.
SIMT_DEVICE void fence_proxy_async() {
  SIMT_ON_SM90(asm volatile("fence.proxy.async;" :: : "memory"));
}
SIMT_DEVICE void fence_mbar_init() {
  SIMT_ON_SM90(asm volatile("fence.mbarrier_init.release.cluster;" :: : "memory"));
}

// Moves registers between warpgroups: a multiple of 8, by all warps of a warpgroup.
template <int registers> SIMT_DEVICE void setmaxnreg_inc() {
  SIMT_ON_SM90A(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers)));
}
template <int registers> SIMT_DEVICE void setmaxnreg_dec() {
  SIMT_ON_SM90A(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers)));
}

SIMT_DEVICE uint32_t smem_u32(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

}  // namespace simt

#include "simt_copy.cuh"
#include "simt_mma.cuh"
#include "simt_wgmma.cuh"

#undef SIMT_ON_SM90
#undef SIMT_ON_SM90A
#undef SIMT_DEVICE

#endif
