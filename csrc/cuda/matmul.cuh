// What the kernels of the matrix product share: its factors, the cut of k among blocks, and what
// happens to a finished sum.
#pragma once
#include "elementwise.cuh"
#include "matmul.h"
#include "reduce.cuh"

namespace {

enum : i64 { kTerms = 256 };  // of a chain of additions; k is cut at multiples of it

// A factor as lines (rows of the left one, columns of the right one) of k terms.
template <class T> struct Factor {
  const T* p;
  const u8* bytes;      // if not null, what is read instead, times scale[0] plus scale[1]
  const double* scale;  // on the device
  i64 lines, terms, line_stride, term_stride;
  bool aligned;  // along the unit stride, what starts at a multiple of a Vec may be read as one

  __device__ __forceinline__ bool by_term() const { return term_stride == 1; }
  __device__ __forceinline__ T read(i64 line, i64 term) const {
    const i64 at = line * line_stride + term * term_stride;
    return bytes ? fma_lane(T(bytes[at]), T(scale[0]), T(scale[1])) : p[at];
  }
  __device__ __forceinline__ T read_inside(i64 line, i64 term) const {
    return line < lines && term < terms ? read(line, term) : T(0);
  }
  // Lanes along the terms or along the lines, zero outside; the first is a multiple of a Vec.
  template <bool along_terms> __device__ __forceinline__ Vec<T> read_vec(i64 line, i64 term) const {
    constexpr int lanes = Vec<T>::lanes;
    const i64 last_line = line + (along_terms ? 0 : lanes - 1);
    const i64 last_term = term + (along_terms ? lanes - 1 : 0);
    if (aligned && last_line < lines && last_term < terms)
      return load_aligned(p + line * line_stride + term * term_stride);
    Vec<T> x;
#pragma unroll
    for (int i = 0; i < lanes; i++)
      x.v[i] = read_inside(line + (along_terms ? 0 : i), term + (along_terms ? i : 0));
    return x;
  }
};

template <class T>
Factor<T> make_factor(const T* p, i64 lines, i64 terms, i64 line_stride, i64 term_stride) {
  const i64 other = term_stride == 1 ? line_stride : term_stride, lanes = Vec<T>::lanes;
  const bool unit = term_stride == 1 || line_stride == 1;
  return {p,     nullptr,     nullptr,     lines,
          terms, line_stride, term_stride, unit && is_aligned(p) && other % lanes == 0};
}
template <class T> Factor<T> left_factor(const matmul_args<T>& a) {
  Factor<T> f = make_factor(a.a, a.m, a.k, a.a_rs, a.a_cs);
  f.bytes = a.a_bytes;
  f.scale = a.a_scale;
  f.aligned = f.aligned && !a.a_bytes;
  return f;
}
template <class T> Factor<T> right_factor(const matmul_args<T>& a) {
  return make_factor(a.b, a.n, a.k, a.b_cs, a.b_rs);
}

// ---- the cut of k --------------------------------------------------------------------------

// A grid of (tiles, splits): each block does `terms` terms of one tile.
struct Cut {
  i64 tiles_m, tiles, splits, terms;
};

inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }

// Two blocks for each multiprocessor, of at least least_terms terms, a multiple of kTerms.
inline Cut make_cut(i64 m, i64 n, i64 k, i64 tile_m, i64 tile_n, i64 least_terms) {
  const i64 tiles_m = ceil_div(m, tile_m), tiles = tiles_m * ceil_div(n, tile_n);
  const i64 wanted = 2 * kMultiprocessors / tiles, most = k / least_terms;
  const i64 splits = wanted < most ? wanted : most;
  if (splits <= 1) return {tiles_m, tiles, 1, k};
  const i64 terms = ceil_div(ceil_div(k, kTerms), splits) * kTerms;
  return {tiles_m, tiles, ceil_div(k, terms), terms};
}

// Where blocks that share a tile leave their sums, thread by thread; the last one adds them in
// order.
template <class T> struct Parts {
  T *sums, *b_sums;    // [split][tile][Vec][thread]; [split][n]
  unsigned* counters;  // [tile]
};

inline i64 counter_bytes(const Cut& cut) { return ceil_div(cut.tiles * 4, 256) * 256; }
template <class T> i64 parts_bytes(const Cut& cut, i64 tile_sums, i64 n) {
  if (cut.splits == 1) return 0;
  return counter_bytes(cut) + cut.splits * (cut.tiles * tile_sums + n) * i64(sizeof(T));
}
// Takes parts_bytes() of the workspace.
template <class T>
cudaError_t make_parts(const CudaCall& call, const Cut& cut, i64 tile_sums, Parts<T>& parts) {
  if (cut.splits == 1) return cudaSuccess;
  parts.counters = reinterpret_cast<unsigned*>(call.workspace);
  parts.sums = reinterpret_cast<T*>(call.workspace + counter_bytes(cut));
  parts.b_sums = parts.sums + cut.splits * cut.tiles * tile_sums;
  return cudaMemsetAsync(parts.counters, 0, size_t(cut.tiles) * 4, call.stream);
}

// Puts a block's sums with those of the blocks of the same tile; true in the block that has all.
template <int threads, class T, int count>
__device__ __forceinline__ bool add_parts(const Parts<T>& parts, T (&sums)[count]) {
  if (gridDim.y == 1) return true;
  constexpr int lanes = Vec<T>::lanes, step = threads * lanes;
  const i64 per_split = i64(gridDim.x) * threads * count;
  T* mine = parts.sums + i64(blockIdx.x) * threads * count + threadIdx.x * lanes;
#pragma unroll
  for (int i = 0; i < count; i += lanes) {
    Vec<T> x;
    memcpy(&x, &sums[i], sizeof x);
    store_aligned(mine + blockIdx.y * per_split + i / lanes * step, x);
    memset(&sums[i], 0, sizeof x);
  }
  if (!is_last_block(parts.counters + blockIdx.x, gridDim.y)) return false;
  for (unsigned split = 0; split < gridDim.y; split++) {
#pragma unroll
    for (int i = 0; i < count; i += lanes) {
      const Vec<T> x = load_aligned(mine + split * per_split + i / lanes * step);
#pragma unroll
      for (int l = 0; l < lanes; l++) sums[i + l] += x.v[l];
    }
  }
  return true;
}

// ---- tiles ---------------------------------------------------------------------------------

// The arguments of a kernel whose blocks own tiles of the result.
template <class T> struct Tiled {
  matmul_args<T> a;
  Factor<T> left, right;
  Parts<T> parts;
  i64 tiles_m, terms;  // of a split
  bool vectors;        // rows of the result and of its companions consist of whole, aligned Vecs

  __device__ i64 tile_m() const { return blockIdx.x % tiles_m; }
  __device__ i64 tile_n() const { return blockIdx.x / tiles_m; }
};

template <class T> bool in_vectors(const matmul_args<T>& a) {
  return a.n % Vec<T>::lanes == 0 && is_aligned(a.y) && is_aligned(a.bias) &&
         is_aligned(a.preactivation) && is_aligned(a.gate);
}

// make(a's tile) launches kernel with one block for each tile and split.
template <class T, class Kernel>
cudaError_t launch_tiles(const matmul_args<T>& a, const CudaCall& call, Kernel kernel,
                         const Cut& cut, i64 tile_sums, int threads, size_t shared = 0) {
  Tiled<T> p{a, left_factor(a), right_factor(a), {}, cut.tiles_m, cut.terms, in_vectors(a)};
  const cudaError_t error = make_parts(call, cut, tile_sums, p.parts);
  if (error != cudaSuccess) return error;
  return simt::launch(kernel, dim3(unsigned(cut.tiles), unsigned(cut.splits)), dim3(threads),
                      shared, call.stream, p);
}

// A row's sums of columns j, j + 1, ..., fewer at the end.
template <class T, bool aligned>
__device__ __forceinline__ void finish_vec(const matmul_args<T>& a, i64 row, i64 j, Vec<T> x) {
  const At<aligned> here{row * a.n + j, (row + 1) * a.n}, column{j, a.n};
  if (a.bias) x = x + column.load(a.bias);
  if (a.preactivation) here.store(a.preactivation, x);
  if (a.activation < 0 && a.gate) x = relu_backward(x, here.load(a.gate));
  if (a.activation == 0) x = relu(x);
  here.store(a.y, x);
}

// A thread's sums, Vec after Vec; where(v) gives the row and the first column of one. Other
// activations than relu are much code, so they go over y once more in a loop that is not unrolled,
// each thread over what it wrote.
struct Place {
  i64 row, column;
};
template <class T, int count, class Where>
__device__ __forceinline__ void finish(const Tiled<T>& p, const T (&sums)[count], Where where) {
  constexpr int lanes = Vec<T>::lanes;
  const matmul_args<T>& a = p.a;
#pragma unroll
  for (int v = 0; v < count / lanes; v++) {
    const Place at = where(v);
    Vec<T> x;
    memcpy(&x, &sums[v * lanes], sizeof x);
    if (at.row >= a.m || at.column >= a.n) continue;
    if (p.vectors)
      finish_vec<T, true>(a, at.row, at.column, x);
    else
      finish_vec<T, false>(a, at.row, at.column, x);
  }
  if (a.activation <= 0) return;
#pragma unroll 1
  for (int v = 0; v < count / lanes; v++) {
    const Place at = where(v);
    if (at.row >= a.m || at.column >= a.n) continue;
    const At<false> here{at.row * a.n + at.column, (at.row + 1) * a.n};
    with_epilogue(a, [&](auto f) {
      here.store(a.y, f(here.load(a.y), a.gate ? here.load(a.gate) : Vec<T>()));
    });
  }
}

// ---- column sums of b ----------------------------------------------------------------------

// By the blocks of the first row of tiles, one column a thread: chains of kTerms like an element's.
template <class T> struct ColumnSum {
  T total = 0, chain = 0;
  __device__ __forceinline__ void end_chain() {
    total += chain;
    chain = 0;
  }
  // Before add_parts, all threads; and after it, those of the block that has all.
  __device__ __forceinline__ void leave(const Tiled<T>& p, i64 column) const {
    if (column < p.a.n && gridDim.y > 1) p.parts.b_sums[blockIdx.y * p.a.n + column] = total;
  }
  __device__ __forceinline__ void finish(const Tiled<T>& p, i64 column) const {
    if (column >= p.a.n) return;
    T sum = gridDim.y > 1 ? 0 : total;
    for (unsigned split = 0; gridDim.y > 1 && split < gridDim.y; split++)
      sum += p.parts.b_sums[split * p.a.n + column];
    p.a.b_sum[column] = sum;
  }
};

}  // namespace
