// Losses that look at one element at a time, with their gradients: one pass over predictions and
// targets writes the gradient and adds up the loss, chunk by chunk in a fixed order. What weighs an
// element is spread to one value an element in short pieces that stay in the cache, so that the
// inner loop only ever loads whole Vecs.
#include "simd/losses.h"
#include "simd/reduce.h"

namespace {

enum : i64 { kPiece = 1024 };

// The arguments that the three ops have in common, under one name.
template <class T> struct Elements {
  i64 n, f;  // examples, values per example
  const T *x, *target, *sample_weight, *pos_weight;
  i64 p;  // pos_weight repeats after this many elements
  i64 reduction;
  T *loss, *dx;
  char* scratch;
};

enum { kMean, kSum, kNone };

constexpr i64 smaller(i64 a, i64 b) { return a < b ? a : b; }

// The two below fill `out` in whole Vecs, beyond `count` where that is not a multiple.
template <class T> using Piece = T[kPiece + Vec<T>::lanes];

// weights[i / f] for the `count` elements from i on: in the array itself, or spread over `out`.
template <class T> const T* spread(const T* weights, i64 f, i64 i, i64 count, Piece<T>& out) {
  if (f == 1) return weights + i;
  i64 example = i / f, left = f - i % f;
  for (i64 done = 0; done < count; example++, left = f) {
    const Vec<T> weight = set1(weights[example]);
    const i64 end = smaller(done + left, count);
    for (i64 k = done; k < end; k += Vec<T>::lanes) store(out + k, weight);
    done = end;
  }
  return out;
}

// weights[i % p] likewise. Once there is a period of at least a Vec, it is repeated.
template <class T> const T* repeat(const T* weights, i64 p, i64 i, i64 count, Piece<T>& out) {
  constexpr i64 lanes = Vec<T>::lanes;
  const i64 period = (lanes + p - 1) / p * p, start = smaller(period, count);
  i64 done = 0;
  for (i64 k = i % p; done < start; k = 0) {
    const i64 end = smaller(done + p - k, start);
    for (; done < end; done++, k++) out[done] = weights[k];
  }
  for (; done < count; done += lanes) store(out + done, load(out + done - period));
  return out;
}

// What the summed loss is divided by.
template <class T> double divisor(const Elements<T>& e, double* partials, const Team& team) {
  if (e.reduction != kMean) return 1;
  if (!e.sample_weight || e.f == 0) return double(e.n) * double(e.f);
  return double(e.f) * sum_chunks(team, e.n, partials, [&](i64 begin, i64 end) {
           return sum_vecs<T>(begin, end, [&](auto at) { return at.load(e.sample_weight); });
         });
}

// f(x, target, pos_weight) gives the loss of a Vec of elements and its gradient.
template <class T, class F>
FNN_INLINE void elementwise_loss(const Elements<T>& e, const Team& team, F&& f) {
  const i64 elements = e.n * e.f;
  double* partials = reinterpret_cast<double*>(e.scratch);
  const double total_weight = divisor(e, partials, team);
  const double inverse = total_weight == 0 ? 0 : 1 / total_weight;
  const Vec<T> share_of_loss = set1(T(inverse)), one = set1(T(1));

  auto sum_of_piece = [&](i64 i, i64 count) {
    Piece<T> piece, pos_piece;
    const T* weight = e.sample_weight ? spread(e.sample_weight, e.f, i, count, piece) : nullptr;
    const T* pos_weight = e.pos_weight ? repeat(e.pos_weight, e.p, i, count, pos_piece) : nullptr;
    return sum_vecs<T>(0, count, [&](auto at) {
      Vec<T> w = weight ? at.load(weight) : one;
      Vec<T> positive = pos_weight ? at.load(pos_weight) : one;
      LossAndGradient<T> r = f(at.load(e.x + i), at.load(e.target + i), positive);
      at.store(e.dx + i, r.gradient * (w * share_of_loss));
      Vec<T> loss = w * r.loss;
      if (e.reduction == kNone) at.store(e.loss + i, loss);
      return loss;
    });
  };
  partials += elements / kChunk + 1;
  double sum = sum_chunks(team, elements, partials, [&](i64 begin, i64 end) {
    double chunk = 0;
    for (i64 i = begin; i < end; i += kPiece) chunk += sum_of_piece(i, smaller(kPiece, end - i));
    return chunk;
  });
  if (e.reduction != kNone && team.rank == 0) *e.loss = T(sum * inverse);
}

}  // namespace

KERNEL(sigmoid_cross_entropy) {
  const Elements<T> e{a.n, a.f,         a.logits, a.targets, a.sample_weight, a.pos_weight,
                      a.p, a.reduction, a.loss,   a.dlogits, a.scratch};
  elementwise_loss(e, team, [](Vec<T> z, Vec<T> t, Vec<T> pos_weight) {
    return sigmoid_cross_entropy(z, t, pos_weight);
  });
}

KERNEL(mse) {
  const Elements<T> e{a.n, a.f,         a.pred, a.target, a.sample_weight, nullptr,
                      1,   a.reduction, a.loss, a.dpred,  a.scratch};
  elementwise_loss(e, team, [](Vec<T> x, Vec<T> t, Vec<T>) { return squared_error(x, t); });
}

KERNEL(mae) {
  const Elements<T> e{a.n, a.f,         a.pred, a.target, a.sample_weight, nullptr,
                      1,   a.reduction, a.loss, a.dpred,  a.scratch};
  elementwise_loss(e, team, [](Vec<T> x, Vec<T> t, Vec<T>) { return absolute_error(x, t); });
}
