// Stores that go past the caches, for results that are too large to be found there later: the lines
// then needn't be read before they are overwritten. Only whole, aligned lines gain.
#pragma once
#include <string.h>

#include "vec.h"
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace {

// p is aligned to 64 bytes.
template <class T> FNN_INLINE void stream(T* p, Vec<T> v) {
#if defined(__x86_64__)
  __m128 quarter[4];
  memcpy(quarter, &v, sizeof v);
  for (int i = 0; i < 4; i++) _mm_stream_ps(reinterpret_cast<float*>(p) + 4 * i, quarter[i]);
#else
  store(p, v);
#endif
}

// Before other threads may read what was streamed.
FNN_INLINE void end_stream() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

}  // namespace
