// Gradients of batch_norm and of the relu fused with it. One read of the gradient and the input for
// dgamma and dbeta, a second for dx, while as much of them as fits is in the cache.
#include "batch_norm.h"

namespace {

// The gradient where the relu let x through.
template <class T> FNN_INLINE Vec<T> through_relu(Vec<T> gradient, Vec<T> y) {
  return select(y > zero<T>(), gradient, zero<T>());
}

// Adds gradient * (x - mean) and the gradient. y is null without relu.
template <class T, class Strip>
auto gradients(Strip strip, const T* dy, const T* x, const T* y, i64 stride, const T* mean) {
  Vec<T> center[Strip::vecs];
  FNN_EACH(v) center[v] = strip.load(mean, v);
  return [=](i64 i, int v, Vec<T>& products, Vec<T>& sum) {
    Vec<T> g = strip.load(dy + i * stride, v);
    if (y) g = through_relu(g, strip.load(y + i * stride, v));
    products = fma(g, strip.load(x + i * stride, v) - center[v], products);
    sum = sum + g;
  };
}

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

// ---- (n, c) --------------------------------------------------------------------------------

// Sums over a block for a panel.
template <class T> struct Parts {
  T *products, *sums;
};

template <i64 visit, class T>
void look_at(const batch_norm_backward_args<T>& a, const T* y, Panel panel, i64 block,
             Parts<T> to) {
  const i64 first = block * kBlock, rows = least(kBlock, a.n - first);
  sum_block<visit>(panel, rows, to.products, to.sums, [&](auto strip, i64 k) {
    const i64 j = panel.first + k, at = first * a.c + j;
    return gradients(strip, a.dy + at, a.x + at, y ? y + at : y, a.c, a.mean + j);
  });
}

// dgamma and dbeta of a panel from those of the blocks, which part(block) finds.
template <class T, class F>
void add_blocks(const batch_norm_backward_args<T>& a, Panel panel, F&& part) {
  for (i64 j = panel.begin; j < panel.end; j++) a.dgamma[j] = a.dbeta[j] = 0;
  for (i64 b = 0; b * kBlock < a.n; b++) {
    auto [products, sums] = part(b);
    for (i64 j = panel.begin; j < panel.end; j++) {
      a.dgamma[j] += products[j - panel.first];
      a.dbeta[j] += sums[j - panel.first];
    }
  }
  for (i64 j = panel.begin; j < panel.end; j++) a.dgamma[j] *= a.rstd[j];
}

template <class T>
void apply(const batch_norm_backward_args<T>& a, const T* y, Panel panel, i64 first, i64 rows,
           bool streamed) {
  each_strip<T>(panel, [&](auto strip, i64 k) {
    const i64 j = panel.first + k, begin = first * a.c + j;
    Pullback<T> pull[strip.vecs];
    FNN_EACH(v) {
      pull[v] = pullback(a, strip.load(a.mean + j, v), strip.load(a.rstd + j, v),
                         a.gamma ? strip.load(a.gamma + j, v) : set1(T(1)),
                         strip.load(a.dgamma + j, v), strip.load(a.dbeta + j, v));
    }
    const T *dy = a.dy + begin, *x = a.x + begin, *gate = y ? y + begin : y;
    T* dx = a.dx + begin;
    const i64 c = a.c;
    const bool past_caches = streamed;
    for (i64 i = 0; i < rows; i++, dy += c, x += c, dx += c) {
      FNN_EACH(v) {
        Vec<T> g = strip.load(dy, v);
        if (gate) g = through_relu(g, strip.load(gate + i * c, v));
        put(past_caches, strip, dx, v, pull[v](g, strip.load(x, v)));
      }
    }
  });
}

template <class T>
void backward_by_columns(const batch_norm_backward_args<T>& a, const T* y, Panel panel) {
  constexpr int N = kNarrow * Vec<T>::lanes;
  T products[N], sums[N];
  const Parts<T> parts = {products, sums};
  add_blocks(a, panel, [&](i64 b) {
    look_at<kChain>(a, y, panel, b, parts);
    return parts;
  });
  share_rows_backwards(kAlone, a.n, kChain,
                       [&](i64 i, i64 rows) { apply(a, y, panel, i, rows, false); });
}

// Parts wait in the workspace.
template <class T>
void backward_by_rows(const batch_norm_backward_args<T>& a, const T* y, const Team& team) {
  auto parked = [&](i64 b, Panel panel) {
    T* p = reinterpret_cast<T*>(a.scratch) + 2 * b * a.c + panel.first;
    return Parts<T>{p, p + a.c};
  };
  const bool far = beyond_caches<T>(a.n, a.c), past_caches = far && streams(a.dx, a.c);
  share(team, (a.n + kBlock - 1) / kBlock, [&](i64 b) {
    share_panels(kAlone, a.dx, a.c, [&](Panel panel) {
      const auto look = far ? look_at<1, T> : look_at<kFew, T>;
      look(a, y, panel, b, parked(b, panel));
    });
  });
  barrier(team);
  share_panels(team, a.dx, a.c,
               [&](Panel panel) { add_blocks(a, panel, [&](i64 b) { return parked(b, panel); }); });
  barrier(team);
  share_rows_backwards(team, a.n, far ? kBlock : kChain, [&](i64 first, i64 rows) {
    const i64 step = far ? i64(1) : i64(kFew);
    for (i64 i = first; i < first + rows; i += step) {
      share_panels(kAlone, a.dx, a.c, [&](Panel panel) {
        apply(a, y, panel, i, least(step, first + rows - i), past_caches);
      });
    }
  });
  end_stream();
}

// ---- (n, c, s...): a channel ---------------------------------------------------------------

template <class T> void backward_channel(const batch_norm_backward_args<T>& a, const T* y, i64 j) {
  constexpr i64 width = Piece<T>::width;
  const i64 first = j * a.s, stride = a.c * a.s, end = a.n * a.s;
  Piece<T> dys, xs, ys;
  T mean[width], products[width], sums[width];
  for (T& center : mean) center = a.mean[j];
  a.dgamma[j] = a.dbeta[j] = 0;
  for (i64 from = 0; from < end; from += dys.capacity) {
    dys.gather(a.dy + first, a.s, stride, from, end);
    xs.gather(a.x + first, a.s, stride, from, end);
    dys.pad(0);
    xs.pad(a.mean[j]);
    if (y) ys.gather(y + first, a.s, stride, from, end);
    if (y) ys.pad(0);
    sum_block(Panel{0, 0, width}, dys.rows(), products, sums, [&](auto strip, i64 k) {
      return gradients(strip, dys.values + k, xs.values + k, y ? ys.values + k : y, width, mean);
    });
    a.dgamma[j] += fold(products);
    a.dbeta[j] += fold(sums);
  }
  a.dgamma[j] *= a.rstd[j];
  const Pullback<T> pull =
      pullback(a, set1(a.mean[j]), set1(a.rstd[j]), set1(a.gamma ? a.gamma[j] : T(1)),
               set1(a.dgamma[j]), set1(a.dbeta[j]));
  for (i64 i = 0; i < a.n; i++) {
    const i64 run = i * stride + first;
    each_aligned_vec(a.dx, run, run + a.s, [&](auto at) {
      Vec<T> g = at.load(a.dy);
      if (y) g = through_relu(g, at.load(y));
      at.store(a.dx, pull(g, at.load(a.x)));
    });
  }
}

}  // namespace

KERNEL(batch_norm_backward) {
  const T* y = a.activation == 0 ? a.y : nullptr;
  if (a.s != 1) {
    share(team, a.c, [&](i64 j) { backward_channel(a, y, j); });
  } else if (by_rows(team, a.n)) {
    backward_by_rows(a, y, team);
  } else {
    share_panels<kNarrow>(team, a.dx, a.c, [&](Panel panel) { backward_by_columns(a, y, panel); });
  }
}
