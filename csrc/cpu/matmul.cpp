// y = act(op(a) @ op(b) + bias) in one pass over y per 256 terms. Blocks of the left factor are
// packed for L2 and panels of the right factor for L1 (Goto & van de Geijn, 2008), each thread its
// own, so nobody waits; the register tile reads a factor in place where a copy would not pay. An
// element is the sum, in order, of FMA chains of 256 terms, plus the bias: its bits depend on its
// row, its column and k alone, never on how the work is cut.
#include "../core/matmul_plan.h"
#include "simd/activations.h"
#include "simd/matmul_pack.h"

namespace {

template <class T> constexpr i64 kLanes = Vec<T>::lanes;

template <class T> using TileFn = void (*)(const Tile<T>&);

// tile<T, R, V> for the R that equals `rows`, R * V sums having room in the registers.
template <class T, int V, int R = kTileRows<T>> TileFn<T> find_tile(i64 rows) {
  if constexpr (R > 1) {
    if (rows != R) return find_tile<T, V, R - 1>(rows);
  }
  return tile<T, R, R * V <= kTileRows<T> * kTileVecs<T> ? V : 1>;
}
template <class T> TileFn<T> find_tile(i64 rows, i64 vecs) {
  switch (vecs) {
    case 1: return find_tile<T, 1>(rows);
    case 2: return find_tile<T, 2>(rows);
    case 4: return find_tile<T, 4>(rows);
    default: return find_tile<T, 16>(rows);
  }
}

// Most Vecs across for a tile of `rows` rows and at most `columns` columns.
template <class T> i64 tile_vecs(i64 rows, i64 columns, i64 most) {
  i64 vecs = 1;
  const i64 sums = kTileRows<T> * kTileVecs<T>;
  for (i64 v = 2; v <= most; v *= v == 4 ? 4 : 2) {
    if (v * rows <= sums && (v - 1) * kLanes<T> < columns) vecs = v;
  }
  return vecs;
}

// result (m, n) = left (m, k) @ right (k, n): y, or its transpose when y is too narrow for Vecs.
template <class T> struct Product {
  const matmul_args<T>& a;
  bool transposed, exact;
  View<T> left, right;
  i64 m, n, k;
  i64 row_tiles;
  T *left_block, *panel, *result;
  i64 result_rs;

  Product(const matmul_args<T>& args, bool swap)
      : a(args), transposed(swap), exact(args.precision != 1),
        left(swap ? View<T>{args.b, args.b_cs, args.b_rs} : View<T>{args.a, args.a_rs, args.a_cs}),
        right(swap ? View<T>{args.a, args.a_cs, args.a_rs} : View<T>{args.b, args.b_rs, args.b_cs}),
        m(swap ? args.n : args.m), n(swap ? args.m : args.n), k(args.k),
        row_tiles((m + kTileRows<T> - 1) / kTileRows<T>) {}

  i64 tile_row(i64 t) const { return m * t / row_tiles; }  // tiles of equal height, or one less

  void use(char* slot, const MatmulSlot& size) {
    left_block = reinterpret_cast<T*>(slot);
    panel = reinterpret_cast<T*>(slot + size.left);
    result = transposed ? reinterpret_cast<T*>(slot + size.left + size.panel) : a.y;
    result_rs = transposed ? kResultVecs * kLanes<T> : n;
  }

  // A tile's rows are kept in the order they have: copying needs no transposing.
  View<T> pack_left(i64 i0, i64 i1, i64 k0, i64 terms) const {
    View<T> from = left.at(i0, k0);
    const i64 rows = i1 - i0;
    if (from.cs == 1 || from.rs != 1) {
      const i64 rs = ((terms + kLanes<T> - 1) / kLanes<T> + 1) * kLanes<T>;
      pack(from, rows, terms, left_block, rs);
      if (!exact) round_to_bfloat16(left_block, rows * rs);
      return {left_block, rs, 1};
    }
    pack(View<T>{from.p, from.cs, 1}, terms, rows, left_block, rows);
    if (!exact) round_to_bfloat16(left_block, rows * terms);
    return {left_block, 1, rows};
  }

  void pack_panel(i64 k0, i64 terms, i64 j, i64 columns, i64 width) const {
    pack(right.at(k0, j), terms, columns, panel, width);
    for (i64 t = 0; t < terms && columns < width; t++) {
      for (i64 q = columns; q < width; q++) panel[t * width + q] = 0;
    }
    if (!exact) round_to_bfloat16(panel, terms * width);
  }

  // Rows i0..i1 and columns j0..j1 of y: the sum lies there, the rest is added.
  void finish(i64 i0, i64 i1, i64 j0, i64 j1) const {
    if (!a.bias && a.activation < 0 && !a.preactivation) return;
    for (i64 i = i0; i < i1; i++) {
      for (i64 j = j0; j < j1; j += kLanes<T>) {
        const i64 at = i * a.n + j, count = j1 - j < kLanes<T> ? j1 - j : kLanes<T>;
        Vec<T> x = load_n(a.y + at, count);
        if (a.bias) x = x + load_n(a.bias + j, count);
        if (a.preactivation) store_n(a.preactivation + at, x, count);
        store_n(a.y + at, activate(a.activation, x), count);
      }
    }
  }

  // Tiles t0..t1 of rows, columns j0..j1.
  void block(i64 t0, i64 t1, i64 j0, i64 j1) const {
    const i64 i0 = tile_row(t0), i1 = tile_row(t1);
    const i64 tallest = (m + row_tiles - 1) / row_tiles;
    for (i64 k0 = 0;;) {
      const i64 terms = k - k0 < kTerms ? k - k0 : i64(kTerms);
      const bool last = k0 + terms == k;
      View<T> block = pack_left(i0, i1, k0, terms);
      for (i64 j = j0; j < j1;) {
        const bool in_place = exact && right.cs == 1 && t1 - t0 == 1 && j1 - j >= kLanes<T>;
        const i64 vecs = tile_vecs<T>(tallest, in_place ? (j1 - j) / kLanes<T> * kLanes<T> : j1 - j,
                                      in_place ? 16 : i64(kPanelVecs));
        const i64 width = vecs * kLanes<T>, columns = j1 - j < width ? j1 - j : width;
        if (!in_place) pack_panel(k0, terms, j, columns, width);
        Tile<T> args{block, in_place ? right.at(k0, j).p : panel, in_place ? right.rs : width,
                     nullptr, result_rs, terms, columns, k0 > 0};
        for (i64 t = t0; t < t1; t++) {
          const i64 row = tile_row(t), rows = tile_row(t + 1) - row;
          args.left = block.at(row - i0, 0);
          args.out = result + row * result_rs + (transposed ? j - j0 : j);
          find_tile<T>(rows, vecs)(args);
          if (last && !transposed) finish(row, row + rows, j, j + columns);
        }
        j += columns;
      }
      k0 += terms;
      if (last) break;
    }
    if (!transposed) return;
    for (i64 j = j0; j < j1; j++) {
      for (i64 i = i0; i < i1; i++) a.y[j * a.n + i] = result[i * result_rs + j - j0];
    }
    finish(j0, j1, i0, i1);
  }

  void rectangle(i64 t0, i64 t1, i64 j0, i64 j1) const {
    const i64 tiles = 4 * kLeftRows / i64(sizeof(T)) / kTileRows<T>;
    const i64 columns = transposed ? kResultVecs * kLanes<T> : n;
    for (i64 t = t0; t < t1; t += tiles) {
      for (i64 j = j0; j < j1; j += columns) {
        block(t, t + tiles < t1 ? t + tiles : t1, j, j + columns < j1 ? j + columns : j1);
      }
    }
  }
};

}  // namespace

KERNEL(matmul) {
  if (a.m == 0 || a.n == 0) return;
  const i64 lanes = kLanes<T>;
  auto vecs = [&](i64 n) { return (n + lanes - 1) / lanes; };
  // Costs in cycles per term.
  const i64 straight = 4 * a.m * vecs(a.n) + (a.b_cs == 1 ? 0 : a.n);
  const i64 swapped = 4 * a.n * vecs(a.m) + (a.a_rs == 1 ? 0 : a.m);
  Product<T> p(a, a.n <= lanes && swapped < straight);

  // Units of a tile of rows by a few panels, consecutive ones in the same columns.
  const i64 panels = (p.n + kTileVecs<T> * lanes - 1) / (kTileVecs<T> * lanes);
  i64 group = p.row_tiles == 1 ? 1 : panels / 8;
  group = group < 1 ? 1 : group > 4 ? 4 : group;
  const i64 groups = (panels + group - 1) / group, columns = group * kTileVecs<T> * lanes;
  const MatmulSlot size = matmul_slot(a.m, a.n, a.k, sizeof(T));
  p.use(a.scratch + team.rank * size.bytes(), size);
  share_range(team, groups * p.row_tiles, 1, [&](i64 begin, i64 end) {
    while (begin < end) {
      const i64 g = begin / p.row_tiles, t0 = begin % p.row_tiles;
      const i64 whole = (end - begin) / p.row_tiles;  // groups of columns
      i64 t1 = p.row_tiles, g1 = g + 1;
      if (t0 == 0 && whole > 0) {
        g1 = g + whole;
      } else if (end - begin < p.row_tiles - t0) {
        t1 = t0 + end - begin;
      }
      const i64 j1 = g1 * columns < p.n ? g1 * columns : p.n;
      p.rectangle(t0, t1, g * columns, j1);
      begin += (t1 - t0) * (g1 - g);
    }
  });
}
