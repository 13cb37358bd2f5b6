// Dropout in one pass (Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014), with the
// CPU's bits: the random words of four elements depend on their index alone. Such a group is what a
// thread has in one step (of doubles half of it: their words are worked out twice).
#include "elementwise.cuh"

namespace {

// x / (1 - p) where kept, else 0, even of a NaN.
template <class T> __device__ __forceinline__ Vec<T> keep(Mask<T> kept, Vec<T> x, T inverse) {
  return select(kept, x * set1(inverse), zero<T>());
}

template <class T> struct Dropout {
  const T* x;
  T* y;
  bool* mask;
  u64 seed;
  const i64* offset;
  u32 threshold;
  T inverse;

  __device__ u64 constants() const { return u64(*offset); }
  template <class At> __device__ void operator()(u64 high, At at) const {
    const u64 counter = u64(at.i) / 4;
    u32 words[4] = {u32(counter), u32(counter >> 32), u32(high), u32(high >> 32)};
    PhiloxKey key = philox_key(seed);
#pragma unroll
    for (int round = 0; round < kPhiloxRounds; round++, key = next(key)) {
      philox_round(key, words[0], words[1], words[2], words[3]);
    }
    const bool second_half = at.i % 4 != 0;
    Mask<T> kept;
#pragma unroll
    for (int l = 0; l < Vec<T>::lanes; l++) {
      kept.v[l] = (second_half ? words[(l + 2) % 4] : words[l]) >= threshold;
    }
    at.store_bools(mask, kept);
    at.store(y, keep(kept, at.load(x), inverse));
  }
};

template <class T> struct DropoutBackward {
  const T* dy;
  const bool* mask;
  T* dx;
  T inverse;

  __device__ NoConstants constants() const { return {}; }
  template <class At> __device__ void operator()(NoConstants, At at) const {
    const Mask<T> kept = at.template load_bytes<T>(mask) != zero<T>();
    at.store(dx, keep(kept, at.load(dy), inverse));
  }
};

}  // namespace

CUDA_KERNEL(dropout) {
  const Dropout<T> f{
      a.x, a.y, a.mask, u64(a.seed), a.offset, dropout_threshold(a.p), T(1 / (1 - a.p))};
  return each<T>(call, a.n, f, a.x, a.y, a.mask);
}

CUDA_KERNEL(dropout_backward) {
  return each<T>(call, a.n, DropoutBackward<T>{a.dy, a.mask, a.dx, T(1 / (1 - a.p))}, a.dy, a.mask,
                 a.dx);
}
