// Softmax and its logarithm over rows, and their gradients. Memory is crossed once: the second look
// at a row finds it in the cache. How a row is summed depends on its length only (softmax_rows.h).
#include "softmax_rows.h"

KERNEL(softmax) {
  const i64 c = a.c;
  if (c <= kShortRow) {
    Tile<T> tile;
    return each_tile<T>(team, a.n, [&](i64 first, i64 rows) {
      tile.read(a.x + first * c, rows, c);
      tile.template exp_sum<true>(rows, c);
      tile.each_element(rows, c, [&](i64 r) {
        const Vec<T> k = set1(T(1)) / tile.sum_of(r).lanes();
        return [=](Vec<T> e) { return e * k; };
      });
      tile.write(a.y + first * c, rows, c);
    });
  }
  share(team, a.n, [&](i64 i) {
    T* y = a.y + i * c;
    RowExp<T> row;
    exp_row(a.x + i * c, c, row, [&](auto at, Vec<T> e) { at.store(y, e); });
    row.each_block(1, [&](i64 begin, i64 end, Vec<T> k) {
      each_vec<T>(begin, end, [&](auto at) { at.store(y, at.load(y) * k); });
    });
  });
}

KERNEL(log_softmax) {
  const i64 c = a.c;
  if (c <= kShortRow) {
    Tile<T> tile;
    return each_tile<T>(team, a.n, [&](i64 first, i64 rows) {
      tile.read(a.x + first * c, rows, c);
      tile.template exp_sum<false>(rows, c);
      tile.each_element(rows, c, [&](i64 r) {
        const Vec<T> largest = load(tile.max + r), log_sum = log(tile.sum_of(r).lanes());
        return [=](Vec<T> x) { return x - largest - log_sum; };
      });
      tile.write(a.y + first * c, rows, c);
    });
  }
  // A logarithm is a long chain of operations: one for several rows, if they stay in the cache.
  constexpr i64 lanes = Vec<double>::lanes;
  const i64 group = c <= 4096 ? lanes : 1;
  share_range(team, a.n, 1, [&](i64 begin, i64 end) {
    for (i64 first = begin; first < end; first += group) {
      const i64 rows = end - first < group ? end - first : group;
      const T* x = a.x + first * c;
      T* y = a.y + first * c;
      RowExp<T> row[lanes];
      double log_sum[lanes] = {};
      for (i64 r = 0; r < rows; r++) {
        exp_row(x + r * c, c, row[r], [](auto, Vec<T>) {});
        log_sum[r] = row[r].sum;
      }
      store(log_sum, log(load(log_sum)));
      for (i64 r = 0; r < rows; r++) {
        const Vec<T> largest = set1(row[r].max), log_of_row = set1(T(log_sum[r]));
        each_vec<T>(r * c, (r + 1) * c,
                    [&](auto at) { at.store(y, at.load(x) - largest - log_of_row); });
      }
    }
  });
}

KERNEL(softmax_backward) {
  share(team, a.n, [&](i64 i) {
    const T *dy = a.dy + i * a.c, *y = a.y + i * a.c;
    T* dx = a.dx + i * a.c;
    const Vec<T> dot =
        set1(T(sum_vecs<T>(0, a.c, [&](auto at) { return at.load(dy) * at.load(y); })));
    each_vec<T>(0, a.c, [&](auto at) { at.store(dx, at.load(y) * (at.load(dy) - dot)); });
  });
}

KERNEL(log_softmax_backward) {
  share(team, a.n, [&](i64 i) {
    const T *dy = a.dy + i * a.c, *y = a.y + i * a.c;
    T* dx = a.dx + i * a.c;
    const Vec<T> sum = set1(T(sum_vecs<T>(0, a.c, [&](auto at) { return at.load(dy); })));
    each_vec<T>(0, a.c, [&](auto at) { at.store(dx, fnma(exp(at.load(y)), sum, at.load(dy))); });
  });
}
