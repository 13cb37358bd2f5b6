// Matrix product of float32 arrays on tensor cores by mma.sync (sm_80 and later), in tf32, bf16, or
// nearly float32's precision by three products of tf32. Three stages of cp.async bring slices of 32
// terms as they are, float32; each warp converts what it multiplies. Within a tile, fragments take
// the lines and terms in an order in which every lane loads 16 bytes at a time, whichever of the
// two are adjacent in memory, and gets 8 adjacent columns of the result: the order of terms is the
// same for both factors, so sums don't notice.
#include "matmul.cuh"

namespace {

constexpr int kDepth = 32, kStages = 3;  // terms of a slice

// A tile of BM x BN, a warp's WM x WN.
template <int BM_, int BN_, int WM_, int WN_> struct Tile {
  static constexpr int BM = BM_, BN = BN_, WM = WM_, WN = WN_;
  static constexpr int threads = BM / WM * (BN / WN) * 32, sums = WM * WN / 32;
  static_assert(WN == 32 && (WM == 32 || WM == 64));
};
using Large = Tile<128, 128, 64, 32>;
using Small = Tile<64, 64, 32, 32>;

// ---- slices in shared memory ---------------------------------------------------------------

// Where an element lies. A lane owns `each` adjacent lines: lane 4 g + t those from each g on, and
// of 16 terms the four from 4 t on. Groups of four elements, along the terms or the lines, change
// places so that the eight lanes that are served at once find theirs in different banks.
template <int lines_, int each_, bool by_term_> struct Slice {
  static constexpr int lines = lines_, each = each_;
  static constexpr bool by_term = by_term_;
  alignas(16) float values[lines * kDepth];

  __device__ static int place(int line, int term) {
    if (by_term) return line * kDepth + (((term / 4) ^ (line / each % 2 * 4)) * 4 + term % 4);
    const int t = term / 4 % 4, by = each == 4 ? 2 * t : t % 2 + t / 2 * 4;
    return term * lines + (((line / 4) ^ by) * 4 + line % 4);
  }
};

// Starts copying terms from `term` on of the lines from `line` on: 16 bytes at a time where they
// are adjacent and aligned, else 4; bytes are rescaled on their way.
template <int threads, class S>
__device__ __forceinline__ void fill(S& slice, const Factor<float>& f, i64 line, i64 term) {
  constexpr int across = (S::by_term ? kDepth : S::lines) / 4;
  if (f.aligned) {
#pragma unroll
    for (int e = threadIdx.x; e < S::lines * kDepth / 4; e += threads) {
      const int i = S::by_term ? e / across : e % across * 4;
      const int k = S::by_term ? e % across * 4 : e / across;
      const i64 lines = f.lines - line - i, terms = f.terms - term - k;  // left
      const bool outside = lines <= 0 || terms <= 0;
      const i64 left = S::by_term ? terms : lines;
      const float* from = f.p + (line + i) * f.line_stride + (term + k) * f.term_stride;
      simt::cp_async16_part(&slice.values[S::place(i, k)], outside ? f.p : from,
                            outside ? 0 : 4 * int(left < 4 ? left : 4));
    }
    return;
  }
#pragma unroll 1
  for (int e = threadIdx.x; e < S::lines * kDepth; e += threads) {
    const int i = S::by_term ? e / kDepth : e % S::lines;
    const int k = S::by_term ? e % kDepth : e / S::lines;
    const bool inside = line + i < f.lines && term + k < f.terms;
    float* to = &slice.values[S::place(i, k)];
    if (f.bytes)
      *to = inside ? f.read(line + i, term + k) : 0;
    else
      simt::cp_async4(
          to, f.p + (inside ? (line + i) * f.line_stride + (term + k) * f.term_stride : 0), inside);
  }
}

// Four of the lane's lines of a warp's, which begin at `line`: four terms of 16 each.
template <class S>
__device__ __forceinline__ void load(const S& slice, int line, int term, Vec<float> (&x)[4]) {
  const int lane = threadIdx.x % 32, first = line + lane / 4 * S::each;
  term += lane % 4 * 4;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (S::by_term) {
      x[i] = load_aligned(&slice.values[S::place(first + i, term)]);
    } else {  // four lines of one term
      const Vec<float> v = load_aligned(&slice.values[S::place(first, term + i)]);
#pragma unroll
      for (int l = 0; l < 4; l++) x[l].v[i] = v.v[l];
    }
  }
}
template <class How, class S>
__device__ __forceinline__ void load(const S& slice, int line, int term,
                                     typename How::Line (&converted)[4]) {
  Vec<float> x[4];
  load(slice, line, term, x);
#pragma unroll
  for (int i = 0; i < 4; i++) converted[i] = How::convert(x[i]);
}

// ---- products ------------------------------------------------------------------------------

// What a lane has of a line of a factor, and d += the product of two lines of the left one by one
// of the right. The order of a lane's four terms is free, as long as both factors have the same.
struct Bf16 {
  static constexpr bool exact = false;
  struct Line {
    uint32_t terms[2];
  };
  __device__ static Line convert(Vec<float> x) {
    Line line;
    const __nv_bfloat162 low = __floats2bfloat162_rn(x.v[0], x.v[1]);
    const __nv_bfloat162 high = __floats2bfloat162_rn(x.v[2], x.v[3]);
    memcpy(&line.terms[0], &low, 4);
    memcpy(&line.terms[1], &high, 4);
    return line;
  }
  __device__ static void multiply(float (&d)[4], const Line& a0, const Line& a1, const Line& b) {
    const uint32_t left[4] = {a0.terms[0], a1.terms[0], a0.terms[1], a1.terms[1]};
    simt::mma_m16n8k16_bf16(d, left, b.terms);
  }
};

struct Tf32 {
  static constexpr bool exact = false;
  struct Line {
    uint32_t terms[4];
  };
  __device__ static Line convert(Vec<float> x) {
    Line line;
#pragma unroll
    for (int i = 0; i < 4; i++) line.terms[i] = simt::to_tf32(x.v[i]);
    return line;
  }
  __device__ static void multiply(float (&d)[4], const Line& a0, const Line& a1, const Line& b) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const uint32_t left[4] = {a0.terms[i], a1.terms[i], a0.terms[i + 1], a1.terms[i + 1]};
      const uint32_t right[2] = {b.terms[i], b.terms[i + 1]};
      simt::mma_m16n8k8_tf32(d, left, right);
    }
  }
};

// x = large + small to 22 bits (Ootomo & Yokota 2022); the product of the small ones is left out.
// An infinite or nearly infinite factor gives NaN.
struct Tf32x3 {
  static constexpr bool exact = true;
  struct Line {
    Tf32::Line large, small;
  };
  __device__ static Line convert(Vec<float> x) {
    Line line;
    line.large = Tf32::convert(x);
#pragma unroll
    for (int i = 0; i < 4; i++) x.v[i] -= __uint_as_float(line.large.terms[i]);
    line.small = Tf32::convert(x);
    return line;
  }
  __device__ static void multiply(float (&d)[4], const Line& a0, const Line& a1, const Line& b) {
    Tf32::multiply(d, a0.small, a1.small, b.large);
    Tf32::multiply(d, a0.large, a1.large, b.small);
    Tf32::multiply(d, a0.large, a1.large, b.large);
  }
};

// ---- the kernel ----------------------------------------------------------------------------

template <class L, class R> struct Stage {
  L left;
  R right;
};

// Adds a slice to a lane's sums [two rows][row][four columns][column].
template <class How, class Tile, class L, class R>
__device__ __forceinline__ void multiply(const Stage<L, R>& stage, int wm, int wn,
                                         float (&sums)[Tile::sums]) {
#pragma unroll
  for (int term = 0; term < kDepth; term += 16) {
    typename How::Line left[4], right[4];
    load<How>(stage.right, wn, term, right);
#pragma unroll
    for (int i = 0; i < L::each; i += 2) {
      if (i % 4 == 0) load<How>(stage.left, wm + i, term, left);
#pragma unroll
      for (int j = 0; j < 4; j++) {
        float d[4];
#pragma unroll
        for (int e = 0; e < 4; e++) d[e] = sums[i * 8 + e * 4 + j];
        How::multiply(d, left[i % 4], left[i % 4 + 1], right[j]);
#pragma unroll
        for (int e = 0; e < 4; e++) sums[i * 8 + e * 4 + j] = d[e];
      }
    }
  }
}

template <class How, class Tile, bool left_by_term, bool right_by_term>
__global__ void __launch_bounds__(Tile::threads, Tile::BM == 128 ? 1 : 2)
    matmul_mma_kernel(Tiled<float> p) {
  using L = Slice<Tile::BM, Tile::WM / 8, left_by_term>;
  using R = Slice<Tile::BN, Tile::WN / 8, right_by_term>;
  using Stages = Stage<L, R>;
  DYN_SMEM(Stages, stages);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int wm = warp / (Tile::BN / Tile::WN) * Tile::WM;
  const int wn = warp % (Tile::BN / Tile::WN) * Tile::WN;
  const i64 m0 = p.tile_m() * Tile::BM, n0 = p.tile_n() * Tile::BN;
  const i64 begin = i64(blockIdx.y) * p.terms;
  const i64 end = p.a.k < begin + p.terms ? p.a.k : begin + p.terms;
  const int steps = int((end - begin + kDepth - 1) / kDepth);
  const bool sums_b = p.a.b_sum && p.tile_m() == 0 && threadIdx.x < Tile::BN;
  const auto bring = [&](int step) {
    Stages& stage = stages[step % kStages];
    if (step < steps) {
      fill<Tile::threads>(stage.left, p.left, m0, begin + i64(step) * kDepth);
      fill<Tile::threads>(stage.right, p.right, n0, begin + i64(step) * kDepth);
    }
    simt::cp_async_commit();
  };
  float sums[Tile::sums] = {}, total[How::exact ? Tile::sums : 1] = {};
  ColumnSum<float> b;
#pragma unroll 1
  for (int step = 0; step < kStages - 1; step++) bring(step);
  for (int step = 0; step < steps; step++) {
    simt::cp_async_wait<kStages - 2>();
    __syncthreads();  // so everyone's copies are there, and the stage filled next is free
    bring(step + kStages - 1);
    const Stages& stage = stages[step % kStages];
    multiply<How, Tile>(stage, wm, wn, sums);
#pragma unroll 4
    for (int i = 0; sums_b && i < kDepth; i++)
      b.chain += stage.right.values[R::place(threadIdx.x, i)];
    if ((step + 1) % (kTerms / kDepth) != 0 && step + 1 < steps) continue;
    b.end_chain();
#pragma unroll
    for (int e = 0; How::exact && e < Tile::sums; e++) {
      total[e] += sums[e];
      sums[e] = 0;
    }
  }
  simt::cp_async_wait<0>();
  if constexpr (How::exact) memcpy(sums, total, sizeof sums);
  if (sums_b) b.leave(p, n0 + threadIdx.x);
  if (!add_parts<Tile::threads>(p.parts, sums)) return;
  if (sums_b) b.finish(p, n0 + threadIdx.x);
  finish(p, sums, [=](int v) {
    return Place{m0 + wm + lane / 4 * L::each + v / 2, n0 + wn + lane % 4 * 8 + v % 2 * 4};
  });
}

// ---- launches ------------------------------------------------------------------------------

template <class Tile> Cut cut_of(const matmul_args<float>& a) {
  return make_cut(a.m, a.n, a.k, Tile::BM, Tile::BN, 2 * kTerms);
}

// use(Tile), a large one where those fill a GPU. The exact product has no registers for it.
template <class Use> auto with_tile(const matmul_args<float>& a, Mma how, Use use) {
  const Cut cut = cut_of<Large>(a);
  if (how != Mma::tf32x3 && cut.tiles * cut.splits >= kMultiprocessors) return use(Large());
  return use(Small());
}

// Slices lie as the factors do, but for a transposed right factor with a transposed left one (or
// neither stride 1): that left one is copied element by element.
template <class How, class Tile>
cudaError_t launch_how(const matmul_args<float>& a, const CudaCall& call) {
  const bool left_by_line = a.a_rs == 1 && a.a_cs != 1, right_by_line = a.b_cs == 1;
  const auto kernel = !right_by_line ? matmul_mma_kernel<How, Tile, true, true>
                      : left_by_line ? matmul_mma_kernel<How, Tile, false, false>
                                     : matmul_mma_kernel<How, Tile, true, false>;
  const size_t shared = size_t(kStages) * (Tile::BM + Tile::BN) * kDepth * sizeof(float);
  return launch_tiles(a, call, kernel, cut_of<Tile>(a), Tile::BM * Tile::BN, Tile::threads, shared);
}

}  // namespace

i64 mma_matmul_workspace(const matmul_args<float>& a, Mma how) {
  return with_tile(a, how, [&]<class Tile>(Tile) {
    return parts_bytes<float>(cut_of<Tile>(a), Tile::BM * Tile::BN, a.n);
  });
}

cudaError_t mma_matmul(const matmul_args<float>& a, const CudaCall& call, Mma how) {
  return with_tile(a, how, [&]<class Tile>(Tile) {
    if (how == Mma::bf16) return launch_how<Bf16, Tile>(a, call);
    if (how == Mma::tf32) return launch_how<Tf32, Tile>(a, call);
    return launch_how<Tf32x3, Small>(a, call);
  });
}
