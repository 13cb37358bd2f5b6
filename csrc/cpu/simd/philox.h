// Random bits by counting: Philox4x32-10 (Salmon, Moraes, Dror & Shaw, "Parallel random numbers:
// as easy as 1, 2, 3", SC 2011, section 3.3). Ten rounds of 32-bit products scramble a 128-bit
// counter under a 64-bit key into four words. Plain loops over a block of counters, which compilers
// turn into vector multiplications at every level, provided that they don't unroll them first.
#pragma once
#include "vec.h"

namespace {

enum : i64 { kPhiloxCounters = 32, kPhiloxWords = 4 * kPhiloxCounters };

// words[4 i + j] = word j of counter (first + i, offset). first is a multiple of kPhiloxCounters.
FNN_INLINE void philox(u64 seed, u64 offset, u64 first, u32* words) {
  u32 c0[kPhiloxCounters], c1[kPhiloxCounters], c2[kPhiloxCounters], c3[kPhiloxCounters];
#pragma GCC unroll 1
  for (u32 i = 0; i < kPhiloxCounters; i++) {
    c0[i] = u32(first) + i;
    c1[i] = u32(first >> 32);
    c2[i] = u32(offset);
    c3[i] = u32(offset >> 32);
  }
  u32 k0 = u32(seed), k1 = u32(seed >> 32);
  for (int round = 0; round < 10; round++) {
#pragma GCC unroll 1
    for (int i = 0; i < kPhiloxCounters; i++) {
      u32 low0 = 0xD2511F53u * c0[i], high0 = u32(u64(0xD2511F53u) * c0[i] >> 32);
      u32 low2 = 0xCD9E8D57u * c2[i], high2 = u32(u64(0xCD9E8D57u) * c2[i] >> 32);
      c0[i] = high2 ^ c1[i] ^ k0;
      c1[i] = low2;
      c2[i] = high0 ^ c3[i] ^ k1;
      c3[i] = low0;
    }
    k0 += 0x9E3779B9u;  // golden ratio
    k1 += 0xBB67AE85u;  // sqrt(3) - 1
  }
#pragma GCC unroll 1
  for (int i = 0; i < kPhiloxCounters; i++) {
    words[4 * i] = c0[i];
    words[4 * i + 1] = c1[i];
    words[4 * i + 2] = c2[i];
    words[4 * i + 3] = c3[i];
  }
}

}  // namespace
