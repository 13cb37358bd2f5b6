// Feeding a batch: bytes to floating point, and rows gathered by index.
#include <string.h>

#include "simd/each.h"

namespace {

// Random rows defeat the hardware's prefetcher until it has seen a few lines of one: the first KiB
// of the row this many ahead is asked for by hand.
enum : i64 { kAhead = 8, kAsked = 1024, kLine = 64 };

}  // namespace

KERNEL(rescale) {
  const Vec<T> scale = set1(T(a.scale)), offset = set1(T(a.offset));
  share_range(team, a.n, 4096, [&](i64 begin, i64 end) {
    i64 i = begin;
    for (; i + Vec<T>::lanes <= end; i += Vec<T>::lanes) {
      store(a.y + i, fma(widen_u8<T>(a.x + i), scale, offset));
    }
    store_n(a.y + i, fma(widen_u8_n<T>(a.x + i, end - i), scale, offset), end - i);
  });
}

KERNEL(take_rows) {
  share(team, a.n, [&](i64 i) {
    if (i + kAhead < a.n) {
      const u8* next = a.x + a.index[i + kAhead] * a.f;
      for (i64 j = 0; j < a.f && j < kAsked; j += kLine) __builtin_prefetch(next + j);
    }
    memcpy(a.y + i * a.f, a.x + a.index[i] * a.f, size_t(a.f));
  });
}
