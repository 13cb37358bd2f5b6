// Matrix product on Hopper's tensor cores, of float32 arrays in bf16 or tf32, and of bfloat16 or
// float16 arrays, whose results are rounded once. Warps are specialised as in CUTLASS's persistent
// kernels: a block takes one tile after the other; one thread of its first warpgroup keeps a ring
// of stages filled by TMA, one or two other warpgroups multiply them by wgmma, 64 rows each, and
// finish the sums in registers while the ring fills for the next tile. wgmma wants both factors by
// terms (tf32; here always), in 16 bits but for tf32, and aligned: where they are not so already, a
// pass before rewrites them into the workspace.
#include "matmul.cuh"

namespace {

using bf16 = __nv_bfloat16;
using fp16 = __half;

// ---- packing -------------------------------------------------------------------------------

constexpr int kPackLines = 32, kPackTerms = 64, kPackThreads = 256;

__device__ void put(bf16* to, float x) {
  const bf16 rounded = __float2bfloat16_rn(x);
  *to = rounded;  // not *to = call(): the emulator sees no stores of structs that calls return
}
__device__ void put(float* to, float x) { *to = __uint_as_float(simt::to_tf32(x)); }
template <class E> __device__ void put(E* to, unsigned short bits) {
  *reinterpret_cast<unsigned short*>(to) = bits;
}

// A factor of an array of 16 bits.
struct HalfFactor {
  const unsigned short* p;
  i64 lines, terms, line_stride, term_stride;
  bool aligned;

  explicit HalfFactor(const Factor<float>& f)
      : p(reinterpret_cast<const unsigned short*>(f.p)), lines(f.lines), terms(f.terms),
        line_stride(f.line_stride), term_stride(f.term_stride),
        aligned(is_aligned(p) && line_stride % 8 == 0) {}
  __device__ bool by_term() const { return term_stride == 1; }
  __device__ unsigned short read_inside(i64 line, i64 term) const {
    const bool inside = line < lines && term < terms;
    return inside ? p[line * line_stride + term * term_stride] : 0;
  }
};
template <class E> using FactorOf = std::conditional_t<sizeof(E) == 2, HalfFactor, Factor<float>>;

// Lines of terms, a multiple of 16 bytes apart, from a factor of any layout.
template <class T, class F>
__global__ void __launch_bounds__(kPackThreads) pack_kernel(F f, T* to, i64 pitch) {
  using Element = decltype(f.read_inside(0, 0));
  __shared__ Element tile[kPackLines][kPackTerms + 4 / sizeof(Element)];
  const i64 across = (f.terms + kPackTerms - 1) / kPackTerms;
  const i64 line0 = blockIdx.x / across * kPackLines, term0 = blockIdx.x % across * kPackTerms;
  for (int e = threadIdx.x; e < kPackLines * kPackTerms; e += kPackThreads) {
    const int line = f.by_term() ? e / kPackTerms : e % kPackLines;
    const int term = f.by_term() ? e % kPackTerms : e / kPackLines;
    tile[line][term] = f.read_inside(line0 + line, term0 + term);
  }
  __syncthreads();
  for (int e = threadIdx.x; e < kPackLines * kPackTerms; e += kPackThreads) {
    const i64 line = line0 + e / kPackTerms, term = term0 + e % kPackTerms;
    if (line < f.lines && term < f.terms)
      put(to + line * pitch + term, tile[e / kPackTerms][e % kPackTerms]);
  }
}

// ---- the product ---------------------------------------------------------------------------

template <class T_, int BM_, int BN_> struct Shape {
  using T = T_;
  static constexpr int BM = BM_, BN = BN_, BK = 128 / sizeof(T);  // rows of 128 bytes, swizzled
  static constexpr int groups = BM / 64, threads = 128 + groups * 128;
  static constexpr int most = 200 * 1024 / (128 * (BM + BN)), stages = most < 8 ? most : 8;
  static_assert(stages >= 4);
};

template <class S> struct Smem {
  typename S::T left[S::stages][S::BM * S::BK], right[S::stages][S::BN * S::BK];
  uint64_t full[S::stages], empty[S::stages];
  bool last[S::groups];
};

struct Hopper {
  matmul_args<float> a;
  Parts<float> parts;
  i64 tiles_m, tiles, splits;
  int blocks, split_blocks;  // of BK terms: all, of a split
  bool vectors;
};

// What a block does at once: a tile's blocks begin..end of terms.
struct Unit {
  i64 tile, split, m0, n0;
  int begin, end;
  __device__ Unit(const Hopper& p, i64 unit, int BM, int BN)
      : tile(unit % p.tiles), split(unit / p.tiles), m0(tile % p.tiles_m * BM),
        n0(tile / p.tiles_m * BN), begin(int(split) * p.split_blocks),
        end(begin + p.split_blocks < p.blocks ? begin + p.split_blocks : p.blocks) {}
};

template <class S>
__device__ void produce(const Hopper& p, Smem<S>* smem, const CUtensorMap* left,
                        const CUtensorMap* right) {
  int round = 0;  // of the ring, and the stage in it
  for (i64 i = blockIdx.x, s = 0; i < p.tiles * p.splits; i += gridDim.x) {
    const Unit unit(p, i, S::BM, S::BN);
    for (int block = unit.begin; block < unit.end; block++) {
      simt::mbar_wait(&smem->empty[s], (round & 1) ^ 1);
      simt::mbar_expect_tx(&smem->full[s], 128 * (S::BM + S::BN));
      simt::tma_load_2d(smem->left[s], left, &smem->full[s], block * S::BK, int(unit.m0));
      simt::tma_load_2d(smem->right[s], right, &smem->full[s], block * S::BK, int(unit.n0));
      if (++s == S::stages) s = 0, round++;
    }
  }
}

// Of rows of 128 bytes, swizzled; groups of eight rows 1024 bytes apart.
__device__ __forceinline__ uint64_t descriptor(const void* p) {
  return (simt::smem_u32(p) & 0x3ffff) >> 4 | uint64_t(1) << 16 | uint64_t(1024 >> 4) << 32 |
         uint64_t(1) << 62;
}

template <class S>
__device__ __forceinline__ void multiply(float (&sums)[S::BN / 2], const typename S::T* left,
                                         const typename S::T* right) {
  const uint64_t a = descriptor(left), b = descriptor(right);
#pragma unroll
  for (int step = 0; step < 4; step++) {  // 32 bytes
    if constexpr (std::is_same_v<typename S::T, bf16>)
      simt::wgmma_bf16<S::BN>(sums, a + 2 * step, b + 2 * step);
    else if constexpr (std::is_same_v<typename S::T, fp16>)
      simt::wgmma_fp16<S::BN>(sums, a + 2 * step, b + 2 * step);
    else
      simt::wgmma_tf32<S::BN>(sums, a + 2 * step, b + 2 * step);
  }
}

// As add_parts in matmul.cuh, of a warpgroup.
template <class S>
__device__ bool add_group_parts(const Hopper& p, const Unit& unit, int group, bool* last,
                                float (&sums)[S::BN / 2]) {
  if (p.splits == 1) return true;
  const i64 mine = unit.tile * S::groups + group, all = p.tiles * S::groups;
  const auto part = [&](i64 split) {
    return p.parts.sums + (split * all + mine) * (64 * S::BN) + threadIdx.x % 128 * 4;
  };
  float* to = part(unit.split);
#pragma unroll
  for (int i = 0; i < S::BN / 2; i += 4)
    store_aligned(to + i * 128, Vec<float>{{sums[i], sums[i + 1], sums[i + 2], sums[i + 3]}});
  simt::bar_sync(1 + group, 128);
  if (threadIdx.x % 128 == 0) {
    __threadfence();
    *last = atomicInc(p.parts.counters + mine, unsigned(p.splits) - 1) == p.splits - 1;
    __threadfence();
  }
  simt::bar_sync(1 + group, 128);
  if (!*last) return false;
#pragma unroll
  for (int i = 0; i < S::BN / 2; i++) sums[i] = 0;
  for (i64 split = 0; split < p.splits; split++) {
    const float* from = part(split);
#pragma unroll
    for (int i = 0; i < S::BN / 2; i += 4) {
      const Vec<float> x = load_aligned(from + i * 128);
#pragma unroll
      for (int l = 0; l < 4; l++) sums[i + l] += x.v[l];
    }
  }
  return true;
}

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float wide(fp16 x) { return __half2float(x); }
__device__ __forceinline__ float2 make_pair(float, float x, float y) { return make_float2(x, y); }
__device__ __forceinline__ __nv_bfloat162 make_pair(bf16, float x, float y) {
  return __floats2bfloat162_rn(x, y);
}
__device__ __forceinline__ __half2 make_pair(fp16, float x, float y) {
  return __floats2half2_rn(x, y);
}

// Two adjacent columns of a row, or the last one.
template <class E>
__device__ __forceinline__ void finish_pair(const Hopper& p, i64 row, i64 j, float x, float y) {
  const matmul_args<float>& a = p.a;
  const i64 at = row * a.n + j;
  const bool two = j + 1 < a.n;
  const auto store = [&](float* array) {
    E* to = reinterpret_cast<E*>(array) + at;
    const auto pair = make_pair(E(), x, y);
    if (p.vectors)
      *reinterpret_cast<decltype(make_pair(E(), x, y))*>(to) = pair;
    else if (to[0] = pair.x; two)
      to[1] = pair.y;
  };
  if (a.bias) {
    const E* bias = reinterpret_cast<const E*>(a.bias) + j;
    x += wide(bias[0]);
    if (two) y += wide(bias[1]);
  }
  if (a.preactivation) store(a.preactivation);
  if (a.activation < 0 && a.gate) {
    x = a.gate[at] <= 0 ? 0 : x;
    if (two) y = a.gate[at + 1] <= 0 ? 0 : y;
  }
  if (a.activation == 0) {
    x = x < 0 ? 0 : x;
    y = y < 0 ? 0 : y;
  }
  store(a.y);
}

// simt_wgmma.cuh says which sums a thread has.
__device__ __forceinline__ i64 row_of(int i) {
  return threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
}
__device__ __forceinline__ i64 column_of(int i) { return threadIdx.x % 4 * 2 + i / 4 * 8; }

template <class E, int BN>
__device__ __forceinline__ void finish_rows(const Hopper& p, i64 m0, i64 n0,
                                            const float (&sums)[BN / 2]) {
#pragma unroll
  for (int i = 0; i < BN / 2; i += 2) {
    const i64 row = m0 + row_of(i), column = n0 + column_of(i);
    if (row < p.a.m && column < p.a.n) finish_pair<E>(p, row, column, sums[i], sums[i + 1]);
  }
}

// Activations but relu go over y once more, as in finish(). Of 16 bits that would round twice, so
// such products don't come here.
template <int BN>
__device__ __forceinline__ void activate_rows(const matmul_args<float>& a, i64 m0, i64 n0) {
#pragma unroll 1
  for (int i = 0; i < BN / 2; i += 2) {
    const i64 row = m0 + row_of(i), column = n0 + column_of(i);
    if (row >= a.m || column >= a.n) continue;
    const i64 at = row * a.n + column;
    const At<false> pair{at, at + (column + 1 < a.n ? 2 : 1)};
    with_epilogue(a, [&](auto f) {
      pair.store(a.y, f(pair.load(a.y), a.gate ? pair.load(a.gate) : Vec<float>()));
    });
  }
}

template <class S, class E> __device__ void consume(const Hopper& p, Smem<S>* smem, int group) {
  const bool leads = threadIdx.x % 128 == 0;
  int round = 0, before = 0;
  for (i64 i = blockIdx.x, s = 0; i < p.tiles * p.splits; i += gridDim.x) {
    const Unit unit(p, i, S::BM, S::BN);
    float sums[S::BN / 2] = {};
    simt::wgmma_pin(sums);
    for (int block = unit.begin; block < unit.end; block++) {
      simt::mbar_wait(&smem->full[s], round & 1);
      simt::wgmma_fence();
      multiply<S>(sums, smem->left[s] + group * 64 * S::BK, smem->right[s]);
      simt::wgmma_commit();
      simt::wgmma_wait<1>();  // the stage before has been multiplied
      if (leads && block > unit.begin) simt::mbar_arrive(&smem->empty[before]);
      before = int(s);
      if (++s == S::stages) s = 0, round++;
    }
    simt::wgmma_wait<0>();
    simt::wgmma_pin(sums);
    if (leads) simt::mbar_arrive(&smem->empty[before]);
    if (!add_group_parts<S>(p, unit, group, &smem->last[group], sums)) continue;
    finish_rows<E, S::BN>(p, unit.m0 + group * 64, unit.n0, sums);
    if constexpr (sizeof(E) == 4) {
      if (p.a.activation > 0) activate_rows<S::BN>(p.a, unit.m0 + group * 64, unit.n0);
    }
  }
}

template <class S, class E>
__global__ void __launch_bounds__(S::threads, 1)
    matmul_sm90a_kernel(Hopper p, const __grid_constant__ CUtensorMap left,
                        const __grid_constant__ CUtensorMap right) {
  DYN_SMEM(Smem<S>, smem);
  if (threadIdx.x == 0) {
    for (int s = 0; s < S::stages; s++) {
      simt::mbar_init(&smem->full[s], 1);
      simt::mbar_init(&smem->empty[s], S::groups);
    }
    simt::fence_mbar_init();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    simt::setmaxnreg_dec<40>();
    if (threadIdx.x == 0) produce<S>(p, smem, &left, &right);
  } else {
    simt::setmaxnreg_inc<232>();
    consume<S, E>(p, smem, int(threadIdx.x / 128 - 1));
  }
}

// ---- the choice of a tile ------------------------------------------------------------------

i64 block_terms(const matmul_args<float>& a) { return a.precision == 1 || a.halves ? 64 : 32; }

// Rough cycles of the slowest multiprocessor: a block of 128 bytes of k takes the tensor cores
// m n / 32, and 2.5 (m + n) to arrive from L2; a tile some 1500 to start and finish, and its parts
// as many bytes as it writes and reads. To be fitted to measurements.
double cycles(const matmul_args<float>& a, Sm90aTile t) {
  const i64 tiles = ceil_div(a.m, t.m) * ceil_div(a.n, t.n);
  const i64 blocks = ceil_div(ceil_div(a.k, block_terms(a)), t.splits);
  const double block = fmax(t.m * t.n / 32., 2.5 * (t.m + t.n));
  const double parts = t.splits == 1 ? 0 : t.m * t.n / 16. * double(1 + t.splits);
  return double(ceil_div(tiles * t.splits, kMultiprocessors)) * (double(blocks) * block + 1500) +
         parts;
}

}  // namespace

bool sm90a_matmul_fits(const matmul_args<float>& a) {
  constexpr i64 most = (i64(1) << 31) - 1024;  // TMA's coordinates
  int device = 0, major = 0;
  const bool rounded_once = !a.halves || a.activation <= 0;
  return a.k > 0 && rounded_once && a.m < most && a.n < most && a.k < most &&
         cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         major == 9;
}

Sm90aTile sm90a_tile(const matmul_args<float>& a) {
  const i64 blocks = ceil_div(a.k, block_terms(a));
  Sm90aTile best{128, 128, 1};
  for (int m : {64, 128}) {
    for (int n : {64, 128, 192, 256}) {
      for (i64 splits = 1; splits == 1 || (splits <= 16 && splits * 8 <= blocks); splits++) {
        const Sm90aTile tile{m, n, splits};
        if (cycles(a, tile) < cycles(a, best)) best = tile;
      }
    }
  }
  return best;
}

// ---- the launch ----------------------------------------------------------------------------

namespace {

i64 round_up(i64 bytes) { return ceil_div(bytes, 256) * 256; }

CUtensorMapDataType map_type(float) { return CU_TENSOR_MAP_DATA_TYPE_FLOAT32; }
CUtensorMapDataType map_type(bf16) { return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16; }
CUtensorMapDataType map_type(fp16) { return CU_TENSOR_MAP_DATA_TYPE_FLOAT16; }

// A factor of elements E as TMA reads it: in place, or packed.
template <class T, class E> struct Packed {
  FactorOf<E> f;
  bool in_place;
  i64 pitch;
  explicit Packed(const Factor<float>& factor)
      : f(factor), in_place(sizeof(T) == sizeof(E) && f.aligned && f.term_stride == 1 &&
                            f.line_stride >= f.terms),
        pitch(in_place ? f.line_stride
                       : ceil_div(f.terms * i64(sizeof(T)), 16) * 16 / i64(sizeof(T))) {}
  i64 bytes() const { return in_place ? 0 : round_up(f.lines * pitch * i64(sizeof(T))); }

  cudaError_t make(const CudaCall& call, char* place, int box_lines, CUtensorMap* map) const {
    T* to = reinterpret_cast<T*>(place);
    if (!in_place) {
      const i64 blocks = ceil_div(f.lines, kPackLines) * ceil_div(f.terms, kPackTerms);
      const cudaError_t error = simt::launch(pack_kernel<T, FactorOf<E>>, dim3(unsigned(blocks)),
                                             dim3(kPackThreads), 0, call.stream, f, to, pitch);
      if (error != cudaSuccess) return error;
    }
    const void* base = in_place ? static_cast<const void*>(f.p) : to;
    return simt::make_tensor_map_2d(map, map_type(T()), base, uint64_t(f.terms), uint64_t(f.lines),
                                    uint64_t(pitch) * sizeof(T), 128 / sizeof(T),
                                    uint32_t(box_lines), CU_TENSOR_MAP_SWIZZLE_128B);
  }
};

// What is launched, and the workspace: counters, sums, left factor, right factor.
template <class S, class E> struct Plan {
  using T = typename S::T;
  Packed<T, E> left, right;
  i64 tiles_m, tiles;
  int blocks, split_blocks;
  Cut cut;  // for Parts: each warpgroup has its own

  Plan(const matmul_args<float>& a, i64 splits)
      : left(left_factor(a)), right(right_factor(a)), tiles_m(ceil_div(a.m, S::BM)),
        tiles(tiles_m * ceil_div(a.n, S::BN)), blocks(int(ceil_div(a.k, S::BK))),
        split_blocks(int(ceil_div(blocks, splits))),
        cut{0, tiles * S::groups, ceil_div(blocks, split_blocks), 0} {}
  static constexpr i64 group_sums = 64 * S::BN;
  i64 sums_bytes() const { return round_up(parts_bytes<float>(cut, group_sums, 0)); }
  i64 bytes() const { return sums_bytes() + left.bytes() + right.bytes(); }

  cudaError_t launch(const matmul_args<float>& a, const CudaCall& call) const {
    const bool vectors = sizeof(E) == 4
                             ? in_vectors(a)
                             : a.n % 2 == 0 && is_aligned(a.y) && is_aligned(a.preactivation);
    Hopper p{a, {}, tiles_m, tiles, cut.splits, blocks, split_blocks, vectors};
    CUtensorMap left_map, right_map;
    char* packed = call.workspace + sums_bytes();
    cudaError_t error = make_parts(call, cut, group_sums, p.parts);
    if (error == cudaSuccess) error = left.make(call, packed, S::BM, &left_map);
    if (error == cudaSuccess) error = right.make(call, packed + left.bytes(), S::BN, &right_map);
    if (error != cudaSuccess) return error;
    const i64 units = tiles * cut.splits;
    const unsigned grid = unsigned(units < kMultiprocessors ? units : kMultiprocessors);
    return simt::launch(matmul_sm90a_kernel<S, E>, dim3(grid), dim3(S::threads), sizeof(Smem<S>),
                        call.stream, p, left_map, right_map);
  }
};

template <class T, int BM, class Use> auto with_columns(int n, Use use) {
  switch (n) {
    case 64: return use(Shape<T, BM, 64>());
    case 128: return use(Shape<T, BM, 128>());
    case 192: return use(Shape<T, BM, 192>());
    default: return use(Shape<T, BM, 256>());
  }
}
template <class T, class Use> auto with_rows(Sm90aTile t, Use use) {
  return t.m == 64 ? with_columns<T, 64>(t.n, use) : with_columns<T, 128>(t.n, use);
}
// use(Plan) for the tile and the precision.
template <class Use> auto with_plan(const matmul_args<float>& a, Sm90aTile t, Use use) {
  const auto halves = [&]<class S>(S) { return use(Plan<S, typename S::T>(a, t.splits)); };
  if (a.halves) return a.halves == 1 ? with_rows<bf16>(t, halves) : with_rows<fp16>(t, halves);
  const auto floats = [&]<class S>(S) { return use(Plan<S, float>(a, t.splits)); };
  return a.precision == 1 ? with_rows<bf16>(t, floats) : with_rows<float>(t, floats);
}

}  // namespace

i64 sm90a_matmul_workspace(const matmul_args<float>& a, Sm90aTile t) {
  return with_plan(a, t, [](const auto& plan) { return plan.bytes(); });
}
cudaError_t sm90a_matmul(const matmul_args<float>& a, const CudaCall& call, Sm90aTile t) {
  return with_plan(a, t, [&](const auto& plan) { return plan.launch(a, call); });
}
