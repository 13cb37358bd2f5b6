// The families of kernels of the matrix product, each in a file of its own. matmul.cu says when
// each of them is taken; all do bias, preactivation, relu's gate, activation and the column sums of
// b, for any sizes and strides that fit them.
#pragma once
#include "op.cuh"

// Blocks that a product wants. Part of the contract: where k is cut, and with it a result's last
// bits, depends on it, so it is one number for all GPUs (an H200 has 132 multiprocessors).
enum : i64 { kMultiprocessors = 132, kFewLines = 16 };

// matmul_simt.cu: ordinary cores, float32 and float64 in full precision, any strides.
template <class T> i64 simt_matmul_workspace(const matmul_args<T>& a);
template <class T> cudaError_t simt_matmul(const matmul_args<T>& a, const CudaCall& call);

// matmul_skinny.cu: at most kFewLines rows or columns, the other factor read once.
template <class T> bool skinny_matmul_fits(const matmul_args<T>& a);
template <class T> i64 skinny_matmul_workspace(const matmul_args<T>& a);
template <class T> cudaError_t skinny_matmul(const matmul_args<T>& a, const CudaCall& call);

// matmul_mma.cu: tensor cores from sm_80 on, float32 arrays, any strides. Mma::tf32x3 is full
// precision: each factor is the sum of two numbers of tf32.
enum class Mma { tf32, bf16, tf32x3 };
i64 mma_matmul_workspace(const matmul_args<float>& a, Mma how);
cudaError_t mma_matmul(const matmul_args<float>& a, const CudaCall& call, Mma how);

// matmul_halves.cu: tensor cores from sm_80 on, bfloat16 and float16 arrays, any strides; without
// what a plan fuses.
i64 halves_matmul_workspace(const matmul_args<float>& a);
cudaError_t halves_matmul(const matmul_args<float>& a, const CudaCall& call);

// matmul_sm90a.cu: wgmma and TMA, for compute capability 9.0 alone; tf32 and bf16, any strides. The
// tile and the number of blocks that share one are by choice, for tests and timings.
struct Sm90aTile {
  int m, n;    // 64 or 128; 64, 128, 192 or 256
  i64 splits;  // 1 to the number of 128-byte blocks of k
};
bool sm90a_matmul_fits(const matmul_args<float>& a);
Sm90aTile sm90a_tile(const matmul_args<float>& a);
i64 sm90a_matmul_workspace(const matmul_args<float>& a, Sm90aTile tile);
cudaError_t sm90a_matmul(const matmul_args<float>& a, const CudaCall& call, Sm90aTile tile);
