// Layer normalisation (Ba, Kiros & Hinton 2016). Forward: a row's mean and corrected two-pass
// variance (Chan, Golub & LeVeque 1983, equation 1.7), then the result, while the row is in the
// cache. Backward: dgamma and dbeta down the columns, a block of rows at a time, then dx along each
// row. A row has the same bits in any batch.
#include "simd/columns.h"
#include "simd/each.h"

namespace {

template <class T> struct RowSums {
  Vec<T> first = zero<T>(), second = zero<T>();
};

// Over a row: f(at, sums) adds to two sums, four of each side by side against the latency.
template <class T, class F> FNN_INLINE RowSums<T> sum_row(i64 c, F&& f) {
  constexpr i64 lanes = Vec<T>::lanes;
  RowSums<T> side[4];
  i64 i = 0;
  for (; i + 4 * lanes <= c; i += 4 * lanes) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) f(WholeVec<T>{i + k * lanes}, side[k]);
  }
  each_vec<T>(i, c, [&](auto at) { f(at, side[0]); });
  return {(side[0].first + side[2].first) + (side[1].first + side[3].first),
          (side[0].second + side[2].second) + (side[1].second + side[3].second)};
}

// xhat = (x - mean) * rstd - lost; `lost` is what rounding took from the mean.
template <class T> struct Statistics {
  T mean, rstd, lost;
};

template <class T> Statistics<T> statistics(const T* x, i64 c, double eps) {
  if (c == 0) return {T(0), T(1 / sqrt(eps)), T(0)};
  auto deviations = [&](T center) {
    return sum_row<T>(c, [&, around = set1(center)](auto at, RowSums<T>& s) {
      Vec<T> d = at.only(at.load(x) - around);
      s.first = s.first + d;
      s.second = fma(d, d, s.second);
    });
  };
  const T near = x[0] + sum(deviations(x[0]).first) / T(c);  // exact when the row is constant
  const RowSums<T> sums = deviations(near);
  const double n = double(c), residual = double(sum(sums.first)) / n;
  const double variance = double(sum(sums.second)) / n - residual * residual;
  const double rstd = 1 / sqrt(variance + eps);
  const T mean = T(double(near) + residual);
  return {mean, T(rstd), T(((double(near) - double(mean)) + residual) * rstd)};
}

template <class T> void normalise_row(const layer_norm_args<T>& a, i64 i) {
  const T* x = a.x + i * a.c;
  const Statistics<T> row = statistics(x, a.c, a.eps);
  a.mean[i] = row.mean;
  a.rstd[i] = row.rstd;
  const Vec<T> mean = set1(row.mean), rstd = set1(row.rstd), lost = set1(row.lost);
  each_vec<T>(0, a.c, [&](auto at) {
    Vec<T> gamma = a.gamma ? at.load(a.gamma) : set1(T(1));
    Vec<T> beta = a.beta ? at.load(a.beta) : zero<T>();
    at.store(a.y + i * a.c, fma(fma(at.load(x) - mean, rstd, -lost), gamma, beta));
  });
}

// dgamma and dbeta of a panel.
template <class T> void sum_panel(const layer_norm_backward_args<T>& a, Panel panel) {
  T dgamma[kPanel * Vec<T>::lanes], dbeta[kPanel * Vec<T>::lanes];
  for (i64 j = panel.begin; j < panel.end; j++) a.dgamma[j] = a.dbeta[j] = 0;
  for (i64 block = 0; block < a.n; block += kBlock) {
    sum_block(panel, least(kBlock, a.n - block), dgamma, dbeta, [&](auto strip, i64 k) {
      return [&, strip, at = block * a.c + panel.first + k](i64 i, int v, Vec<T>& products,
                                                            Vec<T>& sum) {
        Vec<T> dy = strip.load(a.dy + at + i * a.c, v), x = strip.load(a.x + at + i * a.c, v);
        Vec<T> xhat = (x - set1(a.mean[block + i])) * set1(a.rstd[block + i]);
        products = fma(dy, xhat, products);
        sum = sum + dy;
      };
    });
    for (i64 j = panel.begin; j < panel.end; j++) {
      a.dgamma[j] += dgamma[j - panel.first];
      a.dbeta[j] += dbeta[j - panel.first];
    }
  }
}

template <class T> void backward_row(const layer_norm_backward_args<T>& a, i64 i) {
  const T *dy = a.dy + i * a.c, *x = a.x + i * a.c;
  const Vec<T> mean = set1(a.mean[i]), rstd = set1(a.rstd[i]);
  auto gradient = [&](auto at) {  // of xhat
    return a.gamma ? at.load(dy) * at.load(a.gamma) : at.load(dy);
  };
  const RowSums<T> sums = sum_row<T>(a.c, [&](auto at, RowSums<T>& s) {
    Vec<T> g = gradient(at);
    s.first = s.first + g;
    s.second = fma(g, (at.load(x) - mean) * rstd, s.second);
  });
  const Vec<T> shift = set1(sum(sums.first) / T(a.c)), slope = set1(sum(sums.second) / T(a.c));
  each_vec<T>(0, a.c, [&](auto at) {
    Vec<T> xhat = (at.load(x) - mean) * rstd;
    at.store(a.dx + i * a.c, rstd * (fnma(xhat, slope, gradient(at)) - shift));
  });
}

}  // namespace

KERNEL(layer_norm) {
  share(team, a.n, [&](i64 i) { normalise_row(a, i); });
}

// The columns come first, as dx may be dy or x.
KERNEL(layer_norm_backward) {
  share_panels(team, a.x, a.c, [&](Panel panel) { sum_panel(a, panel); });
  barrier(team);
  share(team, a.n, [&](i64 i) { backward_row(a, i); });
}
