// The CPU's vector mathematics and the formulas made of it, compiled for the GPU (vec_cuda.h).
#pragma once
#include "simt.cuh"

#define FNN_VEC_HEADER "../../cuda/vec_cuda.h"
#define FNN_TABLE static constexpr __device__

#include "cpu/simd/activations.h"
#include "cpu/simd/losses.h"
#include "cpu/simd/optimizers.h"
#include "cpu/simd/philox.h"
