// Dropout in one pass (Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014). The random
// word of an element depends on its index alone, so threads, devices and recomputation agree
// without any state; words live in a small block on the stack.
#include <string.h>

#include "simd/philox.h"

namespace {

// Counters of a block: plain loops over them, which compilers turn into vector multiplications at
// every level, provided that they don't unroll them first.
enum : i64 { kCounters = 32, kWords = 4 * kCounters, kGrain = 64 * kWords };

// words[4 i + j] = word j of counter (first + i, offset). first is a multiple of kCounters.
FNN_INLINE void philox(u64 seed, u64 offset, u64 first, u32* words) {
  u32 c0[kCounters], c1[kCounters], c2[kCounters], c3[kCounters];
#pragma GCC unroll 1
  for (u32 i = 0; i < kCounters; i++) {
    c0[i] = u32(first) + i;
    c1[i] = u32(first >> 32);
    c2[i] = u32(offset);
    c3[i] = u32(offset >> 32);
  }
  PhiloxKey key = philox_key(seed);
  for (int round = 0; round < kPhiloxRounds; round++, key = next(key)) {
#pragma GCC unroll 1
    for (int i = 0; i < kCounters; i++) philox_round(key, c0[i], c1[i], c2[i], c3[i]);
  }
#pragma GCC unroll 1
  for (int i = 0; i < kCounters; i++) {
    words[4 * i] = c0[i];
    words[4 * i + 1] = c1[i];
    words[4 * i + 2] = c2[i];
    words[4 * i + 3] = c3[i];
  }
}

// x / (1 - p) where kept, else 0, even of a NaN. y may be x.
template <class T> void keep(const T* x, const u8* kept, T inverse, i64 n, T* y) {
#pragma GCC ivdep
  for (i64 i = 0; i < n; i++) y[i] = kept[i] ? x[i] * inverse : T(0);
}

}  // namespace

KERNEL(dropout) {
  const u32 threshold = dropout_threshold(a.p);
  const T inverse = T(1 / (1 - a.p));
  share_range(team, a.n, kGrain, [&](i64 begin, i64 end) {
    for (i64 i = begin; i < end; i += kWords) {
      u32 words[kWords];
      u8 kept[kWords];
      philox(u64(a.seed), u64(*a.offset), u64(i / 4), words);
      for (i64 j = 0; j < kWords; j++) kept[j] = words[j] >= threshold;
      const i64 count = end - i < kWords ? end - i : kWords;
      memcpy(a.mask + i, kept, size_t(count));
      keep(a.x + i, kept, inverse, count, a.y + i);
    }
  });
}

KERNEL(dropout_backward) {
  const T inverse = T(1 / (1 - a.p));
  share_range(team, a.n, kGrain, [&](i64 begin, i64 end) {
    keep(a.dy + begin, reinterpret_cast<const u8*>(a.mask + begin), inverse, end - begin,
         a.dx + begin);
  });
}
