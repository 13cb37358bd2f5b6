// y = act(op(a) @ op(b) + bias), passing over y once per 256 terms. Tiles of the left factor are
// read in place whatever their strides; the right factor is read in place too where its columns are
// contiguous and the rows are few, else packed: for one tile of rows on the way, for more in blocks
// for L2, each thread its own, so nobody waits (Goto & van de Geijn, 2008). Narrow or small results
// are computed transposed. An element is the sum, in order, of FMA chains of 256 terms, plus the
// bias: its bits depend on its row, its column and k alone, never on how the work is cut.
#pragma once
#include "../../core/matmul_plan.h"
#include "activations.h"
#include "bfloat16.h"
#include "column_sum.h"
#include "each.h"
#include "matmul_thin.h"
#include "matmul_tile.h"
#include "transpose.h"

namespace {

template <class T> constexpr i64 kLanes = Vec<T>::lanes;
template <class T> i64 count_vecs(i64 n) { return (n + kLanes<T> - 1) / kLanes<T>; }

constexpr i64 kPairedTerms = 16;  // of the right factor, paired at once

// Elements j0..j1 of rows of y, where the product lies, each `stride` after the one before, from
// begin to end: adds the bias, applies the activation or the gradient of one.
template <class T>
void finish_rows(const matmul_args<T>& a, const T* bias, i64 begin, i64 end, i64 stride, i64 j0,
                 i64 j1) {
  if (!bias && a.activation < 0 && !a.preactivation && !a.gate) return;
  T *const y = a.y, *const sum = a.preactivation;
  const T* const gate = a.gate;
  with_epilogue(a, [=](auto f) {
    for (i64 row = begin; row < end; row += stride) {
      each_vec<T>(j0, j1, [=](auto at) {
        Vec<T> x = at.load(y + row);
        if (bias) x = x + at.load(bias);
        if (sum) at.store(sum + row, x);
        at.store(y + row, f(x, gate ? at.load(gate + row) : x));
      });
    }
  });
}

// How a tile gets at the right factor.
enum Access { kInPlace, kTransposing, kInBlock };

// result (m, n) = left (m, k) @ right (k, n): y, or its transpose. With kPairs both factors are
// packed as pairs of bfloat16.
template <class T, bool kPairs> struct Product {
  const matmul_args<T>& a;
  const bool transposed;
  const View<T> left, right;
  const i64 m, n, k;
  i64 row_tiles, widest;           // tiles of rows; Vecs across a tile
  i64 block_tiles, block_columns;  // computed at once
  i64 result_rs;
  T *block, *left_tile, *result;  // this thread's workspace; result is y if not transposed

  Product(const matmul_args<T>& args, bool swap, const Team& team, const MatmulSlot& size)
      : a(args), transposed(swap),
        left(swap ? View<T>{args.b, args.b_cs, args.b_rs} : View<T>{args.a, args.a_rs, args.a_cs}),
        right(swap ? View<T>{args.a, args.a_cs, args.a_rs} : View<T>{args.b, args.b_rs, args.b_cs}),
        m(swap ? args.n : args.m), n(swap ? args.m : args.n), k(args.k) {
    const i64 height = least(kTallest<T>, kSums<T> / least(kTileVecs<T>, count_vecs<T>(n)));
    row_tiles = m <= kTallest<T> ? 1 : (m + height - 1) / height;
    if (row_tiles >= team.size) {  // as many for every thread
      row_tiles = (row_tiles + team.size - 1) / team.size * team.size;
    }
    const i64 rows = (m + row_tiles - 1) / row_tiles;
    for (widest = 1; widest < 16 && 2 * widest * rows <= kSums<T>;) widest *= 2;
    block_tiles = transposed ? kResultRows / rows : row_tiles;
    block_columns = transposed ? kResultVecs * kLanes<T> : kBlockVecs * kLanes<T>;
    if (access(row_tiles) == kTransposing) block_columns = kNarrow<T> * kLanes<T>;
    // Room for whole transposing tiles, which a rest of one tile of rows uses.
    const i64 across = (count_vecs<T>(n) + kNarrow<T> - 1) / kNarrow<T> * kNarrow<T>;
    result_rs = transposed ? least(block_columns, across * kLanes<T>) : n;
    char* slot = args.scratch + team.rank * size.bytes();
    block = reinterpret_cast<T*>(slot);
    left_tile = reinterpret_cast<T*>(slot + size.block);
    result = transposed ? reinterpret_cast<T*>(slot + size.block + size.tile) : a.y;
  }

  Access access(i64 tiles) const {
    constexpr i64 few = 64;  // tiles of rows; beyond, a packed copy pays
    if (kPairs) return kInBlock;
    if (right.cs == 1 && tiles <= few) return kInPlace;
    return tiles == 1 ? kTransposing : kInBlock;
  }

  // Tiles of equal height, the last ones one less.
  i64 tile_row(i64 t) const { return t * (m / row_tiles) + least(t, m % row_tiles); }

  // Vecs across the next tile when so many columns are left: whole ones, or 1.
  i64 tile_vecs(i64 columns) const {
    i64 vecs = widest;
    while (vecs > 1 && vecs * kLanes<T> > columns) vecs /= 2;
    return vecs;
  }

  // A tile of a left factor of bytes; rows or columns are kept as they are.
  View<T> rescale_left(i64 row, i64 k0, i64 rows, i64 terms, T* to) const {
    const bool by_column = left.rs == 1 && left.cs != 1;
    const i64 across = by_column ? rows : terms, down = by_column ? terms : rows;
    const i64 stride = count_vecs<T>(across) * kLanes<T>, step = by_column ? left.cs : left.rs;
    const Vec<T> scale = set1(T(a.a_scale[0])), offset = set1(T(a.a_scale[1]));
    const u8* from = a.a_bytes + row * left.rs + k0 * left.cs;
    for (i64 i = 0; i < down; i++, from += step) {
      for (i64 j = 0; j < across; j += kLanes<T>) {
        const Vec<T> x = widen_u8_n<T>(from + j, least(kLanes<T>, across - j));
        store(to + i * stride + j, fma(x, scale, offset));
      }
    }
    return by_column ? View<T>{to, 1, stride} : View<T>{to, stride, 1};
  }

  // A tile of the left factor in pairs; rows or columns are kept as they are.
  View<T> pair_left(View<T> from, i64 rows, i64 terms) const {
    const bool by_column = from.rs == 1 && from.cs != 1;
    const i64 stride = count_vecs<T>(by_column ? rows : (terms + 1) / 2) * kLanes<T>;
    if (by_column) {
      pair_rows(from.p, from.cs, terms, rows, left_tile, stride);
      return {left_tile, 1, stride};
    }
    for (i64 i = 0; i < rows; i++)
      pair_terms(from.at(i, 0).p, from.cs, terms, left_tile + i * stride);
    return {left_tile, stride, 1};
  }

  // The right factor's columns j0..j1, tile after tile.
  void pack_block(i64 k0, i64 terms, i64 j0, i64 j1) const {
    const bool by_row = right.cs == 1;  // read rows whole
    const i64 step = kPairs ? kPairedTerms : by_row ? 1 : terms;
    const i64 ahead = by_row ? right.rs : kLanes<T> * right.cs;
    for (i64 t = 0; t < terms; t += step) {
      for (i64 j = j0, columns; j < j1; j += columns) {
        const i64 width = tile_vecs(j1 - j) * kLanes<T>;
        columns = least(width, j1 - j);
        const View<T> from = right.at(k0 + t, j);
        if constexpr (kPairs) {
          T* to = block + (j - j0) * ((terms + 1) / 2) + t / 2 * width;
          pack_pairs(from, least(step, terms - t), columns, to, width);
        } else {
          pack(from, step, columns, block + (j - j0) * terms + t * width, width, ahead);
        }
      }
    }
  }

  static void pack_pairs(View<T> from, i64 terms, i64 columns, T* to, i64 width) {
    alignas(64) T rows[kPairedTerms * 16 * kLanes<T>];
    if (from.cs != 1) {
      pack(from, terms, columns, rows, width, 0);
      from = {rows, width, 1};
    }
    pair_rows(from.p, from.rs, terms, columns, to, width);
  }

  // Fetches part begin..end of total of the left factor's tile that comes next into the L2 cache.
  void fetch(View<T> next, i64 rows, i64 terms, i64 begin, i64 end, i64 total) const {
    const bool by_column = next.rs == 1;
    const i64 down = by_column ? terms : rows, across = by_column ? rows : terms;
    const i64 stride = by_column ? next.cs : next.rs;
    for (i64 i = down * begin / total; i < down * end / total; i++) {
      for (i64 j = 0; j < across; j += kLanes<T>) __builtin_prefetch(next.p + i * stride + j, 0, 2);
    }
  }

  // Adds so many terms of the right factor to b_sum, from the block if it was packed: the sums of
  // sum_rows.
  void sum_terms(Access how, i64 k0, i64 terms, i64 j0, i64 j1) const {
    for (i64 j = j0, columns; j < j1; j += columns) {
      const i64 width = tile_vecs(j1 - j) * kLanes<T>;
      columns = least(width, j1 - j);
      const bool packed = how == kInBlock;
      const T* from = packed ? block + (j - j0) * terms : right.at(k0, j).p;
      const i64 stride = packed ? width : right.rs;
      for (i64 v = 0; v < columns; v += kLanes<T>) {
        const i64 count = least(kLanes<T>, columns - v);
        T* to = a.b_sum + j + v;
        Vec<T> sum = zero<T>();
        for (i64 t = 0; t < terms; t++) sum = sum + load_n(from + t * stride + v, count);
        store_n(to, k0 > 0 ? load_n(to, count) + sum : sum, count);
      }
    }
  }

  // Whether b_sum is added up while b is at hand, by whoever has the first row.
  bool sums_on_the_way() const { return a.b_sum && !kPairs && !transposed; }

  void finish(i64 i0, i64 i1, i64 j0, i64 j1) const {
    finish_rows(a, a.bias, i0 * a.n, i1 * a.n, a.n, j0, j1);
  }

  // Likewise columns i0..i1, rows j0..j1 of y, which lie in the transposed result.
  void finish_transposed(i64 i0, i64 i1, i64 j0, i64 j1) const {
    auto each = [&](auto&& f) {
      T* row = result;
      for (i64 i = i0; i < i1; i++, row += result_rs) {
        for (i64 j = 0; j < j1 - j0; j += kLanes<T>) store(row + j, f(load(row + j), i));
      }
    };
    auto put = [&](T* y) {
      transpose(result, result_rs, i1 - i0, j1 - j0, y + j0 * a.n + i0, a.n);
    };
    if (a.gate) {
      put(a.y);
      return finish(j0, j1, i0, i1);
    }
    if (a.bias) each([&](Vec<T> x, i64 i) { return x + set1(a.bias[i]); });
    if (a.preactivation) put(a.preactivation);
    if (a.activation >= 0) {
      with_activation<T>(a.activation, [&](auto f) { each([&](Vec<T> x, i64) { return f(x); }); });
    }
    put(a.y);
  }

  // A tile that reaches beyond the last column goes through a buffer.
  void run_part(TileFn<T> f, Tile<T> t, i64 rows, i64 width) const {
    alignas(64) T sums[kSums<T> * kLanes<T>];
    T* out = t.out;
    const bool add = t.add;
    t.out = sums, t.out_rs = width, t.add = false;
    f(t);
    for (i64 i = 0; i < rows; i++) {
      for (i64 j = 0; j < t.columns; j += kLanes<T>) {
        const i64 at = i * result_rs + j, count = least(kLanes<T>, t.columns - j);
        const Vec<T> x = load(sums + i * width + j);
        store_n(out + at, add ? load_n(out + at, count) + x : x, count);
      }
    }
  }

  // Tiles t0..t1 of rows, columns j0..j1.
  void compute(i64 t0, i64 t1, i64 j0, i64 j1) const {
    const Access how = access(t1 - t0);
    const i64 first_row = tile_row(t0), end_row = tile_row(t1);
    const i64 chain = matmul_terms(k);
    for (i64 k0 = 0, terms; k0 == 0 || k0 < k; k0 += terms) {
      terms = least(k - k0, chain);
      const bool last = k0 + terms == k;
      if (how == kInBlock) pack_block(k0, terms, j0, j1);
      if (t0 == 0 && sums_on_the_way()) sum_terms(how, k0, terms, j0, j1);
      for (i64 t = t0; t < t1; t++) {
        const i64 row = tile_row(t), rows = tile_row(t + 1) - row;
        Tile<T> tile{left.at(row, k0), {}, nullptr, result_rs, terms, 0, k0 > 0};
        if constexpr (kPairs) {
          alignas(64) T rescaled[kTerms * 16];
          if (a.a_bytes) tile.left = rescale_left(row, k0, rows, terms, rescaled);
          tile.left = pair_left(tile.left, rows, terms);
          tile.terms = (terms + 1) / 2;
        } else if (a.a_bytes) {
          tile.left = rescale_left(row, k0, rows, terms, left_tile);
        }
        for (i64 j = j0; j < j1; j += tile.columns) {
          const i64 vecs = how == kTransposing ? kNarrow<T> : tile_vecs(j1 - j);
          const i64 width = vecs * kLanes<T>, end = least(j + width, j1);
          tile.columns = end - j;
          tile.right =
              how == kInBlock ? View<T>{block + (j - j0) * tile.terms, width, 1} : right.at(k0, j);
          tile.out = result + (transposed ? (row - first_row) * result_rs + j - j0 : row * n + j);
          if (t + 1 < t1 && terms > kFewTerms && !a.a_bytes) {
            fetch(left.at(row + rows, k0), rows, terms, j - j0, end - j0, j1 - j0);
          }
          const auto f = how == kTransposing ? find_transposing_tile<T>(rows)
                                             : find_tile<T, kPairs>(rows, vecs);
          if (transposed || tile.columns == width) {
            f(tile);
          } else {
            run_part(f, tile, rows, width);
          }
          if (last && !transposed) finish(row, row + rows, j, end);
        }
      }
      if (k == 0) break;
    }
    if (transposed) finish_transposed(first_row, end_row, j0, j1);
  }

  // Any tiles of rows and columns, cut for the caches.
  void compute_all(i64 t0, i64 t1, i64 j0, i64 j1) const {
    for (i64 t = t0; t < t1; t += block_tiles) {
      for (i64 j = j0; j < j1; j += block_columns) {
        compute(t, least(t + block_tiles, t1), j, least(j + block_columns, j1));
      }
    }
  }

  // Columns of y that threads may share.
  i64 group_columns() const { return kTileVecs<T> * kLanes<T>; }
  i64 groups() const { return transposed ? row_tiles : (n - 1) / group_columns() + 1; }
  void compute_groups(i64 g0, i64 g1) const {
    if (transposed) return compute_all(g0, g1, 0, n);
    compute_all(0, row_tiles, g0 * group_columns(), least(g1 * group_columns(), n));
  }
};

// Whether the transposed product takes less time, in tenths of a cycle per term: multiplying, and
// transposing the right factor (on the way for one tile of rows) and the result.
template <class T> bool better_transposed(const matmul_args<T>& a) {
  const i64 narrow = kLanes<T> > kTallest<T> ? kLanes<T> : kTallest<T>;
  if (a.n > narrow && a.m > kResultVecs * kLanes<T>) return false;
  auto cost = [&](i64 m, i64 n, bool contiguous, i64 passes) {
    return 10 * m * count_vecs<T>(n) + (contiguous ? 0 : m <= kTallest<T> ? n : 4 * n * passes);
  };
  const i64 passes = (a.n + kResultRows - 1) / kResultRows, result = 4 * a.m * a.n / (a.k + 1);
  return cost(a.n, a.m, a.a_rs == 1, passes) + result < cost(a.m, a.n, a.b_cs == 1, 1);
}

template <class T> void multiply_thin(const matmul_args<T>& a, const Team& team) {
  const Thin<T> thin(a);
  share_range(team, a.m, kThinRows, [&](i64 begin, i64 end) {
    for (i64 i = begin; i < end; i += kThinRows) {
      const i64 next = least(i + kThinRows, end);
      thin.rows(i, next, end);
      finish_rows<T>(a, nullptr, 0, 1, 1, i * a.n, next * a.n);  // with its bias already
    }
  });
}

// Threads share the rows of a tall result, so that none takes a line from another that writes next
// to it; with kPairs because the left factor is packed, too. Else the work is cut into units of a
// tile of rows by a group of columns, consecutive ones in the same columns; narrower ones where
// there would be less than one for each thread. A thread computes the whole groups it has got at
// once.
template <class T, bool kPairs>
void multiply_units(const matmul_args<T>& a, const MatmulSlot& size, const Team& team) {
  const Product<T, kPairs> p(a, !a.a_bytes && better_transposed(a), team, size);
  if (a.b_sum && !p.sums_on_the_way()) sum_columns(a.b, a.k, a.n, a.b_sum, team);
  const bool tall = p.m >= p.n && p.row_tiles >= 8 * team.size;
  if (kPairs ? p.m > p.n : tall && !p.transposed) {
    return share_range(team, p.row_tiles, 1,
                       [&](i64 t0, i64 t1) { p.compute_all(t0, t1, 0, p.n); });
  }
  i64 width = least(p.widest, kTileVecs<T>) * kLanes<T>;
  while (p.row_tiles * p.n < team.size * width && p.right.cs == 1 && width > kLanes<T>) width /= 2;
  const i64 most = (p.n + width - 1) / width;
  const i64 together = p.row_tiles == 1 || most < 16 ? 1 : 2;
  const i64 columns = together * width, groups = (p.n + columns - 1) / columns;
  share_range(team, groups * p.row_tiles, 1, [&](i64 begin, i64 end) {
    while (begin < end) {
      const i64 group = begin / p.row_tiles, t0 = begin % p.row_tiles;
      const i64 whole = t0 == 0 ? (end - begin) / p.row_tiles : 0, taken = whole ? whole : 1;
      const i64 t1 = whole ? p.row_tiles : least(p.row_tiles, t0 + end - begin);
      p.compute_all(t0, t1, group * columns, least((group + taken) * columns, p.n));
      begin += (t1 - t0) * taken;
    }
  });
}

// Each thread takes some of the chains, the ends of its share by columns; then some rows of the
// result, whose chains it adds in order.
template <class T, bool kPairs>
void multiply_chains(const matmul_args<T>& a, const MatmulSlot& size, const Team& team) {
  const i64 chains = matmul_chains(a.k), terms = matmul_terms(a.k), elements = a.m * a.n;
  const Team alone = {0, 1, nullptr};
  T* const parts = reinterpret_cast<T*>(a.scratch + team.size * size.bytes());
  matmul_args<T> part = a;
  part.bias = part.gate = nullptr, part.preactivation = nullptr, part.activation = -1;
  part.scratch = a.scratch + team.rank * size.bytes(), part.k = terms;
  const bool swap = !a.a_bytes && better_transposed(part);
  const i64 groups = Product<T, kPairs>(part, swap, alone, size).groups();
  share_range(team, chains * groups, 1, [&](i64 begin, i64 end) {
    while (begin < end) {
      const i64 c = begin / groups, g0 = begin % groups, g1 = least(groups, g0 + end - begin);
      part.a = a.a + c * terms * a.a_cs, part.b = a.b + c * terms * a.b_rs;
      if (a.a_bytes) part.a_bytes = a.a_bytes + c * terms * a.a_cs;
      part.k = least(terms, a.k - c * terms), part.y = parts + c * elements;
      Product<T, kPairs>(part, swap, alone, size).compute_groups(g0, g1);
      begin += g1 - g0;
    }
  });
  barrier(team);
  const Product<T, kPairs> whole(a, false, alone, size);
  share_range(team, a.m, 1, [&](i64 i0, i64 i1) {
    each_vec<T>(i0 * a.n, i1 * a.n, [&](auto at) {
      Vec<T> sum = at.load(parts);
      for (i64 c = 1; c < chains; c++) sum = sum + at.load(parts + c * elements);
      at.store(a.y, sum);
    });
    whole.finish(i0, i1, 0, a.n);
  });
}

template <class T, bool kPairs> void multiply(const matmul_args<T>& a, const Team& team) {
  if (a.m == 0 || a.n == 0) return;
  if (!kPairs && Thin<T>::suits(a)) return multiply_thin(a, team);
  const MatmulSlot size = matmul_slot(a.m, a.n, a.k, sizeof(T));
  const bool shares = matmul_shares_chains(a.m, a.n, a.k, a.b_cs == 1);
  if (team.size > 1 && !a.b_sum && shares) return multiply_chains<T, kPairs>(a, size, team);
  multiply_units<T, kPairs>(a, size, team);
}

}  // namespace
