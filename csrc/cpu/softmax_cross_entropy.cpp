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

// Losses scale * log(sum) + rest of several rows, whose logarithms are taken a Vec at a time.
struct Losses {
  static constexpr i64 capacity = 64;
  double sum[capacity], scale[capacity], rest[capacity], value[capacity];

  double evaluate(i64 rows) {
    return sum_vecs<double>(0, rows, [&](auto at) {
      Vec<double> loss = fma(at.load(scale), log(at.load(sum)), at.load(rest));
      at.store(value, loss);
      return loss;
    });
  }
  template <class T> void copy(i64 rows, T* out) const {
    for (i64 r = 0; r < rows; r++) out[r] = T(value[r]);
  }
};

// ---- short rows with labels, a tile at a time ----------------------------------------------

template <class T> struct Labelled {
  Tile<T> z;
  T logit[kTileHeight<T>] = {};     // of the label
  T gradient[kTileHeight<T>] = {};  // weight in the gradient
  Losses losses;
};

// A whole tile of labels in range, without weights and ignored rows: the usual case.
template <class T> bool is_plain(const Args<T>& a, i64 first, i64 rows) {
  u64 largest = 0;
  for (i64 i = first; i < first + rows; i++) {
    const u64 label = u64(a.labels[i]);
    largest = label > largest ? label : largest;
  }
  return rows == kTileHeight<T> && largest < u64(a.c) && !in_range(a, a.ignore_index) &&
         !a.weight && !a.sample_weight;
}

template <class T> void read_plain_labels(const i64* labels, double inverse, Labelled<T>& t) {
#pragma GCC unroll 4
  for (i64 r = 0; r < kTileHeight<T>; r++) t.logit[r] = t.z.column[labels[r]][r];
  for (i64 r = 0; r < kTileHeight<T>; r++) t.gradient[r] = T(inverse);
}

// An ignored row becomes zeros of weight 0, whose loss and gradient are 0 whatever it held.
template <class T>
void read_labels(const Args<T>& a, double inverse, i64 first, i64 rows, Labelled<T>& t) {
  for (i64 r = 0; r < rows; r++) {
    const i64 label = a.labels[first + r];
    double weight = 0;
    t.logit[r] = 0;
    if (label == a.ignore_index) {
      for (i64 j = 0; j < a.c; j++) t.z.column[j][r] = 0;
    } else {
      weight = sample_weight(a, first + r) * class_weight(a, label);
      if (in_range(a, label)) t.logit[r] = t.z.column[label][r];
    }
    t.losses.scale[r] = weight;
    t.gradient[r] = T(weight * inverse);
  }
}

// The sum of a plain tile's losses. As each row's sum is at most 64, the product of eight neither
// overflows nor loses anything, and its logarithm is the sum of theirs.
template <class T> double plain_loss(const Labelled<T>& t) {
  Vec<double> product = load(t.losses.sum);
  for (i64 r = Vec<double>::lanes; r < kTileHeight<T>; r += Vec<double>::lanes) {
    product = product * load(t.losses.sum + r);
  }
  return sum(log(product)) + sum_vecs<T>(0, kTileHeight<T>, [&](auto at) {
           return at.load(t.z.max) - at.load(t.logit);
         });
}

// The gradient of a tile's rows, and the sum of their losses.
template <class T>
double tile(const Args<T>& a, double inverse, i64 first, i64 rows, Labelled<T>& t) {
  const i64* labels = a.labels + first;
  T* dz = a.dlogits + first * a.c;
  const bool plain = is_plain(a, first, rows);
  t.z.read(a.logits + first * a.c, rows, a.c);
  if (plain)
    read_plain_labels(labels, inverse, t);
  else
    read_labels(a, inverse, first, rows, t);
  t.z.template exp_sum<true>(rows, a.c);
  t.z.each_element(rows, a.c, [&](i64 r) {
    t.z.sum_of(r).store(t.losses.sum + r);
    const Vec<T> k = load(t.gradient + r) / t.z.sum_of(r).lanes();
    return [=](Vec<T> e) { return e * k; };
  });
  t.z.write(dz, rows, a.c);
#pragma GCC unroll 4
  for (i64 r = 0; r < rows; r++) {
    if (plain || in_range(a, labels[r])) dz[r * a.c + labels[r]] -= t.gradient[r];
  }
  if (plain && a.reduction != kNone) return plain_loss(t);

  for (i64 r = 0; r < rows; r++) {
    if (plain) t.losses.scale[r] = 1;
    t.losses.rest[r] = t.losses.scale[r] * (double(t.z.max[r]) - double(t.logit[r]));
  }
  const double loss = t.losses.evaluate(rows);
  if (a.reduction == kNone) t.losses.copy(rows, a.loss + first);
  return loss;
}

// ---- any row -------------------------------------------------------------------------------

// The gradient of row i, and what its loss needs, as entry r.
template <class T> void row(const Args<T>& a, double inverse, i64 i, i64 r, Losses& losses) {
  const T* z = a.logits + i * a.c;
  T* dz = a.dlogits + i * a.c;
  const i64 label = a.labels ? a.labels[i] : 0;
  if (a.labels && label == a.ignore_index) {
    each_vec<T>(0, a.c, [&](auto at) { at.store(dz, zero<T>()); });
    losses.sum[r] = 1;
    losses.scale[r] = losses.rest[r] = 0;
    return;
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

  RowExp<T> e;
  exp_row(z, a.c, e, [&](auto at, Vec<T> exps) { at.store(dz, exps); });
  const Vec<T> scale = set1(T(weight * inverse));
  e.each_block(weight * inverse * (label_weight + sum_q), [&](i64 begin, i64 end, Vec<T> k) {
    each_vec<T>(begin, end, [&](auto at) {
      Vec<T> p = at.load(dz) * k;
      at.store(dz, dense ? fnma(q(at), scale, p) : p);
    });
  });
  if (a.labels && in_range(a, label)) dz[label] -= T(weight * inverse * label_weight);

  const double max = e.max;
  losses.sum[r] = e.sum;
  losses.scale[r] = weight * (label_weight + sum_q);
  losses.rest[r] = weight * (label_weight * (max - label_logit) + (sum_q * max - dot));
}

}  // namespace

KERNEL(softmax_cross_entropy) {
  double* weights = reinterpret_cast<double*>(a.scratch);
  T* losses = a.reduction == kNone ? a.loss : reinterpret_cast<T*>(weights + a.n / kChunk + 1);
  double divisor = 1;
  if (a.reduction == kMean) {
    divisor = !a.labels && !a.sample_weight
                  ? double(a.n)
                  : sum_chunks(team, a.n, weights,
                               [&](i64 begin, i64 end) { return sum_of_weights(a, begin, end); });
  }
  const double inverse = divisor == 0 ? 0 : 1 / divisor;

  i64 parts = a.n;
  if (divisor == 0 || a.c == 0) {
    share(team, a.n, [&](i64 i) {
      each_vec<T>(0, a.c, [&](auto at) { at.store(a.dlogits + i * a.c, zero<T>()); });
      losses[i] = 0;
    });
  } else if (a.c <= kShortRow && a.labels && a.label_smoothing == 0) {
    parts = (a.n + kTileHeight<T> - 1) / kTileHeight<T>;
    Labelled<T> t;
    each_tile<T>(team, a.n, [&](i64 first, i64 rows) {
      const double loss = tile(a, inverse, first, rows, t);
      if (a.reduction != kNone) losses[first / kTileHeight<T>] = T(loss);
    });
  } else {
    Losses batch;
    share_range(team, a.n, 1, [&](i64 begin, i64 end) {
      for (i64 i = begin; i < end; i += batch.capacity) {
        const i64 rows = end - i < batch.capacity ? end - i : batch.capacity;
        for (i64 r = 0; r < rows; r++) row(a, inverse, i + r, r, batch);
        batch.evaluate(rows);
        batch.copy(rows, losses + i);
      }
    });
  }
  if (a.reduction == kNone) return;
  barrier(team);
  if (team.rank != 0) return;
  *a.loss = T(inverse * sum_vecs<T>(0, parts, [&](auto at) { return at.load(losses); }));
}
