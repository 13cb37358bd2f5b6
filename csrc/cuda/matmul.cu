// Matrix product act(op(a) op(b) + bias) on the ordinary cores, fp32 and fp64, any size and any
// strides. A block owns a tile of the result; both factors go through shared memory, the next
// slice being read into registers while the present one is multiplied. Each element is a chain of
// 256 fused multiply-adds added to the sum of the chains before, in order, whatever the tile: the
// same bits as the CPU's. Bias, preactivation, relu's gate and activation ride on the result.
#include "math.cuh"
#include "op.cuh"

namespace {

enum : i64 { kTerms = 256 };  // of a chain
constexpr int kThreads = 256;

// A block's tile is BM x BN, a thread's TM x TN; BK terms at a time.
template <class T, int TM_> struct Shape {
  static constexpr int TM = TM_, TN = TM_, BM = 16 * TM, BN = 16 * TN;
  static constexpr int BK = TM == 8 ? 8 : 16;
  static constexpr int loads = BM * BK / kThreads;  // elements of each factor that a thread brings
  static_assert(BM == BN && BM * BK % kThreads == 0 && kTerms % BK == 0);
};

template <class T, class S> struct Smem {
  alignas(16) T a[S::BK][S::BM + 16 / sizeof(T)], b[S::BK][S::BN + 16 / sizeof(T)];
};

// A factor as lines (rows of the left one, columns of the right one) of k terms.
template <class T> struct Factor {
  const T* p;
  i64 lines, terms, line_stride, term_stride;
};

// Which element of a slice a thread brings: neighbours in memory go to neighbouring threads.
template <class S> struct Place {
  int line, term;
  __device__ Place(int load, bool terms_adjacent) {
    const int e = load * kThreads + threadIdx.x;
    line = terms_adjacent ? e / S::BK : e % S::BM;
    term = terms_adjacent ? e % S::BK : e / S::BM;
  }
};

template <class T, class S>
__device__ __forceinline__ void read_slice(const Factor<T>& f, i64 first_line, i64 first_term,
                                           T (&staged)[S::loads]) {
#pragma unroll
  for (int load = 0; load < S::loads; load++) {
    const Place<S> at(load, f.term_stride == 1);
    const i64 line = first_line + at.line, term = first_term + at.term;
    const bool inside = line < f.lines && term < f.terms;
    staged[load] = inside ? f.p[line * f.line_stride + term * f.term_stride] : T(0);
  }
}
template <class T, class S, int pitch>
__device__ __forceinline__ void write_slice(const Factor<T>& f, const T (&staged)[S::loads],
                                            T (&slice)[S::BK][pitch]) {
#pragma unroll
  for (int load = 0; load < S::loads; load++) {
    const Place<S> at(load, f.term_stride == 1);
    slice[at.term][at.line] = staged[load];
  }
}

// Threads own groups of one Vec of neighbouring lines, the groups 16 Vecs apart: no bank conflicts.
template <class T, class S> __device__ __forceinline__ int line_of(int thread, int i) {
  constexpr int lanes = Vec<T>::lanes;
  return i / lanes * 16 * lanes + thread * lanes + i % lanes;
}

template <class T, class S>
__device__ __forceinline__ void multiply_slice(const Smem<T, S>& smem, T (&chain)[S::TM][S::TN]) {
  constexpr int lanes = Vec<T>::lanes;
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
#pragma unroll
  for (int k = 0; k < S::BK; k++) {
    Vec<T> left[S::TM / lanes], right[S::TN / lanes];
#pragma unroll
    for (int i = 0; i < S::TM; i += lanes) {
      left[i / lanes] = load_aligned(&smem.a[k][line_of<T, S>(ty, i)]);
      right[i / lanes] = load_aligned(&smem.b[k][line_of<T, S>(tx, i)]);
    }
#pragma unroll
    for (int i = 0; i < S::TM; i++) {
#pragma unroll
      for (int j = 0; j < S::TN; j++) {
        chain[i][j] =
            fma_lane(left[i / lanes].v[i % lanes], right[j / lanes].v[j % lanes], chain[i][j]);
      }
    }
  }
}

// What happens to a row's Vec of sums: columns j, j + 1, ..., fewer at the end.
template <class T>
__device__ __forceinline__ void finish(const matmul_args<T>& a, i64 row, i64 j, Vec<T> sums) {
  const Mask<T> inside = first_n<T>(a.n - j);
  const i64 at = row * a.n + j;
  if (a.bias) sums = sums + load_masked(a.bias + j, inside);
  if (a.preactivation) store_masked(a.preactivation + at, sums, inside);
  if (a.gate) sums = relu_backward(sums, load_masked(a.gate + at, inside));
  with_activation<T>(a.activation, [&](auto f) { sums = f(sums); });
  store_masked(a.y + at, sums, inside);
}

template <class T, class S>
__global__ void __launch_bounds__(kThreads)
    matmul_kernel(matmul_args<T> a, Factor<T> left, Factor<T> right) {
  __shared__ Smem<T, S> smem;
  const i64 m0 = i64(blockIdx.x) * S::BM, n0 = i64(blockIdx.y) * S::BN;
  T total[S::TM][S::TN], chain[S::TM][S::TN], next_a[S::loads], next_b[S::loads];
#pragma unroll
  for (int e = 0; e < S::TM * S::TN; e++)
    total[e / S::TN][e % S::TN] = chain[e / S::TN][e % S::TN] = 0;
  read_slice<T, S>(left, m0, 0, next_a);
  read_slice<T, S>(right, n0, 0, next_b);
  for (i64 k = 0; k < a.k; k += S::BK) {
    write_slice<T, S>(left, next_a, smem.a);
    write_slice<T, S>(right, next_b, smem.b);
    __syncthreads();
    read_slice<T, S>(left, m0, k + S::BK, next_a);
    read_slice<T, S>(right, n0, k + S::BK, next_b);
    multiply_slice(smem, chain);
    __syncthreads();
    if ((k + S::BK) % kTerms != 0 && k + S::BK < a.k) continue;
#pragma unroll
    for (int e = 0; e < S::TM * S::TN; e++) {
      total[e / S::TN][e % S::TN] += chain[e / S::TN][e % S::TN];
      chain[e / S::TN][e % S::TN] = 0;
    }
  }
#pragma unroll
  for (int i = 0; i < S::TM; i++) {
    const i64 row = m0 + line_of<T, S>(threadIdx.x / 16, i);
#pragma unroll
    for (int j = 0; j < S::TN; j += Vec<T>::lanes) {
      const i64 column = n0 + line_of<T, S>(threadIdx.x % 16, j);
      Vec<T> sums;
      memcpy(&sums, &total[i][j], sizeof sums);
      if (row < a.m && column < a.n) finish(a, row, column, sums);
    }
  }
}

template <class S, class T>
cudaError_t launch_tiles(const CudaCall& call, const matmul_args<T>& a) {
  const Factor<T> left{a.a, a.m, a.k, a.a_rs, a.a_cs}, right{a.b, a.n, a.k, a.b_cs, a.b_rs};
  return simt::launch(matmul_kernel<T, S>, dim3(blocks_for(a.m, S::BM), blocks_for(a.n, S::BN)),
                      dim3(kThreads), 0, call.stream, a, left, right);
}

}  // namespace

CUDA_KERNEL(matmul) {
  // Not yet: bf16 (tf32 may be full precision), the column sums of b.
  if (a.precision == 1 || a.b_sum || a.a_bytes) return cudaErrorNotSupported;
  if (a.m == 0 || a.n == 0) return cudaSuccess;
  // Large tiles once they fill a GPU.
  if constexpr (sizeof(T) == 4) {
    if (a.m * a.n >= i64(128) * 128 * 64) return launch_tiles<Shape<T, 8>>(call, a);
  }
  return launch_tiles<Shape<T, 4>>(call, a);
}
