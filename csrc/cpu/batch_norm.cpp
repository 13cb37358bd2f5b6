// Batch normalisation (Ioffe & Szegedy 2015) with relu. A block of rows is read twice, from the
// cache the second time, for a corrected two-pass variance; blocks merge in order and in double
// (Chan, Golub & LeVeque 1983, equations 1.5 and 1.7). One more read applies the result.
#include "batch_norm.h"

namespace {

// Adds x - center and, unless the sum is all that is wanted, its square.
template <bool squared, class T, class Strip>
auto deviations(Strip strip, const T* x, i64 stride, const T* center) {
  Vec<T> around[Strip::vecs];
  FNN_EACH(v) around[v] = strip.load(center, v);
  return [=](i64 i, int v, Vec<T>& sum, Vec<T>& squares) {
    Vec<T> d = strip.load(x + i * stride, v) - around[v];
    sum = sum + d;
    if (squared) squares = fma(d, d, squares);
  };
}

// What a block tells of the channels of a panel: place k in center[k], sum[k], squares[k].
template <class T> struct Block {
  T *center, *sum, *squares;
};

// x is place 0 of the block's first row, `visit` how the first of two readings goes (sum_block).
template <i64 visit, class T>
void look_at(const T* x, i64 stride, i64 rows, Panel panel, Block<T> to) {
  // Around the first row to begin with, so that constant channels come out exact.
  sum_block<visit>(panel, rows, to.sum, to.squares, [&](auto strip, i64 k) {
    return deviations<false>(strip, x + k, stride, x + k);
  });
  const Vec<T> inverse = set1(T(1 / double(rows)));
  each_strip<T>(panel, [&](auto strip, i64 k) {
    FNN_EACH(v) {
      strip.store(to.center + k, v, fma(strip.load(to.sum + k, v), inverse, strip.load(x + k, v)));
    }
  });
  sum_block(panel, rows, to.sum, to.squares, [&](auto strip, i64 k) {
    return deviations<true>(strip, x + k, stride, to.center + k);
  });
}

// Mean and sum of squared deviations of the channels of a panel. Means are relative to a pivot near
// them, and `low` collects what additions to m2 round off, so that doubles fare as well as floats.
template <class T, int N> struct Moments {
  const i64 first, last;  // places
  double count = 0, pivot[N], mean[N], m2[N], low[N];

  explicit Moments(Panel panel) : first(panel.begin - panel.first), last(panel.end - panel.first) {
    for (i64 k = first; k < last; k++) pivot[k] = mean[k] = m2[k] = low[k] = 0;
  }

  // Takes m more values of each channel.
  void merge(double m, Block<T> block) {
    for (i64 k = first; k < last && count == 0; k++) pivot[k] = double(block.center[k]);
    const double part = m / (count + m), weight = count * part, inverse = 1 / m;
    for (i64 k = first; k < last; k++) {
      double sum = double(block.sum[k]), residual = sum * inverse;
      double delta = (double(block.center[k]) - pivot[k] + residual) - mean[k];
      double more = (double(block.squares[k]) - residual * sum) + delta * delta * weight;
      double grown = m2[k] + more;
      low[k] += (m2[k] - grown) + more;
      m2[k] = grown;
      mean[k] += delta * part;
    }
    count += m;
  }
};

// What apply adds at the end: beta, less what rounding took from the mean.
template <class T> T shift_of(const batch_norm_args<T>& a, i64 j, double rstd, double lost) {
  const double gain = a.gamma ? rstd * double(a.gamma[j]) : rstd;
  return T((a.beta ? double(a.beta[j]) : 0) - lost * gain);
}

// Statistics of a panel's channels, and their shifts by place. Those of no values have mean and
// variance 0, and leave the running ones alone.
template <class T, int N>
void finish(const batch_norm_args<T>& a, Panel panel, const Moments<T, N>& batch, T* shift) {
  const double n = batch.count, divisor = n > 0 ? n : 1;
  const double unbiased = a.unbiased_running_var ? n / (n - 1) : 1;
  double variance[N], rstd[N];
  for (i64 k = batch.first; k < batch.last; k++) {
    variance[k] = (batch.m2[k] + batch.low[k]) / divisor;
    rstd[k] = 1 / sqrt(variance[k] + a.eps);
  }
  auto update = [&](T& running, double now) {
    running = T((1 - a.momentum) * double(running) + a.momentum * now);
  };
  for (i64 k = batch.first, j = panel.begin; j < panel.end; k++, j++) {
    const double mean = batch.pivot[k] + batch.mean[k];
    a.mean[j] = T(mean);
    a.rstd[j] = T(rstd[k]);
    shift[k] = shift_of(a, j, rstd[k], (batch.pivot[k] - double(a.mean[j])) + batch.mean[k]);
    if (n > 0 && a.running_mean) update(a.running_mean[j], mean);
    if (n > 0 && a.running_var) update(a.running_var[j], variance[k] * unbiased);
  }
}

template <class T> void use_running(const batch_norm_args<T>& a, Panel panel, T* shift) {
  for (i64 j = panel.begin; j < panel.end; j++) {
    a.mean[j] = a.running_mean[j];
    a.rstd[j] = T(1 / sqrt(double(a.running_var[j]) + a.eps));
    shift[j - panel.first] = shift_of(a, j, 0, 0);
  }
}

template <class T> struct Affine {
  Vec<T> mean, scale, shift, floor;

  Vec<T> operator()(Vec<T> x) const { return max(floor, fma(x - mean, scale, shift)); }
};

template <class T> Vec<T> floor_of(const batch_norm_args<T>& a) {
  return set1(a.activation == 0 ? T(0) : T(-INFINITY));
}

// ---- (n, c) --------------------------------------------------------------------------------

template <class T>
void apply(const batch_norm_args<T>& a, Panel panel, const T* shift, i64 first, i64 rows,
           bool streamed) {
  each_strip<T>(panel, [&](auto strip, i64 k) {
    const i64 j = panel.first + k, begin = first * a.c + j;
    Affine<T> f[strip.vecs];
    FNN_EACH(v) {
      Vec<T> gamma = a.gamma ? strip.load(a.gamma + j, v) : set1(T(1));
      Vec<T> scale = strip.load(a.rstd + j, v) * gamma;
      f[v] = {strip.load(a.mean + j, v), scale, strip.load(shift + k, v), floor_of(a)};
    }
    const T* x = a.x + begin;
    T* y = a.y + begin;
    const i64 c = a.c;
    const bool past_caches = streamed;
    for (i64 i = 0; i < rows; i++, x += c, y += c) {
      FNN_EACH(v) put(past_caches, strip, y, v, f[v](strip.load(x, v)));
    }
  });
}

template <class T> void forward_by_columns(const batch_norm_args<T>& a, Panel panel) {
  constexpr int N = kNarrow * Vec<T>::lanes;
  T shift[N];
  if (a.training) {
    T center[N], sum[N], squares[N];
    Moments<T, N> moments(panel);
    for (i64 i = 0; i < a.n; i += kBlock) {
      const i64 rows = least(kBlock, a.n - i);
      look_at<kChain, T>(a.x + i * a.c + panel.first, a.c, rows, panel, {center, sum, squares});
      moments.merge(double(rows), {center, sum, squares});
    }
    finish(a, panel, moments, shift);
  } else {
    use_running(a, panel, shift);
  }
  share_rows_backwards(kAlone, a.n, kChain,
                       [&](i64 i, i64 rows) { apply(a, panel, shift, i, rows, false); });
}

// What the blocks tell waits in the workspace, the shifts behind it.
template <class T> void forward_by_rows(const batch_norm_args<T>& a, const Team& team) {
  constexpr int N = kPanel * Vec<T>::lanes;
  const i64 blocks = (a.n + kBlock - 1) / kBlock;
  const bool far = beyond_caches<T>(a.n, a.c), past_caches = far && streams(a.y, a.c);
  T* const scratch = reinterpret_cast<T*>(a.scratch);
  auto rows_of = [&](i64 b) { return least(kBlock, a.n - b * kBlock); };
  auto parked = [&](i64 b, Panel panel) {
    T* p = scratch + 3 * b * a.c + panel.first;
    return Block<T>{p, p + a.c, p + 2 * a.c};
  };
  auto shift = [&](Panel panel) { return scratch + 3 * blocks * a.c + panel.first; };
  if (a.training) {
    share(team, blocks, [&](i64 b) {
      share_panels(kAlone, a.y, a.c, [&](Panel panel) {
        const auto look = far ? look_at<1, T> : look_at<kFew, T>;
        look(a.x + b * kBlock * a.c + panel.first, a.c, rows_of(b), panel, parked(b, panel));
      });
    });
    barrier(team);
  }
  share_panels(team, a.y, a.c, [&](Panel panel) {
    if (!a.training) return use_running(a, panel, shift(panel));
    Moments<T, N> moments(panel);
    for (i64 b = 0; b < blocks; b++) moments.merge(double(rows_of(b)), parked(b, panel));
    finish(a, panel, moments, shift(panel));
  });
  barrier(team);
  share_rows_backwards(team, a.n, far ? kBlock : kChain, [&](i64 first, i64 rows) {
    const i64 step = far ? i64(1) : i64(kFew);
    for (i64 i = first; i < first + rows; i += step) {
      share_panels(kAlone, a.y, a.c, [&](Panel panel) {
        apply(a, panel, shift(panel), i, least(step, first + rows - i), past_caches);
      });
    }
  });
  end_stream();
}

// ---- (n, c, s...): a channel ---------------------------------------------------------------

template <class T> void look_at(Piece<T>& piece, Block<T> to) {
  constexpr i64 width = piece.width;
  T center[width], sum[width], squares[width];
  to.center[0] = piece.values[0];
  for (int pass = 0; pass < 2; pass++) {
    if (pass == 1) to.center[0] += to.sum[0] / T(piece.count);
    piece.pad(to.center[0]);
    for (T& around : center) around = to.center[0];
    sum_block(Panel{0, 0, width}, piece.rows(), sum, squares, [&](auto strip, i64 k) {
      return deviations<true>(strip, piece.values + k, width, center + k);
    });
    to.sum[0] = fold(sum);
    to.squares[0] = fold(squares);
  }
}

template <class T> void forward_channel(const batch_norm_args<T>& a, i64 j) {
  const Panel panel{j, j, j + 1};
  T shift;
  if (a.training) {
    Piece<T> piece;
    T center, sum, squares;
    Moments<T, 1> moments(panel);
    for (i64 from = 0; from < a.n * a.s; from += piece.capacity) {
      piece.gather(a.x + j * a.s, a.s, a.c * a.s, from, a.n * a.s);
      look_at(piece, Block<T>{&center, &sum, &squares});
      moments.merge(double(piece.count), {&center, &sum, &squares});
    }
    finish(a, panel, moments, &shift);
  } else {
    use_running(a, panel, &shift);
  }
  const T scale = a.gamma ? a.rstd[j] * a.gamma[j] : a.rstd[j];
  const Affine<T> f = {set1(a.mean[j]), set1(scale), set1(shift), floor_of(a)};
  for (i64 i = 0; i < a.n; i++) {
    const i64 run = (i * a.c + j) * a.s;
    each_aligned_vec(a.y, run, run + a.s, [&](auto at) { at.store(a.y, f(at.load(a.x))); });
  }
}

}  // namespace

KERNEL(batch_norm) {
  if (a.s != 1) {
    share(team, a.c, [&](i64 j) { forward_channel(a, j); });
  } else if (by_rows(team, a.n)) {
    forward_by_rows(a, team);
  } else {
    share_panels<kNarrow>(team, a.y, a.c, [&](Panel panel) { forward_by_columns(a, panel); });
  }
}
