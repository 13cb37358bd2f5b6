// The order in which an epoch visits its rows, from a seed: the same on CPU and GPU.
#pragma once
#include "ops.h"

namespace fnn {

// splitmix64's finaliser (Steele, Lea & Flood 2014).
constexpr u64 mix(u64 z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Row at position i of the seeded permutation of 0..n-1: a Feistel network over the smallest even
// number of bits that holds n, walked until it lands inside 0..n-1 (Black & Rogaway 2002). Any
// position is found without the ones before it.
constexpr i64 permuted(i64 i, i64 n, u64 seed, u64 epoch) {
  if (n <= 1) return i;
  int half = 1;
  while (half < 31 && (i64{1} << (2 * half)) < n) half++;
  const u64 mask = (u64{1} << half) - 1;
  const u64 key = mix(mix(seed) + 0x9E3779B97F4A7C15u * (epoch + 1));
  u64 x = static_cast<u64>(i);
  do {
    u64 left = x >> half, right = x & mask;
    for (u64 round = 0; round < 6; round++) {
      const u64 next = left ^ (mix(right + mix(key + round)) & mask);
      left = right;
      right = next;
    }
    x = left << half | right;
  } while (x >= static_cast<u64>(n));
  return static_cast<i64>(x);
}

}  // namespace fnn
