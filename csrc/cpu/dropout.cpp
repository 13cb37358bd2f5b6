// Dropout in one pass (Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014). The random
// word of an element depends on its index alone, so threads, devices and recomputation agree
// without any state; words live in a small block on the stack.
#include <string.h>

#include "simd/philox.h"

namespace {

enum : i64 { kGrain = 64 * kPhiloxWords };

// x / (1 - p) where kept, else 0, even of a NaN. y may be x.
template <class T> void keep(const T* x, const u8* kept, T inverse, i64 n, T* y) {
#pragma GCC ivdep
  for (i64 i = 0; i < n; i++) y[i] = kept[i] ? x[i] * inverse : T(0);
}

}  // namespace

KERNEL(dropout) {
  const double zeroed = rint(a.p * 0x1p32);
  const u32 threshold = zeroed < 0x1p32 ? u32(zeroed) : UINT32_MAX;
  const T inverse = T(1 / (1 - a.p));
  share_range(team, a.n, kGrain, [&](i64 begin, i64 end) {
    for (i64 i = begin; i < end; i += kPhiloxWords) {
      u32 words[kPhiloxWords];
      u8 kept[kPhiloxWords];
      philox(u64(a.seed), u64(*a.offset), u64(i / 4), words);
      for (i64 j = 0; j < kPhiloxWords; j++) kept[j] = words[j] >= threshold;
      const i64 count = end - i < kPhiloxWords ? end - i : kPhiloxWords;
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
