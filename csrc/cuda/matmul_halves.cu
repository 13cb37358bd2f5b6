// Matrix product of bfloat16 or float16 arrays on tensor cores by mma.sync (sm_80 and later):
// summed in float32, finished there and rounded once. Four stages of cp.async bring slices of 32
// terms, 16 bytes at a time; ldmatrix hands them out, transposing where a factor's lines and not
// its terms are adjacent in memory. Finished sums go through shared memory, so that a lane stores 8
// neighbours.
#include "matmul.cuh"

namespace {

constexpr int kDepth = 32, kStages = 4;  // terms of a slice
constexpr int kLanes = 8;                // elements of 16 bytes

// A tile of BM x BN, a warp's WM x WN.
template <int BM_, int BN_, int WM_> struct Tile {
  static constexpr int BM = BM_, BN = BN_, WM = WM_, WN = 32;
  static constexpr int warps = BM / WM * (BN / WN), threads = warps * 32, sums = WM * WN / 32;
};
using Large = Tile<128, 128, 64>;
using Small = Tile<64, 64, 32>;

// ---- slices in shared memory ---------------------------------------------------------------

// A factor as lines of terms, whatever its 16 bits mean.
struct Halves {
  const uint16_t* p;
  i64 lines, terms, line_stride, term_stride;
  bool vectors;  // what starts at a multiple of 8 along the unit stride is aligned

  Halves(const float* from, i64 l, i64 k, i64 line, i64 term)
      : p(reinterpret_cast<const uint16_t*>(from)), lines(l), terms(k), line_stride(line),
        term_stride(term) {
    const i64 other = term == 1 ? line : term;
    vectors = (term == 1 || line == 1) && is_aligned(p) && other % kLanes == 0;
  }
};

// Vectors of 8 elements, along the terms or the lines, change places so that the eight that
// ldmatrix reads at once lie in different banks.
template <int lines_, bool by_term_> struct Slice {
  static constexpr int lines = lines_;
  static constexpr bool by_term = by_term_;
  alignas(16) uint16_t values[lines * kDepth];

  __device__ static int place(int line, int term) {
    if (by_term) return line * kDepth + ((term / 8) ^ (line / 2 % 4)) * 8 + term % 8;
    return term * lines + ((line / 8) ^ (term % 8)) * 8 + line % 8;
  }
};

// Starts copying terms from `term` on of the lines from `line` on, zeros outside.
template <int threads, class S>
__device__ __forceinline__ void fill(S& slice, const Halves& f, i64 line, i64 term) {
  constexpr int across = (S::by_term ? kDepth : S::lines) / kLanes;
  if (f.vectors) {
#pragma unroll
    for (int e = threadIdx.x; e < S::lines * kDepth / kLanes; e += threads) {
      const int i = S::by_term ? e / across : e % across * kLanes;
      const int k = S::by_term ? e % across * kLanes : e / across;
      const i64 lines = f.lines - line - i, terms = f.terms - term - k;  // left
      const bool outside = lines <= 0 || terms <= 0;
      const i64 left = S::by_term ? terms : lines;
      const uint16_t* from = f.p + (line + i) * f.line_stride + (term + k) * f.term_stride;
      simt::cp_async16_part(&slice.values[S::place(i, k)], outside ? f.p : from,
                            outside ? 0 : 2 * int(left < kLanes ? left : kLanes));
    }
    return;
  }
#pragma unroll 1
  for (int e = threadIdx.x; e < S::lines * kDepth; e += threads) {
    const int i = S::by_term ? e / kDepth : e % S::lines;
    const int k = S::by_term ? e % kDepth : e / S::lines;
    const bool inside = line + i < f.lines && term + k < f.terms;
    const i64 at = (line + i) * f.line_stride + (term + k) * f.term_stride;
    slice.values[S::place(i, k)] = inside ? f.p[at] : uint16_t(0);
  }
}

// What a lane has of 16 lines of 16 terms: two by two groups of 8, those of the second 8 lines
// second (mma's left factor) or last (two right ones).
template <bool lines_last, class S>
__device__ __forceinline__ void load(const S& slice, int line, int term, uint32_t (&r)[4]) {
  const int group = threadIdx.x % 32 / 8, in = threadIdx.x % 8;
  line += (lines_last ? group / 2 : group % 2) * 8;
  term += (lines_last ? group % 2 : group / 2) * 8;
  if constexpr (S::by_term)
    simt::ldmatrix_x4(r, &slice.values[S::place(line + in, term)]);
  else
    simt::ldmatrix_x4_trans(r, &slice.values[S::place(line, term + in)]);
}

// ---- the kernel ----------------------------------------------------------------------------

struct Product {
  matmul_args<float> a;
  Halves left, right;
  Parts<float> parts;
  i64 tiles_m, terms;
  bool vectors;  // rows of the result and of its companions consist of whole, aligned vectors
};

template <class L, class R> struct Stage {
  L left;
  R right;
};
// Rows of a warp's sums, apart so that quarters of a warp write to different banks.
template <class Tile> struct Finished {
  alignas(16) float rows[Tile::warps][Tile::WM][Tile::WN + 8];
};
template <class Tile, class L, class R> union Smem {
  Stage<L, R> stages[kStages];
  Finished<Tile> finished;
};

__device__ __forceinline__ void multiply(__nv_bfloat16, float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  simt::mma_m16n8k16_bf16(d, a, b);
}
__device__ __forceinline__ void multiply(__half, float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  simt::mma_m16n8k16_fp16(d, a, b);
}

// Adds a slice to a lane's sums [16 rows][8 columns][as mma has them].
template <class E, class Tile, class L, class R>
__device__ __forceinline__ void multiply(const Stage<L, R>& stage, int wm, int wn,
                                         float (&sums)[Tile::sums]) {
#pragma unroll
  for (int term = 0; term < kDepth; term += 16) {
    uint32_t right[Tile::WN / 16][4];
#pragma unroll
    for (int j = 0; j < Tile::WN / 16; j++) load<true>(stage.right, wn + 16 * j, term, right[j]);
#pragma unroll
    for (int i = 0; i < Tile::WM / 16; i++) {
      uint32_t left[4];
      load<false>(stage.left, wm + 16 * i, term, left);
#pragma unroll
      for (int j = 0; j < Tile::WN / 8; j++) {
        float* sum = &sums[(i * (Tile::WN / 8) + j) * 4];
        float d[4] = {sum[0], sum[1], sum[2], sum[3]};
        const uint32_t b[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
        multiply(E(), d, left, b);
#pragma unroll
        for (int e = 0; e < 4; e++) sum[e] = d[e];
      }
    }
  }
}

__device__ __forceinline__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float wide(__half x) { return __half2float(x); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16& to) {
  const __nv_bfloat16 rounded = __float2bfloat16_rn(x);
  to = rounded;
}
__device__ __forceinline__ void narrow(float x, __half& to) {
  const __half rounded = __float2half_rn(x);
  to = rounded;
}

// 8 neighbours of a row, rounded; `left` of them before its end.
template <class E>
__device__ __forceinline__ void store(float* array, i64 at, const Vec<float> (&x)[2], i64 left,
                                      bool whole) {
  E* to = reinterpret_cast<E*>(array) + at;
  alignas(16) E rounded[kLanes];
#pragma unroll
  for (int l = 0; l < kLanes; l++) narrow(x[l / 4].v[l % 4], rounded[l]);
  if (whole) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(rounded);
    return;
  }
#pragma unroll
  for (int l = 0; l < kLanes; l++) {
    if (l < left) to[l] = rounded[l];
  }
}

// A warp's sums, from shared memory to the result.
template <class E, class Tile>
__device__ __forceinline__ void finish(const Product& p, i64 m0, i64 n0,
                                       const float (&rows)[Tile::WM][Tile::WN + 8]) {
  const matmul_args<float>& a = p.a;
  const int lane = threadIdx.x % 32;
  const i64 column = n0 + lane % 4 * kLanes, left = a.n - column;
#pragma unroll 1
  for (int r = lane / 4; r < Tile::WM; r += 8) {
    if (m0 + r >= a.m || left <= 0) continue;
    const i64 at = (m0 + r) * a.n + column;
    Vec<float> x[2] = {load_aligned(&rows[r][lane % 4 * kLanes]),
                       load_aligned(&rows[r][lane % 4 * kLanes + 4])};
    const E* bias = reinterpret_cast<const E*>(a.bias) + column;
#pragma unroll
    for (int l = 0; l < kLanes; l++) {
      if (a.bias && l < left) x[l / 4].v[l % 4] += wide(bias[l]);
    }
    if (a.preactivation) store<E>(a.preactivation, at, x, left, p.vectors);
    with_activation<float>(a.activation, [&](auto f) {
      x[0] = f(x[0]);
      x[1] = f(x[1]);
    });
    store<E>(a.y, at, x, left, p.vectors);
  }
}

template <class E, class Tile, bool left_by_term, bool right_by_term>
__global__ void __launch_bounds__(Tile::threads, Tile::BM == 128 ? 1 : 2)
    matmul_halves_kernel(Product p) {
  using L = Slice<Tile::BM, left_by_term>;
  using R = Slice<Tile::BN, right_by_term>;
  using Shared = Smem<Tile, L, R>;
  DYN_SMEM(Shared, smem);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int wm = warp / (Tile::BN / Tile::WN) * Tile::WM;
  const int wn = warp % (Tile::BN / Tile::WN) * Tile::WN;
  const i64 m0 = blockIdx.x % p.tiles_m * Tile::BM, n0 = blockIdx.x / p.tiles_m * Tile::BN;
  const i64 begin = i64(blockIdx.y) * p.terms;
  const i64 end = p.a.k < begin + p.terms ? p.a.k : begin + p.terms;
  const int steps = int((end - begin + kDepth - 1) / kDepth);
  const auto bring = [&](int step) {
    Stage<L, R>& stage = smem->stages[step % kStages];
    if (step < steps) {
      fill<Tile::threads>(stage.left, p.left, m0, begin + i64(step) * kDepth);
      fill<Tile::threads>(stage.right, p.right, n0, begin + i64(step) * kDepth);
    }
    simt::cp_async_commit();
  };
  float sums[Tile::sums] = {};
#pragma unroll 1
  for (int step = 0; step < kStages - 1; step++) bring(step);
#pragma unroll 1
  for (int step = 0; step < steps; step++) {
    simt::cp_async_wait<kStages - 2>();
    __syncthreads();  // so everyone's copies are there, and the stage filled next is free
    bring(step + kStages - 1);
    multiply<E, Tile>(smem->stages[step % kStages], wm, wn, sums);
  }
  simt::cp_async_wait<0>();
  if (!add_parts<Tile::threads>(p.parts, sums)) return;
  __syncthreads();  // nobody reads a stage any more
  float (&rows)[Tile::WM][Tile::WN + 8] = smem->finished.rows[warp];
#pragma unroll
  for (int e = 0; e < Tile::sums; e += 2) {
    const int tile = e / 4, row = tile / (Tile::WN / 8) * 16 + lane / 4 + e / 2 % 2 * 8;
    const int column = tile % (Tile::WN / 8) * 8 + lane % 4 * 2;
    *reinterpret_cast<float2*>(&rows[row][column]) = make_float2(sums[e], sums[e + 1]);
  }
  __syncwarp();
  finish<E, Tile>(p, m0 + wm, n0 + wn, rows);
}

// ---- launches ------------------------------------------------------------------------------

template <class Tile> Cut cut_of(const matmul_args<float>& a) {
  return make_cut(a.m, a.n, a.k, Tile::BM, Tile::BN, 2 * kTerms);
}

// use(Tile), a large one where those fill a GPU.
template <class Use> auto with_tile(const matmul_args<float>& a, Use use) {
  const Cut cut = cut_of<Large>(a);
  if (cut.tiles * cut.splits >= kMultiprocessors) return use(Large());
  return use(Small());
}

// Slices lie as the factors do; one with neither stride 1 as if its terms were adjacent.
template <class E, class Tile> auto kernel_for(const Halves& left, const Halves& right) {
  const auto by_term = [](const Halves& f) { return f.term_stride == 1 || f.line_stride != 1; };
  if (by_term(left))
    return by_term(right) ? matmul_halves_kernel<E, Tile, true, true>
                          : matmul_halves_kernel<E, Tile, true, false>;
  return by_term(right) ? matmul_halves_kernel<E, Tile, false, true>
                        : matmul_halves_kernel<E, Tile, false, false>;
}
template <class Tile> size_t shared_bytes() {  // for any layout
  using S = Slice<Tile::BM, true>;
  return sizeof(Smem<Tile, S, Slice<Tile::BN, true>>);
}

template <class Tile> cudaError_t launch(const matmul_args<float>& a, const CudaCall& call) {
  const Cut cut = cut_of<Tile>(a);
  const bool vectors = a.n % kLanes == 0 && is_aligned(a.y) && is_aligned(a.preactivation);
  Product p{a,
            Halves(a.a, a.m, a.k, a.a_rs, a.a_cs),
            Halves(a.b, a.n, a.k, a.b_cs, a.b_rs),
            {},
            cut.tiles_m,
            cut.terms,
            vectors};
  const cudaError_t error = make_parts(call, cut, Tile::BM * Tile::BN, p.parts);
  if (error != cudaSuccess) return error;
  return simt::launch(a.halves == 1 ? kernel_for<__nv_bfloat16, Tile>(p.left, p.right)
                                    : kernel_for<__half, Tile>(p.left, p.right),
                      dim3(unsigned(cut.tiles), unsigned(cut.splits)), dim3(Tile::threads),
                      shared_bytes<Tile>(), call.stream, p);
}

}  // namespace

i64 halves_matmul_workspace(const matmul_args<float>& a) {
  return with_tile(a, [&]<class Tile>(Tile) {
    return parts_bytes<float>(cut_of<Tile>(a), Tile::BM * Tile::BN, 0);
  });
}
cudaError_t halves_matmul(const matmul_args<float>& a, const CudaCall& call) {
  return with_tile(a, [&]<class Tile>(Tile) { return launch<Tile>(a, call); });
}
