// Random bits by counting: Philox4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers:
// as easy as 1, 2, 3", SC 2011, section 3.3). Ten rounds of 32-bit products scramble a 128-bit
// counter under a 64-bit key into four words.
#pragma once
#include "vec.h"

enum { kPhiloxRounds = 10 };

struct PhiloxKey {
  u32 low, high;
};
FNN_INLINE PhiloxKey philox_key(u64 seed) { return {u32(seed), u32(seed >> 32)}; }

// The key of the round after: added are the golden ratio and sqrt(3) - 1.
FNN_INLINE PhiloxKey next(PhiloxKey k) { return {k.low + 0x9E3779B9u, k.high + 0xBB67AE85u}; }

FNN_INLINE void philox_round(PhiloxKey k, u32& c0, u32& c1, u32& c2, u32& c3) {
  constexpr u32 m0 = 0xD2511F53u, m2 = 0xCD9E8D57u;
  const u32 low0 = m0 * c0, high0 = u32(u64(m0) * c0 >> 32);
  const u32 low2 = m2 * c2, high2 = u32(u64(m2) * c2 >> 32);
  c0 = high2 ^ c1 ^ k.low;
  c1 = low2;
  c2 = high0 ^ c3 ^ k.high;
  c3 = low0;
}

// The word below which an element is dropped, so that a share p of all words is.
FNN_INLINE u32 dropout_threshold(double p) {
  const double zeroed = rint(p * 0x1p32);
  return zeroed < 0x1p32 ? u32(zeroed) : UINT32_MAX;
}
