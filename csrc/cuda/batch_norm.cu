// Batch normalisation (Ioffe & Szegedy 2015) with relu. The statistics take one read: a thread
// keeps 16 values of a channel in registers for their corrected two-pass moments, which are merged
// in a fixed order and in double (Chan, Golub & LeVeque 1983, equations 1.5 and 1.7). One more read
// applies the result, the values that were read last first. Then the gradients, in the same way.
#include "channels.cuh"

namespace {

// Of so many values of a channel: their mean, less the channel's pivot, what rounding took from it,
// and the sum of squared deviations from it.
struct alignas(16) Moments {
  double count, mean, low, m2;

  __device__ void merge(const Moments& o) {
    if (o.count == 0) return;
    const double before = mean, change = add(o, o.count / (count + o.count));
    const double added = mean - before;
    low += (before - (mean - added)) + (change - added);
  }
  // part: of o's values in all. Returns what was to be added to the mean.
  __device__ double add(const Moments& o, double part) {
    const double delta = (o.mean - mean) + (o.low - low);
    m2 += o.m2 + delta * delta * (count * part);
    count += o.count;
    mean += delta * part;
    return delta * part;
  }
};

// The channel's first value: means are relative to it, so that doubles fare as well as floats.
template <class T> struct Statistics {
  typedef Moments Sum;
  batch_norm_args<T> a;
  T* shift;

  __device__ Vec<T> constants(const Walk<T>& walk) const {
    return walk.ch.one_channel() ? set1(a.x[walk.channel * a.s]) : walk.of_channel(a.x);
  }
  __device__ void take(const Walk<T>& walk, Vec<T> pivot, i64 q,
                       Moments (&sums)[Vec<T>::lanes]) const {
    constexpr int lanes = Vec<T>::lanes;
    static_assert(lanes * kTaken <= 32);
    Vec<T> x[kTaken];
    unsigned some = 0;  // a bit for each value that there is, lane by lane
#pragma unroll
    for (int r = 0; r < kTaken; r++) {
      const auto at = walk.at(q + r);
      x[r] = zero<T>();
      if (at.exists) x[r] = at.load(a.x);
#pragma unroll
      for (int l = 0; l < lanes; l++) {
        some |= unsigned(at.exists && at.place.inside(l)) << (l * kTaken + r);
      }
    }
#pragma unroll
    for (int l = 0; l < lanes; l++) {
      const unsigned here = some >> (l * kTaken) & ((1u << kTaken) - 1);
      if (here == 0) continue;
      const T n = T(__popc(here));
      T near = 0, sum = 0, squares = 0;
#pragma unroll
      for (int r = 0; r < kTaken; r++) near += here >> r & 1 ? x[r].v[l] - pivot.v[l] : T(0);
      near = pivot.v[l] + near / n;
#pragma unroll
      for (int r = 0; r < kTaken; r++) {
        const T d = here >> r & 1 ? x[r].v[l] - near : T(0);
        sum += d;
        squares = fma_lane(d, d, squares);
      }
      const double residual = double(sum / n);
      const double mean = (double(near) - double(pivot.v[l])) + residual;
      const double m2 = double(squares) - residual * double(sum);
      // A division in T is good enough: an error of the mean is one of second order in m2.
      sums[l].add({double(n), mean, 0, m2}, double(n / (T(sums[l].count) + n)));
    }
  }

  // Statistics of no values have mean and variance 0, and leave the running ones alone.
  __device__ void finish(i64 j, const Moments& batch) const {
    const double n = batch.count, variance = n > 0 ? batch.m2 / n : 0;
    const double pivot = n > 0 ? double(a.x[j * a.s]) : 0, mean = pivot + (batch.mean + batch.low);
    const double rstd = 1 / ::sqrt(variance + a.eps);
    a.mean[j] = T(mean);
    a.rstd[j] = T(rstd);
    // What rounding took from the mean comes with the shift.
    const double gain = a.gamma ? rstd * double(a.gamma[j]) : rstd;
    const double lost = ((pivot - double(a.mean[j])) + batch.mean) + batch.low;
    shift[j] = T((a.beta ? double(a.beta[j]) : 0) - lost * gain);
    const double unbiased = a.unbiased_running_var ? n / (n - 1) : 1;
    if (n > 0 && a.running_mean) update(a.running_mean[j], mean);
    if (n > 0 && a.running_var) update(a.running_var[j], variance * unbiased);
  }
  __device__ void update(T& running, double now) const {
    running = T((1 - a.momentum) * double(running) + a.momentum * now);
  }
};

template <class T> __global__ void use_running_kernel(batch_norm_args<T> a, T* shift) {
  const i64 j = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (j >= a.c) return;
  a.mean[j] = a.running_mean[j];
  a.rstd[j] = T(1 / ::sqrt(double(a.running_var[j]) + a.eps));
  shift[j] = a.beta ? a.beta[j] : T(0);
}

template <class T> struct Affine {
  Vec<T> mean, scale, shift;
};

template <class T> struct Normalise {
  batch_norm_args<T> a;
  const T* shift;

  __device__ Affine<T> constants(const Walk<T>& walk) const {
    const Vec<T> gamma = a.gamma ? walk.of_channel(a.gamma) : set1(T(1));
    return {walk.of_channel(a.mean), walk.of_channel(a.rstd) * gamma, walk.of_channel(shift)};
  }
  __device__ void apply(const Walk<T>& walk, const Affine<T>& f, i64 q) const {
    const Vec<T> floor = set1(a.activation == 0 ? T(0) : T(-INFINITY));
    Vec<T> x[kApplied];
#pragma unroll
    for (int r = 0; r < kApplied; r++) {
      const auto at = walk.at(q + r);
      if (at.exists) x[r] = at.load(a.x);
    }
#pragma unroll
    for (int r = 0; r < kApplied; r++) {
      const auto at = walk.at(q + r);
      if (at.exists) at.store(a.y, max(floor, fma(x[r] - f.mean, f.scale, f.shift)));
    }
  }
};

template <class T> Channels channels_of(const batch_norm_args<T>& a) {
  return channels<T>(a.n, a.c, a.s, a.x, a.y, a.gamma, a.mean, a.rstd);
}
// Shifts, then sums.
template <class T> i64 shift_bytes(const batch_norm_args<T>& a) {
  return (a.c * i64(sizeof(T)) + 255) / 256 * 256;
}

}  // namespace

CUDA_KERNEL_WITH_WORKSPACE(batch_norm,
                           shift_bytes(a) + channel_workspace<Statistics<T>>(channels_of(a))) {
  if (a.c == 0) return cudaSuccess;
  T* shift = reinterpret_cast<T*>(call.workspace);
  const Channels ch = channels_of(a);
  const cudaError_t error =
      a.training
          ? sum_channels<T>(call, ch, Statistics<T>{a, shift}, call.workspace + shift_bytes(a))
          : simt::launch(use_running_kernel<T>, dim3(blocks_for(a.c, 128)), dim3(128), 0,
                         call.stream, a, shift);
  if (error != cudaSuccess) return error;
  return each_value<T>(call, ch, Normalise<T>{a, shift});
}

// ---- gradients -----------------------------------------------------------------------------

namespace {

// The gradient, where the relu let x through.
template <class T, class At>
__device__ __forceinline__ Vec<T> gradient(const batch_norm_backward_args<T>& a, const At& at) {
  const Vec<T> g = at.load(a.dy);
  return a.activation == 0 ? select(at.load(a.y) > zero<T>(), g, zero<T>()) : g;
}

template <class T> struct ChannelGradients {
  typedef TwoSums Sum;
  batch_norm_backward_args<T> a;

  __device__ Vec<T> constants(const Walk<T>& walk) const { return walk.of_channel(a.mean); }
  __device__ void take(const Walk<T>& walk, Vec<T> mean, i64 q, Sum (&sums)[Vec<T>::lanes]) const {
    Vec<T> products = zero<T>(), sum = zero<T>();
#pragma unroll
    for (int r = 0; r < kTaken; r++) {
      const auto at = walk.at(q + r);
      if (!at.exists) continue;
      const Vec<T> g = gradient(a, at);
      products = fma(g, at.load(a.x) - mean, products);
      sum = sum + g;
    }
    add(sums, products, sum);
  }
  __device__ void finish(i64 j, const Sum& sum) const {
    a.dgamma[j] = T(sum.first * double(a.rstd[j]));
    a.dbeta[j] = T(sum.second);
  }
};

// dx = scale * gradient + slope * (x - mean) + shift.
template <class T> struct Pullback {
  Vec<T> mean, scale, slope, shift;
};

template <class T> struct InputGradient {
  batch_norm_backward_args<T> a;

  __device__ Pullback<T> constants(const Walk<T>& walk) const {
    const Vec<T> rstd = walk.of_channel(a.rstd);
    const Vec<T> scale = a.gamma ? rstd * walk.of_channel(a.gamma) : rstd;
    const Vec<T> part = scale * set1(T(1 / (double(a.n) * double(a.s))));
    return {walk.of_channel(a.mean), scale, -(part * rstd * walk.of_channel(a.dgamma)),
            -(part * walk.of_channel(a.dbeta))};
  }
  __device__ void apply(const Walk<T>& walk, const Pullback<T>& f, i64 q) const {
    Vec<T> dx[kApplied];
#pragma unroll
    for (int r = 0; r < kApplied; r++) {
      const auto at = walk.at(q + r);
      if (!at.exists) continue;
      dx[r] = gradient(a, at) * f.scale;
      if (a.training)
        dx[r] = fma(gradient(a, at), f.scale, fma(at.load(a.x) - f.mean, f.slope, f.shift));
    }
#pragma unroll
    for (int r = 0; r < kApplied; r++) {
      const auto at = walk.at(q + r);
      if (at.exists) at.store(a.dx, dx[r]);
    }
  }
};

template <class T> Channels channels_of(const batch_norm_backward_args<T>& a) {
  const T* y = a.activation == 0 ? a.y : nullptr;
  return channels<T>(a.n, a.c, a.s, a.dy, a.x, y, a.gamma, a.mean, a.rstd, a.dgamma, a.dbeta, a.dx);
}

}  // namespace

CUDA_KERNEL_WITH_WORKSPACE(batch_norm_backward,
                           channel_workspace<ChannelGradients<T>>(channels_of(a))) {
  const Channels ch = channels_of(a);
  const cudaError_t error = sum_channels<T>(call, ch, ChannelGradients<T>{a}, call.workspace);
  if (error != cudaSuccess) return error;
  return each_value<T>(call, ch, InputGradient<T>{a});
}
