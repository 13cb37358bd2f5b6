// The CPU's vector mathematics and activations, compiled for the GPU (vec_cuda.h).
#pragma once
#include "simt.cuh"

#define FNN_VEC_HEADER "../../cuda/vec_cuda.h"

// The tables are plain static arrays, which device code cannot read: here they become __device__.
#include "core/ops.h"
#define static static __device__
#include "cpu/simd/math_tables.h"
#undef static

#include "cpu/simd/activations.h"
