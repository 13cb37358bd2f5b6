// Batch normalisation (Ioffe & Szegedy 2015) with relu. For (n, c) inputs the lanes are channels,
// and a thread takes strips of columns from statistics to result while they are in its cache; with
// trailing axes it takes whole channels, copied together a block at a time. Forward reads a block
// twice for its corrected two-pass variance and once to apply; backward reads twice. Blocks merge
// in order (Chan, Golub & LeVeque 1983, equations 1.5), in double.
#include <string.h>

#include "simd/each.h"

namespace {

// A block is 16 chains of 16 rows, added in order: 8 times more exact than one chain.
enum : i64 { kChain = 16, kBlock = 256 };
enum { kWide = 4 };

i64 least(i64 a, i64 b) { return a < b ? a : b; }

#define EACH(v) _Pragma("GCC unroll 4") for (int v = 0; v < W; v++)

// W Vecs side by side; W = 1 may use only the first lanes.
template <class T, int W> struct Strip {
  i64 used;

  Vec<T> load(const T* p, int v) const {
    return W == 1 ? load_n(p, used) : ::load(p + v * Vec<T>::lanes);
  }
  void store(T* p, int v, Vec<T> x) const {
    if (W == 1) return store_n(p, x, used);
    ::store(p + v * Vec<T>::lanes, x);
  }
};

template <class T, int W> struct Sums {
  Vec<T> first[W] = {}, second[W] = {};

  void add(const Sums& part) {
    EACH(v) first[v] = first[v] + part.first[v];
    EACH(v) second[v] = second[v] + part.second[v];
  }
};

// Over rows: f(row, v, first, second) adds to the two sums of Vec v.
template <class T, int W, class F> FNN_INLINE Sums<T, W> sum_rows(i64 rows, F&& f) {
  Sums<T, W> total;
  for (i64 begin = 0; begin < rows; begin += kChain) {
    Sums<T, W> chain;
    for (i64 i = begin, end = least(begin + kChain, rows); i < end; i++) {
      EACH(v) f(i, v, chain.first[v], chain.second[v]);
    }
    total.add(chain);
  }
  return total;
}

// Sums of x - around and of its square.
template <class T, int W>
Sums<T, W> deviations(Strip<T, W> strip, const T* x, i64 stride, i64 rows, const Vec<T>* around) {
  return sum_rows<T, W>(rows, [&](i64 i, int v, Vec<T>& sum, Vec<T>& squares) {
    Vec<T> d = strip.load(x + i * stride, v) - around[v];
    sum = sum + d;
    squares = fma(d, d, squares);
  });
}

// The gradient where the relu let x through.
template <class T> Vec<T> through_relu(Vec<T> gradient, Vec<T> y) {
  return select(y > zero<T>(), gradient, zero<T>());
}

// Sums of the gradient and of gradient * (x - mean). y is null without relu.
template <class T, int W>
Sums<T, W> gradient_sums(Strip<T, W> strip, const T* dy, const T* x, const T* y, i64 stride,
                         i64 rows, const Vec<T>* mean) {
  return sum_rows<T, W>(rows, [&](i64 i, int v, Vec<T>& sum, Vec<T>& products) {
    Vec<T> g = strip.load(dy + i * stride, v);
    if (y) g = through_relu(g, strip.load(y + i * stride, v));
    sum = sum + g;
    products = fma(g, strip.load(x + i * stride, v) - mean[v], products);
  });
}

// One number from the lanes of a strip.
template <class T, int W> T fold(const Vec<T>* x) {
  Vec<T> total = x[0];
  for (int v = 1; v < W; v++) total = total + x[v];
  return sum(total);
}

// ---- what follows from the sums ------------------------------------------------------------

// Mean and sum of squared deviations of N channels. Means are relative to a pivot near them, and
// `low` collects what additions to m2 round off: double inputs come out as exact as float ones.
template <class T, int N> struct Moments {
  double count = 0, pivot[N] = {}, mean[N] = {}, m2[N] = {}, low[N] = {};

  // Takes in m more values of each channel, given the sums of their deviations from `center`.
  void merge(double m, const T* center, const T* sum, const T* squares) {
    for (int j = 0; j < N && count == 0; j++) pivot[j] = double(center[j]);
    const double part = m / (count + m), weight = count * part, inverse = 1 / m;
    for (int j = 0; j < N; j++) {
      double residual = double(sum[j]) * inverse;
      double delta = (double(center[j]) - pivot[j] + residual) - mean[j];
      double more = (double(squares[j]) - residual * double(sum[j])) + delta * delta * weight;
      double grown = m2[j] + more;
      low[j] += (m2[j] - grown) + more;
      m2[j] = grown;
      mean[j] += delta * part;
    }
    count += m;
  }
};

// y = (x - mean) * scale + shift, for N channels from j on.
template <class T, int N> struct Affine {
  T mean[N] = {}, scale[N] = {}, shift[N] = {};

  // The exact mean is pivot + offset; what rounding takes from it goes into the shift.
  void set(const batch_norm_args<T>& a, i64 j, i64 used, const double* pivot, const double* offset,
           const double* variance) {
    double rstd[N];
    for (int k = 0; k < N; k++) rstd[k] = 1 / sqrt(variance[k] + a.eps);
    for (int k = 0; k < used; k++) {
      const double gain = a.gamma ? rstd[k] * double(a.gamma[j + k]) : rstd[k];
      const double beta = a.beta ? double(a.beta[j + k]) : 0;
      mean[k] = a.mean[j + k] = T(pivot[k] + offset[k]);
      a.rstd[j + k] = T(rstd[k]);
      scale[k] = T(gain);
      shift[k] = T(beta - ((pivot[k] - double(mean[k])) + offset[k]) * gain);
    }
  }

  void set_running(const batch_norm_args<T>& a, i64 j, i64 used) {
    double mean[N] = {}, variance[N] = {}, offset[N] = {};
    for (int k = 0; k < used; k++) {
      mean[k] = double(a.running_mean[j + k]);
      variance[k] = double(a.running_var[j + k]);
    }
    set(a, j, used, mean, offset, variance);
  }

  // An empty channel has mean and variance 0 and leaves the running statistics alone.
  void set_batch(const batch_norm_args<T>& a, i64 j, i64 used, const Moments<T, N>& batch) {
    const double n = batch.count;
    double variance[N];
    for (int k = 0; k < N; k++) variance[k] = (batch.m2[k] + batch.low[k]) / (n > 0 ? n : 1);
    set(a, j, used, batch.pivot, batch.mean, variance);
    if (n == 0) return;
    const double keep = 1 - a.momentum, take = a.momentum;
    const double take_var = a.unbiased_running_var ? take * n / (n - 1) : take;
    for (int k = 0; k < used && a.running_mean; k++) {
      T& running = a.running_mean[j + k];
      running = T(keep * double(running) + take * (batch.pivot[k] + batch.mean[k]));
    }
    for (int k = 0; k < used && a.running_var; k++) {
      T& running = a.running_var[j + k];
      running = T(keep * double(running) + take_var * variance[k]);
    }
  }
};

// dx = scale * gradient + slope * (x - mean) + shift.
template <class T> struct Pullback {
  Vec<T> mean, scale, slope, shift;
  bool training;

  Vec<T> operator()(Vec<T> gradient, Vec<T> x) const {
    return training ? fma(gradient, scale, fma(x - mean, slope, shift)) : gradient * scale;
  }
};

template <class T>
Pullback<T> pullback(const batch_norm_backward_args<T>& a, Vec<T> mean, Vec<T> rstd, Vec<T> gamma,
                     Vec<T> dgamma, Vec<T> dbeta) {
  Vec<T> scale = rstd * gamma, part = scale * set1(T(1 / (double(a.n) * double(a.s))));
  return {mean, scale, -(part * rstd * dgamma), -(part * dbeta), a.training != 0};
}

// ---- (n, c): a strip of channels -----------------------------------------------------------

template <class T, int W>
void merge_rows(Moments<T, W * Vec<T>::lanes>& moments, Strip<T, W> strip, const T* x, i64 stride,
                i64 rows) {
  constexpr int lanes = Vec<T>::lanes;
  Vec<T> center[W];
  EACH(v) center[v] = strip.load(x, v);
  Sums<T, W> rough = deviations(strip, x, stride, rows, center);
  EACH(v) center[v] = fma(rough.first[v], set1(T(1 / double(rows))), center[v]);
  Sums<T, W> fine = deviations(strip, x, stride, rows, center);
  T centers[W * lanes], sums[W * lanes], squares[W * lanes];
  EACH(v) ::store(centers + v * lanes, center[v]);
  EACH(v) ::store(sums + v * lanes, fine.first[v]);
  EACH(v) ::store(squares + v * lanes, fine.second[v]);
  moments.merge(double(rows), centers, sums, squares);
}

template <class T, int W>
void forward_strip(const batch_norm_args<T>& a, Strip<T, W> strip, i64 j, i64 used) {
  constexpr int lanes = Vec<T>::lanes;
  Affine<T, W * lanes> affine;
  if (a.training) {
    Moments<T, W * lanes> moments;
    for (i64 i = 0; i < a.n; i += kBlock) {
      merge_rows(moments, strip, a.x + i * a.c + j, a.c, least(kBlock, a.n - i));
    }
    affine.set_batch(a, j, used, moments);
  } else {
    affine.set_running(a, j, used);
  }
  const Vec<T> floor = set1(a.activation == 0 ? T(0) : T(-INFINITY));
  Vec<T> mean[W], scale[W], shift[W];
  EACH(v) mean[v] = ::load(affine.mean + v * lanes);
  EACH(v) scale[v] = ::load(affine.scale + v * lanes);
  EACH(v) shift[v] = ::load(affine.shift + v * lanes);
  for (i64 row = j; row < a.n * a.c; row += a.c) {
    EACH(v) {
      Vec<T> y = fma(strip.load(a.x + row, v) - mean[v], scale[v], shift[v]);
      strip.store(a.y + row, v, max(floor, y));
    }
  }
}

template <class T, int W>
void backward_strip(const batch_norm_backward_args<T>& a, const T* y, Strip<T, W> strip, i64 j) {
  Vec<T> mean[W], rstd[W];
  EACH(v) mean[v] = strip.load(a.mean + j, v);
  EACH(v) rstd[v] = strip.load(a.rstd + j, v);
  Sums<T, W> sums;
  for (i64 i = 0; i < a.n; i += kBlock) {
    const i64 at = i * a.c + j;
    sums.add(gradient_sums(strip, a.dy + at, a.x + at, y ? y + at : y, a.c,
                           least(kBlock, a.n - i), mean));
  }
  Pullback<T> pull[W];
  EACH(v) {
    Vec<T> gamma = a.gamma ? strip.load(a.gamma + j, v) : set1(T(1));
    Vec<T> dbeta = sums.first[v], dgamma = sums.second[v] * rstd[v];
    strip.store(a.dbeta + j, v, dbeta);
    strip.store(a.dgamma + j, v, dgamma);
    pull[v] = pullback(a, mean[v], rstd[v], gamma, dgamma, dbeta);
  }
  for (i64 row = j; row < a.n * a.c; row += a.c) {
    EACH(v) {
      Vec<T> g = strip.load(a.dy + row, v);
      if (y) g = through_relu(g, strip.load(y + row, v));
      strip.store(a.dx + row, v, pull[v](g, strip.load(a.x + row, v)));
    }
  }
}

// f(strip, first channel, how many) for the strips of this thread's channels.
template <class T, class F> FNN_INLINE void each_strip(const Team& team, i64 c, F&& f) {
  constexpr i64 lanes = Vec<T>::lanes, wide = kWide * lanes;
  share_range(team, c, lanes, [&](i64 j, i64 end) {
    for (; j + wide <= end; j += wide) f(Strip<T, kWide>{lanes}, j, wide);
    for (; j < end; j += lanes) f(Strip<T, 1>{least(lanes, end - j)}, j, least(lanes, end - j));
  });
}

// ---- (n, c, s...): a channel ---------------------------------------------------------------

// Consecutive values of one channel, laid out as rows of a strip.
template <class T> struct Piece {
  static constexpr i64 width = kWide * Vec<T>::lanes, capacity = 64 * width;
  alignas(64) T values[capacity];
  i64 count;

  i64 rows() const { return (count + width - 1) / width; }

  // Takes values from `from` on out of runs of s that lie `stride` apart.
  void gather(const T* x, i64 s, i64 stride, i64 from, i64 end) {
    count = least(capacity, end - from);
    for (i64 done = 0, run; done < count; done += run) {
      const i64 within = (from + done) % s;
      run = least(s - within, count - done);
      memcpy(values + done, x + (from + done) / s * stride + within, size_t(run) * sizeof(T));
    }
  }

  // Fills up the last row.
  void pad(T filler) {
    for (i64 i = count; i < rows() * width; i++) values[i] = filler;
  }
};

template <class T> void merge_piece(Moments<T, 1>& moments, Piece<T>& piece) {
  constexpr int W = kWide;
  T center = piece.values[0], sum, squares;
  auto around_center = [&] {
    Vec<T> around[W];
    EACH(v) around[v] = set1(center);
    piece.pad(center);
    Sums<T, W> sums = deviations(Strip<T, W>{}, piece.values, piece.width, piece.rows(), around);
    sum = fold<T, W>(sums.first);
    squares = fold<T, W>(sums.second);
  };
  around_center();
  center += sum / T(piece.count);
  around_center();
  moments.merge(double(piece.count), &center, &sum, &squares);
}

template <class T> void forward_channel(const batch_norm_args<T>& a, i64 j) {
  Affine<T, 1> affine;
  if (a.training) {
    Piece<T> piece;
    Moments<T, 1> moments;
    for (i64 from = 0; from < a.n * a.s; from += piece.capacity) {
      piece.gather(a.x + j * a.s, a.s, a.c * a.s, from, a.n * a.s);
      merge_piece(moments, piece);
    }
    affine.set_batch(a, j, 1, moments);
  } else {
    affine.set_running(a, j, 1);
  }
  const Vec<T> floor = set1(a.activation == 0 ? T(0) : T(-INFINITY));
  const Vec<T> mean = set1(affine.mean[0]), scale = set1(affine.scale[0]);
  const Vec<T> shift = set1(affine.shift[0]);
  for (i64 i = 0; i < a.n; i++) {
    const i64 run = (i * a.c + j) * a.s;
    each_vec<T>(run, run + a.s, [&](auto at) {
      at.store(a.y, max(floor, fma(at.load(a.x) - mean, scale, shift)));
    });
  }
}

template <class T>
void backward_channel(const batch_norm_backward_args<T>& a, const T* y, i64 j) {
  constexpr int W = kWide;
  const i64 first = j * a.s, stride = a.c * a.s, end = a.n * a.s;
  const Vec<T> mean = set1(a.mean[j]), rstd = set1(a.rstd[j]);
  Vec<T> means[W];
  EACH(v) means[v] = mean;
  Piece<T> dys, xs, ys;
  Sums<T, W> sums;
  for (i64 from = 0; from < end; from += dys.capacity) {
    dys.gather(a.dy + first, a.s, stride, from, end);
    xs.gather(a.x + first, a.s, stride, from, end);
    if (y) ys.gather(y + first, a.s, stride, from, end);
    dys.pad(0);
    xs.pad(a.mean[j]);
    if (y) ys.pad(0);
    sums.add(gradient_sums(Strip<T, W>{}, dys.values, xs.values, y ? ys.values : y, dys.width,
                           dys.rows(), means));
  }
  a.dbeta[j] = fold<T, W>(sums.first);
  a.dgamma[j] = fold<T, W>(sums.second) * a.rstd[j];
  const Pullback<T> pull = pullback(a, mean, rstd, set1(a.gamma ? a.gamma[j] : T(1)),
                                    set1(a.dgamma[j]), set1(a.dbeta[j]));
  for (i64 i = 0; i < a.n; i++) {
    const i64 run = i * stride + first;
    each_vec<T>(run, run + a.s, [&](auto at) {
      Vec<T> g = at.load(a.dy);
      if (y) g = through_relu(g, at.load(y));
      at.store(a.dx, pull(g, at.load(a.x)));
    });
  }
}

}  // namespace

KERNEL(batch_norm) {
  if (a.s == 1) {
    each_strip<T>(team, a.c,
                  [&](auto strip, i64 j, i64 used) { forward_strip(a, strip, j, used); });
  } else {
    share(team, a.c, [&](i64 j) { forward_channel(a, j); });
  }
}

KERNEL(batch_norm_backward) {
  const T* y = a.activation == 0 ? a.y : nullptr;
  if (a.s == 1) {
    each_strip<T>(team, a.c, [&](auto strip, i64 j, i64) { backward_strip(a, y, strip, j); });
  } else {
    share(team, a.c, [&](i64 j) { backward_channel(a, y, j); });
  }
}
