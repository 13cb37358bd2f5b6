// Softmax and its logarithm over rows, and their gradients. Memory is crossed once: the second look
// at a row finds it in the cache. How a row is summed depends on its length only (softmax_rows.h).
#include "softmax_rows.h"

namespace {

// Calls short_rows(tile, row) for groups of lanes of rows in transposed tiles, or long_row(x, y).
template <class T, class Short, class Long>
FNN_INLINE void each_row(const Team& team, const T* x, T* y, i64 n, i64 c, Short&& short_rows,
                         Long&& long_row) {
  if (c > kShortRow) {
    share_range(team, n, 1, [&](i64 begin, i64 end) {
      for (i64 i = begin; i < end; i++) long_row(x + i * c, y + i * c);
    });
    return;
  }
  share_range(team, n, kTileHeight, [&](i64 begin, i64 end) {
    Tile<T> tile;
    for (i64 i = begin; i < end; i += kTileHeight) {
      const i64 rows = end - i < kTileHeight ? end - i : i64(kTileHeight);
      tile.read(x + i * c, rows, c);
      for (i64 row = 0; row < rows; row += Vec<T>::lanes) short_rows(tile, row);
      tile.write(y + i * c, rows, c);
    }
  });
}

}  // namespace

KERNEL(softmax) {
  auto short_rows = [&](Tile<T>& tile, i64 row) {
    const Vec<T> largest = tile.max_of(row, a.c);
    LaneSum<T> sum = sum_columns<T>(a.c, [&](i64 j) {
      Vec<T> e = exp(tile.at(row, j) - largest);
      tile.put(row, j, e);
      return e;
    });
    const Vec<T> k = set1(T(1)) / sum.lanes();
    for (i64 j = 0; j < a.c; j++) tile.put(row, j, tile.at(row, j) * k);
  };
  auto long_row = [&](const T* x, T* y) {
    RowExp<T> row;
    exp_row(x, a.c, row, [&](auto at, Vec<T> e) { at.store(y, e); });
    row.each_block(1, [&](i64 begin, i64 end, Vec<T> k) {
      each_vec<T>(begin, end, [&](auto at) { at.store(y, at.load(y) * k); });
    });
  };
  each_row(team, a.x, a.y, a.n, a.c, short_rows, long_row);
}

KERNEL(log_softmax) {
  auto short_rows = [&](Tile<T>& tile, i64 row) {
    const Vec<T> largest = tile.max_of(row, a.c);
    const Vec<T> log_sum = log_lanes(
        sum_columns<T>(a.c, [&](i64 j) { return exp(tile.at(row, j) - largest); }));
    for (i64 j = 0; j < a.c; j++) tile.put(row, j, tile.at(row, j) - largest - log_sum);
  };
  auto long_row = [&](const T* x, T* y) {
    RowExp<T> row;
    exp_row(x, a.c, row, [](auto, Vec<T>) {});
    const Vec<T> largest = set1(row.max), log_sum = set1(T(log_of(row.sum)));
    each_vec<T>(0, a.c, [&](auto at) { at.store(y, at.load(x) - largest - log_sum); });
  };
  each_row(team, a.x, a.y, a.n, a.c, short_rows, long_row);
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
