// Matrix product where one factor has few lines (at most 16 rows of the left one or columns of the
// right one): bound by reading the other factor, which is read once, 16 bytes a thread and load.
// The few lines go through shared memory in chunks of k and meet each Vec of the other factor in
// registers. Two kernels, by how the other factor lies in memory: `across` where its lines are
// adjacent (threads with different terms add up at the end), `along` where its terms are (a warp to
// one or few lines). A long k is cut among blocks. The sums are shorter than the CPU's, so they are
// closer to the exact ones, not equal to the CPU's, and depend on that layout.
#include "matmul.cuh"

namespace {

// The result is y or, swapped, its transpose: few lines by many.
template <class T> struct Skinny {
  matmul_args<T> a;
  Factor<T> few, many;
  Parts<T> parts;
  i64 terms;  // of a split
  bool swapped, round;
};

// precision="bf16" rounds the factors; their products are exact in float32 either way.
template <class T> __device__ __forceinline__ T rounded(T x, bool round) {
  return round ? T(__bfloat162float(__float2bfloat16_rn(float(x)))) : x;
}
template <class T> __device__ __forceinline__ Vec<T> rounded(Vec<T> x, bool round) {
#pragma unroll
  for (int i = 0; i < Vec<T>::lanes; i++) x.v[i] = rounded(x.v[i], round);
  return x;
}

// Sums of one of the few lines with `count` lines from `line` on.
template <class T>
__device__ __forceinline__ void finish_few(const Skinny<T>& p, i64 few, i64 line, int count,
                                           Vec<T> x) {
  const matmul_args<T>& a = p.a;
  i64 at[Vec<T>::lanes];
  Vec<T> gate = zero<T>();
#pragma unroll
  for (int i = 0; i < Vec<T>::lanes; i++) {
    const i64 row = p.swapped ? line + i : few, column = p.swapped ? few : line + i;
    at[i] = row < a.m && column < a.n && i < count ? row * a.n + column : -1;
    if (at[i] < 0) continue;
    if (a.bias) x.v[i] += a.bias[column];
    if (a.preactivation) a.preactivation[at[i]] = x.v[i];
    if (a.gate) gate.v[i] = a.gate[at[i]];
  }
  with_epilogue(a, [&](auto f) { x = f(x, gate); });
#pragma unroll
  for (int i = 0; i < Vec<T>::lanes; i++) {
    if (at[i] >= 0) a.y[at[i]] = x.v[i];
  }
}

// ---- lines adjacent in memory --------------------------------------------------------------

template <class T, int M_> struct Across {
  static constexpr int M = M_, lanes = Vec<T>::lanes, threads = 256, warps = threads / 32;
  static constexpr int wide = 4, lines = wide * lanes;  // Vecs and lines of a block
  static constexpr int deep = threads / wide;           // terms at once
  static constexpr int steps = M == 16 ? 4 : 8;
  static constexpr int chunk = steps * deep;  // terms in shared memory
};

template <class T, class S>
__global__ void __launch_bounds__(S::threads, 2) matmul_across_kernel(Skinny<T> p) {
  __shared__ T few[S::chunk][S::M];
  __shared__ __align__(16) T sums[S::warps][S::M][S::lines];
  const int t = threadIdx.x, tx = t % S::wide, ty = t / S::wide;
  const i64 line0 = i64(blockIdx.x) * S::lines, begin = i64(blockIdx.y) * p.terms;
  const i64 end = p.a.k < begin + p.terms ? p.a.k : begin + p.terms;
  Vec<T> sum[S::M];
#pragma unroll
  for (int i = 0; i < S::M; i++) sum[i] = zero<T>();
  for (i64 k = begin; k < end; k += S::chunk) {
    Vec<T> x[S::steps];  // under way while the few lines are brought
#pragma unroll
    for (int step = 0; step < S::steps; step++) {
      const i64 term = k + step * S::deep + ty;
      x[step] =
          term < end ? p.many.template read_vec<false>(line0 + tx * S::lanes, term) : zero<T>();
    }
    __syncthreads();
    for (int e = t; e < S::chunk * S::M; e += S::threads) {
      const int i = e / S::chunk, term = e % S::chunk;
      few[term][i] = k + term < end ? rounded(p.few.read_inside(i, k + term), p.round) : T(0);
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < S::steps; step++) {
      const Vec<T> right = rounded(x[step], p.round);
#pragma unroll
      for (int i = 0; i < S::M; i++)
        sum[i] = fma(broadcast(few[step * S::deep + ty][i]), right, sum[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < S::M; i++) {
#pragma unroll
    for (int l = 0; l < S::lanes; l++) {
      T& x = sum[i].v[l];
#pragma unroll
      for (int by = 16; by >= S::wide; by /= 2) x += __shfl_xor_sync(~0u, x, by);
      if (t % 32 < S::wide) sums[t / 32][i][tx * S::lanes + l] = x;
    }
  }
  __syncthreads();
  const int i = t / S::wide;  // thread t < M * wide finishes a Vec
  Vec<T> all = zero<T>();
  for (int w = 0; i < S::M && w < S::warps; w++) {
    all = all + load_aligned(&sums[w][i][tx * S::lanes]);
  }
  if (!add_parts<S::threads>(p.parts, all.v)) return;
  if (i < S::M) finish_few(p, i, line0 + tx * S::lanes, S::lanes, all);
}

// ---- terms adjacent in memory --------------------------------------------------------------

template <class T, int M_> struct Along {
  static constexpr int M = M_, lanes = Vec<T>::lanes, threads = 128, warps = threads / 32;
  static constexpr int each = M == 1 ? 1 : lanes, lines = warps * each;  // of a warp, of a block
  static constexpr int deep = 32 * lanes, steps = M == 1 ? 8 : 2;        // terms of a warp at once
  static constexpr int chunk = steps * deep;                             // terms in shared memory
};

template <class T, class S>
__global__ void __launch_bounds__(S::threads, 3) matmul_along_kernel(Skinny<T> p) {
  __shared__ __align__(16) T few[S::M][S::chunk];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const i64 line = i64(blockIdx.x) * S::lines + warp * S::each;
  const i64 begin = i64(blockIdx.y) * p.terms;
  const i64 end = p.a.k < begin + p.terms ? p.a.k : begin + p.terms;
  T sum[S::M][S::each];
#pragma unroll
  for (int e = 0; e < S::M * S::each; e++) sum[e / S::each][e % S::each] = 0;
  for (i64 k = begin; k < end; k += S::chunk) {
    Vec<T> x[S::steps][S::each];  // under way while the few lines are brought
#pragma unroll
    for (int e = 0; e < S::steps * S::each; e++) {
      const int step = e / S::each, c = e % S::each;
      const i64 term = k + step * S::deep + lane * S::lanes;
      x[step][c] = term < end ? p.many.template read_vec<true>(line + c, term) : zero<T>();
    }
    __syncthreads();
    for (int e = threadIdx.x; e < S::M * S::chunk; e += S::threads) {
      const int i = e / S::chunk, term = e % S::chunk;
      few[i][term] = k + term < end ? rounded(p.few.read_inside(i, k + term), p.round) : T(0);
    }
    __syncthreads();
#pragma unroll
    for (int step = 0; step < S::steps; step++) {
#pragma unroll
      for (int c = 0; c < S::each; c++) x[step][c] = rounded(x[step][c], p.round);
#pragma unroll
      for (int i = 0; i < S::M; i++) {
        const Vec<T> left = load_aligned(&few[i][step * S::deep + lane * S::lanes]);
#pragma unroll
        for (int e = 0; e < S::each * S::lanes; e++) {
          const int c = e / S::lanes, l = e % S::lanes;
          sum[i][c] = fma_lane(left.v[l], x[step][c].v[l], sum[i][c]);
        }
      }
    }
  }
  Vec<T> mine = zero<T>();  // lane i finishes the sums with line i of the few
#pragma unroll
  for (int i = 0; i < S::M; i++) {
#pragma unroll
    for (int c = 0; c < S::each; c++) {
      const T all = warp_sum(sum[i][c]);
      if (lane == i) mine.v[c] = all;
    }
  }
  if (!add_parts<S::threads>(p.parts, mine.v)) return;
  if (lane < S::M) finish_few(p, lane, line, S::each, mine);
}

// ---- launches ------------------------------------------------------------------------------

template <class T> Skinny<T> skinny(const matmul_args<T>& a) {
  const bool swapped = a.n < a.m;
  const Factor<T> left = left_factor(a), right = right_factor(a);
  return {a, swapped ? right : left, swapped ? left : right, {}, 0, swapped, a.precision == 1};
}

// use(kernel, S) for the factors' layout and number of lines.
template <class T, class Use> auto with_kernel(const Skinny<T>& p, Use use) {
  const i64 m = p.few.lines;
  if (p.many.line_stride == 1 && p.many.term_stride != 1) {
    if (m == 1) return use(matmul_across_kernel<T, Across<T, 1>>, Across<T, 1>());
    if (m <= 4) return use(matmul_across_kernel<T, Across<T, 4>>, Across<T, 4>());
    return use(matmul_across_kernel<T, Across<T, 16>>, Across<T, 16>());
  }
  if (m == 1) return use(matmul_along_kernel<T, Along<T, 1>>, Along<T, 1>());
  if (m <= 4) return use(matmul_along_kernel<T, Along<T, 4>>, Along<T, 4>());
  return use(matmul_along_kernel<T, Along<T, 16>>, Along<T, 16>());
}

template <class S, class T> Cut cut_of(const Skinny<T>& p) {
  return make_cut(p.many.lines, 1, p.a.k, S::lines, 1, 4 * kTerms);
}

}  // namespace

template <class T> bool skinny_matmul_fits(const matmul_args<T>& a) {
  const Factor<T> many = skinny(a).many;
  return (a.m <= kFewLines || a.n <= kFewLines) && !many.bytes &&
         (many.line_stride == 1 || many.term_stride == 1);
}
template <class T> i64 skinny_matmul_workspace(const matmul_args<T>& a) {
  const Skinny<T> p = skinny(a);
  return with_kernel(
      p, [&]<class S>(auto, S) { return parts_bytes<T>(cut_of<S>(p), S::threads * S::lanes, 0); });
}
template <class T> cudaError_t skinny_matmul(const matmul_args<T>& a, const CudaCall& call) {
  Skinny<T> p = skinny(a);
  return with_kernel(p, [&]<class S>(auto kernel, S) {
    const Cut cut = cut_of<S>(p);
    p.terms = cut.terms;
    const cudaError_t error = make_parts(call, cut, S::threads * S::lanes, p.parts);
    if (error != cudaSuccess) return error;
    return simt::launch(kernel, dim3(unsigned(cut.tiles), unsigned(cut.splits)), dim3(S::threads),
                        0, call.stream, p);
  });
}

#define FNN_INSTANTIATE(T)                                     \
  template bool skinny_matmul_fits(const matmul_args<T>&);     \
  template i64 skinny_matmul_workspace(const matmul_args<T>&); \
  template cudaError_t skinny_matmul(const matmul_args<T>&, const CudaCall&);
FNN_INSTANTIATE(float)
FNN_INSTANTIATE(double)
