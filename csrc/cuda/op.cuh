// How a CUDA kernel file defines an op of ops.def: the counterpart of KERNEL() in core/ops.h.
//
//   CUDA_KERNEL(relu) { ... a.n, a.x, call.stream ... return simt::launch(...); }
//
// defines, for float (f32) and for double (f64),
//   cudaError_t fnn_cuda_relu_f32(const void* args, const CudaCall* call);
//   i64 fnn_cuda_relu_f32_workspace(const void* args);
// with the CPU's argument struct, relu_args<T>. Every pointer in it is a device address, those of
// SCALAR and COUNTER arguments too, so that a captured graph sees new values; `scratch` is not
// used. A launcher runs on the caller's stream, allocates nothing and waits for nothing; the same
// input gives the same bits on every run and every GPU: work is cut by shape and layout alone, and
// there are no float atomics. (Large products in tf32 and bf16 have other bits on sm_90a.)
#pragma once
#include "call.h"
#include "core/ops.h"
#include "simt.cuh"

#define CUDA_KERNEL(op) CUDA_KERNEL_WITH_WORKSPACE(op, 0)

// bytes: an expression in a.
#define CUDA_KERNEL_WITH_WORKSPACE(op, bytes)                                                \
  template <class T> static cudaError_t op##_launch(const op##_args<T>& a, const CudaCall&); \
  template <class T> static i64 op##_workspace([[maybe_unused]] const op##_args<T>& a) {     \
    return bytes;                                                                            \
  }                                                                                          \
  CUDA_ENTRY(op, float, f32)                                                                 \
  CUDA_ENTRY(op, double, f64)                                                                \
  template <class T>                                                                         \
  static cudaError_t op##_launch([[maybe_unused]] const op##_args<T>& a,                     \
                                 [[maybe_unused]] const CudaCall& call)

#define CUDA_ENTRY(op, T, type)                                                        \
  extern "C" cudaError_t fnn_cuda_##op##_##type(const void* a, const CudaCall* call) { \
    return op##_launch(*static_cast<const op##_args<T>*>(a), *call);                   \
  }                                                                                    \
  extern "C" i64 fnn_cuda_##op##_##type##_workspace(const void* a) {                   \
    return op##_workspace(*static_cast<const op##_args<T>*>(a));                       \
  }

static inline unsigned blocks_for(i64 work, i64 per_block) {
  return static_cast<unsigned>((work + per_block - 1) / per_block);
}

// For loads and stores of 16 bytes.
static inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
