// Matrix product on the ordinary cores, fp32 and fp64, any size and any strides. A block owns a
// tile of the result; slices of both factors go through two buffers of shared memory, the next one
// being read into registers while the present one is multiplied. (Through registers, because one of
// the two is mostly transposed on its way, which cp.async does only 4 bytes at a time.) Each
// element is a chain of 256 fused multiply-adds added to the sum of the chains before, in order,
// whatever the tile: the same bits as the CPU's, unless several blocks share a long k.
#include "matmul.cuh"

namespace {

constexpr int kThreads = 256;

// A block's tile is BM x BN, a thread's TM x TM; BK terms at a time.
template <class T, int TM_> struct Shape {
  static constexpr int lanes = Vec<T>::lanes;
  static constexpr int TM = TM_, BM = 16 * TM, BK = TM == 8 ? 8 : 16;
  static constexpr int loads = BM * BK / kThreads / lanes;  // Vecs of a factor that a thread brings
  static constexpr int sums = TM * TM;
  static_assert(BM * BK % (kThreads * lanes) == 0 && kTerms % BK == 0);
};

template <class T, class S> struct Slice {
  alignas(16) T terms[S::BK][S::BM + Vec<T>::lanes];
};
template <class T, class S> struct Smem {
  Slice<T, S> left[2], right[2];
};

// Which Vec of a slice a thread brings: neighbours in memory go to neighbouring threads.
template <class S, bool by_term> struct Piece {
  int line, term;
  __device__ explicit Piece(int load) {
    constexpr int across = (by_term ? S::BK : S::BM) / S::lanes;
    const int e = load * kThreads + threadIdx.x;
    line = by_term ? e / across : e % across * S::lanes;
    term = by_term ? e % across * S::lanes : e / across;
  }
};

template <class T, class S, bool by_term>
__device__ __forceinline__ void read_as(const Factor<T>& f, i64 line, i64 term,
                                        Vec<T> (&next)[S::loads]) {
#pragma unroll
  for (int load = 0; load < S::loads; load++) {
    const Piece<S, by_term> at(load);
    next[load] = f.template read_vec<by_term>(line + at.line, term + at.term);
  }
}
template <class T, class S>
__device__ __forceinline__ void read(const Factor<T>& f, i64 line, i64 term,
                                     Vec<T> (&next)[S::loads]) {
  if (f.by_term())
    read_as<T, S, true>(f, line, term, next);
  else
    read_as<T, S, false>(f, line, term, next);
}
template <class T, class S>
__device__ __forceinline__ void write(const Factor<T>& f, const Vec<T> (&next)[S::loads],
                                      Slice<T, S>& slice) {
#pragma unroll
  for (int load = 0; load < S::loads; load++) {
    if (f.by_term()) {
      const Piece<S, true> at(load);
#pragma unroll
      for (int i = 0; i < S::lanes; i++) slice.terms[at.term + i][at.line] = next[load].v[i];
    } else {
      const Piece<S, false> at(load);
      store_aligned(&slice.terms[at.term][at.line], next[load]);
    }
  }
}

// Threads own groups of one Vec of neighbouring lines, the groups 16 Vecs apart: no bank conflicts.
template <class T> __device__ __forceinline__ int line_of(int thread, int i) {
  constexpr int lanes = Vec<T>::lanes;
  return i / lanes * 16 * lanes + thread * lanes + i % lanes;
}

template <class T, class S>
__device__ __forceinline__ void multiply(const Slice<T, S>& left, const Slice<T, S>& right,
                                         T (&chain)[S::sums]) {
  const int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
#pragma unroll
  for (int k = 0; k < S::BK; k++) {
    Vec<T> x[S::TM / S::lanes], y[S::TM / S::lanes];
#pragma unroll
    for (int i = 0; i < S::TM; i += S::lanes) {
      x[i / S::lanes] = load_aligned(&left.terms[k][line_of<T>(ty, i)]);
      y[i / S::lanes] = load_aligned(&right.terms[k][line_of<T>(tx, i)]);
    }
#pragma unroll
    for (int e = 0; e < S::sums; e++) {
      const int i = e / S::TM, j = e % S::TM;
      chain[e] =
          fma_lane(x[i / S::lanes].v[i % S::lanes], y[j / S::lanes].v[j % S::lanes], chain[e]);
    }
  }
}

template <class T, class S>
__global__ void __launch_bounds__(kThreads) matmul_simt_kernel(Tiled<T> p) {
  __shared__ Smem<T, S> smem;
  const i64 m0 = p.tile_m() * S::BM, n0 = p.tile_n() * S::BM;
  const i64 begin = i64(blockIdx.y) * p.terms;
  const i64 end = p.a.k < begin + p.terms ? p.a.k : begin + p.terms;
  const bool sums_b = p.a.b_sum && p.tile_m() == 0 && threadIdx.x < S::BM;
  T total[S::sums], chain[S::sums];
#pragma unroll
  for (int e = 0; e < S::sums; e++) total[e] = chain[e] = 0;
  ColumnSum<T> b;
  Vec<T> next_left[S::loads], next_right[S::loads];
  read<T, S>(p.left, m0, begin, next_left);
  read<T, S>(p.right, n0, begin, next_right);
  for (i64 k = begin; k < end; k += S::BK) {
    Slice<T, S>&left = smem.left[k / S::BK % 2], &right = smem.right[k / S::BK % 2];
    write(p.left, next_left, left);
    write(p.right, next_right, right);
    __syncthreads();  // the buffer written next was read before this
    read<T, S>(p.left, m0, k + S::BK, next_left);
    read<T, S>(p.right, n0, k + S::BK, next_right);
    multiply(left, right, chain);
    for (int i = 0; sums_b && i < S::BK; i++) b.chain += right.terms[i][threadIdx.x];
    if ((k + S::BK) % kTerms != 0 && k + S::BK < end) continue;
#pragma unroll
    for (int e = 0; e < S::sums; e++) {
      total[e] += chain[e];
      chain[e] = 0;
    }
    b.end_chain();
  }
  if (sums_b) b.leave(p, n0 + threadIdx.x);
  if (!add_parts<kThreads>(p.parts, total)) return;
  if (sums_b) b.finish(p, n0 + threadIdx.x);
  finish(p, total, [=](int v) {
    const int i = v / (S::TM / S::lanes), j = v % (S::TM / S::lanes) * S::lanes;
    return Place{m0 + line_of<T>(threadIdx.x / 16, i), n0 + line_of<T>(threadIdx.x % 16, j)};
  });
}

template <class T, class S> Cut cut_of(const matmul_args<T>& a) {
  return make_cut(a.m, a.n, a.k, S::BM, S::BM, 2 * kTerms);
}

// use(Shape) with large tiles where they fill a GPU.
template <class T, class Use> auto with_shape(const matmul_args<T>& a, Use use) {
  if constexpr (sizeof(T) == 4) {
    const Cut cut = cut_of<T, Shape<T, 8>>(a);
    if (cut.tiles * cut.splits >= kMultiprocessors) return use(Shape<T, 8>());
  }
  return use(Shape<T, 4>());
}

}  // namespace

template <class T> i64 simt_matmul_workspace(const matmul_args<T>& a) {
  return with_shape(
      a, [&]<class S>(S) { return parts_bytes<T>(cut_of<T, S>(a), S::BM * S::BM, a.n); });
}
template <class T> cudaError_t simt_matmul(const matmul_args<T>& a, const CudaCall& call) {
  return with_shape(a, [&]<class S>(S) {
    return launch_tiles(a, call, matmul_simt_kernel<T, S>, cut_of<T, S>(a), S::BM * S::BM,
                        kThreads);
  });
}

template i64 simt_matmul_workspace(const matmul_args<float>&);
template i64 simt_matmul_workspace(const matmul_args<double>&);
template cudaError_t simt_matmul(const matmul_args<float>&, const CudaCall&);
template cudaError_t simt_matmul(const matmul_args<double>&, const CudaCall&);
