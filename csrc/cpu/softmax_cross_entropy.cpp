// Softmax, cross-entropy and its gradient: the logits are read once and the gradient written once.
// With a row's weight s and target weights q_j (class weight times target probability, smoothed),
// loss = s sum_j q_j (log sum exp(z) - z_j) and dz_j = s (softmax(z)_j sum(q) - q_j); label
// smoothing (Szegedy et al. 2016) and class weights as PyTorch's. The weight of a row's one label
// is kept out of the sums over j. Short rows with labels go by transposed tiles (softmax_rows.h).
#include "softmax_rows.h"

namespace {

enum { kMean, kSum, kNone };

template <class T> using Args = softmax_cross_entropy_args<T>;

template <class T> bool in_range(const Args<T>& a, i64 label) { return label >= 0 && label < a.c; }

template <class T> double sample_weight(const Args<T>& a, i64 i) {
  return a.sample_weight ? a.sample_weight[i] : 1;
}

// A label out of range has no weight; its row becomes NaN.
template <class T> double class_weight(const Args<T>& a, i64 label) {
  return !in_range(a, label) ? NAN : a.weight ? a.weight[label] : 1;
}

// Sum of the weights of those of the rows begin..end that contribute.
template <class T> double sum_of_weights(const Args<T>& a, i64 begin, i64 end) {
  i64 rows = 0;
  double sum = 0;
  if (!a.labels) {
    for (i64 i = begin; i < end; i++) sum += a.sample_weight[i];
  } else if (a.weight || a.sample_weight) {
    for (i64 i = begin; i < end; i++) {
      const i64 label = a.labels[i];
      if (label != a.ignore_index) sum += sample_weight(a, i) * class_weight(a, label);
    }
  } else {
    for (i64 i = begin; i < end; i++) rows += a.labels[i] != a.ignore_index;
  }
  return sum + double(rows);
}

// ---- short rows with labels, a tile at a time ----------------------------------------------

template <class T> struct LabelledTile {
  Tile<T> z;
  T label[kTileHeight] = {}, gradient[kTileHeight] = {};  // gradient: weight in the gradient
  double weight[kTileHeight] = {};
  double sum[kTileHeight], shifted[kTileHeight];  // of exp(z - max); z - max of the label
};

// Labels and weights of the tile's rows. An ignored row becomes zeros of weight 0, whose loss and
// gradient are 0 whatever it held.
template <class T>
void read_labels(const Args<T>& a, double inverse, i64 first, i64 rows, LabelledTile<T>& t) {
  for (i64 r = 0; r < rows; r++) {
    i64 label = a.labels[first + r];
    double weight = 0;
    if (label != a.ignore_index) {
      weight = sample_weight(a, first + r) * class_weight(a, label);
    } else {
      label = 0;
      for (i64 j = 0; j < a.c; j++) t.z.column[j][r] = 0;
    }
    t.label[r] = T(label);
    t.weight[r] = weight;
    t.gradient[r] = T(weight * inverse);
  }
}

// Turns logits into gradients for a Vec of rows.
template <class T> FNN_INLINE void differentiate(LabelledTile<T>& t, i64 row, i64 c) {
  const Vec<T> label = load(t.label + row), weight = load(t.gradient + row);
  const Vec<T> largest = t.z.max_of(row, c);
  Vec<T> shifted = set1(T(NAN));
  LaneSum<T> sum = sum_columns<T>(c, [&](i64 j) {
    Vec<T> d = t.z.at(row, j) - largest, e = exp(d);
    shifted = select(label == set1(T(j)), d, shifted);
    t.z.put(row, j, e);
    return e;
  });
  sum.store(t.sum + row);
  store_wide(t.shifted + row, shifted);
  const Vec<T> k = weight / sum.lanes();
  for (i64 j = 0; j < c; j++) {
    Vec<T> g = t.z.at(row, j) * k;
    t.z.put(row, j, select(label == set1(T(j)), g - weight, g));
  }
}

// The sum of the tile's losses.
template <class T>
double tile_loss(const Args<T>& a, double inverse, i64 first, i64 rows, LabelledTile<T>& t) {
  t.z.read(a.logits + first * a.c, rows, a.c);
  read_labels(a, inverse, first, rows, t);
  for (i64 row = 0; row < rows; row += Vec<T>::lanes) differentiate(t, row, a.c);
  t.z.write(a.dlogits + first * a.c, rows, a.c);
  double total = sum_vecs<double>(0, rows, [&](auto at) {
    Vec<double> loss = at.load(t.weight) * (log(at.load(t.sum)) - at.load(t.shifted));
    at.store(t.sum, loss);
    return loss;
  });
  if (a.reduction == kNone) {
    for (i64 r = 0; r < rows; r++) a.loss[first + r] = T(t.sum[r]);
  }
  return total;
}

// ---- any row -------------------------------------------------------------------------------

template <class T> double row_loss(const Args<T>& a, double inverse, i64 i) {
  const T* z = a.logits + i * a.c;
  T* dz = a.dlogits + i * a.c;
  const i64 label = a.labels ? a.labels[i] : 0;
  if (a.labels && label == a.ignore_index) {
    each_vec<T>(0, a.c, [&](auto at) { at.store(dz, zero<T>()); });
    return 0;
  }
  const double weight = sample_weight(a, i), keep = 1 - a.label_smoothing;
  const double label_weight = a.labels ? keep * class_weight(a, label) : 0;
  const T label_logit = a.labels && in_range(a, label) ? z[label] : T(0);  // z may become dz

  // The part of q that isn't the label's: smoothing, or probabilities. A class of weight 0 may have
  // a logit of -inf.
  const bool dense = !a.labels || a.label_smoothing != 0;
  const Vec<T> even = set1(T(a.label_smoothing / double(a.c))), kept = set1(T(keep));
  const T* probabilities = a.probabilities + i * a.c;
  auto q = [&](auto at) {
    Vec<T> p = a.labels ? even : fma(at.load(probabilities), kept, even);
    return a.weight ? p * at.load(a.weight) : p;
  };
  double sum_q = 0, dot = 0;
  if (dense) {
    sum_q = sum_vecs<T>(0, a.c, q);
    dot = sum_vecs<T>(0, a.c, [&](auto at) {
      Vec<T> weight = q(at);
      return select(weight == zero<T>(), weight, weight * at.load(z));
    });
  }

  RowExp<T> row;
  exp_row(z, a.c, row, [&](auto at, Vec<T> e) { at.store(dz, e); });
  const Vec<T> scale = set1(T(weight * inverse));
  row.each_block(weight * inverse * (label_weight + sum_q), [&](i64 begin, i64 end, Vec<T> k) {
    each_vec<T>(begin, end, [&](auto at) {
      Vec<T> p = at.load(dz) * k;
      at.store(dz, dense ? fnma(q(at), scale, p) : p);
    });
  });
  if (a.labels && in_range(a, label)) dz[label] -= T(weight * inverse * label_weight);
  const double log_sum = log_of(row.sum), max = row.max;
  return weight * (label_weight * (log_sum + (max - label_logit)) + sum_q * (log_sum + max) - dot);
}

}  // namespace

KERNEL(softmax_cross_entropy) {
  double* weights = reinterpret_cast<double*>(a.scratch);
  T* losses = a.reduction == kNone ? a.loss : reinterpret_cast<T*>(weights + a.n / kChunk + 1);
  double divisor = 1;
  if (a.reduction == kMean) {
    divisor = !a.labels && !a.sample_weight
                  ? double(a.n)
                  : sum_chunks(team, a.n, weights, [&](i64 begin, i64 end) {
                      return sum_of_weights(a, begin, end);
                    });
  }
  const double inverse = divisor == 0 ? 0 : 1 / divisor;

  i64 parts = a.n;
  if (divisor == 0 || a.c == 0) {
    share(team, a.n, [&](i64 i) {
      each_vec<T>(0, a.c, [&](auto at) { at.store(a.dlogits + i * a.c, zero<T>()); });
      losses[i] = 0;
    });
  } else if (a.c <= kShortRow && a.labels && a.label_smoothing == 0) {
    parts = (a.n + kTileHeight - 1) / kTileHeight;
    share_range(team, a.n, kTileHeight, [&](i64 begin, i64 end) {
      LabelledTile<T> tile;
      for (i64 i = begin; i < end; i += kTileHeight) {
        const i64 rows = end - i < kTileHeight ? end - i : i64(kTileHeight);
        const double loss = tile_loss(a, inverse, i, rows, tile);
        if (a.reduction != kNone) losses[i / kTileHeight] = T(loss);
      }
    });
  } else {
    share(team, a.n, [&](i64 i) { losses[i] = T(row_loss(a, inverse, i)); });
  }
  if (a.reduction == kNone) return;
  barrier(team);
  if (team.rank != 0) return;
  const double sum = sum_vecs<T>(0, parts, [&](auto at) { return at.load(losses); });
  *a.loss = T(sum * inverse);
}
