// What the machine can do at this ISA level, so that timings can be told as a share of it.
// probe_fma: as many independent FMA chains as matmul's register tile has accumulators, nothing
// else in the loop; per round and element 2 FLOPs and no memory traffic.
// probe_read: eight running sums a row, enough to hide the latency of the addition; every byte of
// x is read once and next to nothing written.
#include "simd/vec.h"

KERNEL(probe_fma) {
  constexpr int kLanes = Vec<T>::lanes, kChains = kTileRows<T> * kTileVecs<T>;
  constexpr i64 kBlock = kLanes * kChains;
  auto lanes_left = [&](i64 i) { return a.n - i >= kLanes ? kLanes : a.n > i ? a.n - i : 0; };
  share(team, (a.n + kBlock - 1) / kBlock, [&](i64 block) {
    const i64 first = block * kBlock;
    const Vec<T> half = set1(T(0.5));
    Vec<T> chain[kChains];
    for (int i = 0; i < kChains; i++) {
      i64 at = first + i * kLanes, left = lanes_left(at);
      chain[i] = left ? load_n(a.x + at, left) : zero<T>();
    }
    for (i64 round = 0; round < a.rounds; round++) {
#pragma GCC unroll 32
      for (int i = 0; i < kChains; i++) chain[i] = fma(chain[i], half, half);
    }
    for (int i = 0; i < kChains; i++) {
      i64 at = first + i * kLanes, left = lanes_left(at);
      if (left) store_n(a.y + at, chain[i], left);
    }
  });
}

KERNEL(probe_read) {
  constexpr int kLanes = Vec<T>::lanes, kSums = 8;
  share(team, a.n, [&](i64 row) {
    const T* x = a.x + row * a.c;
    Vec<T> sums[kSums] = {};
    i64 i = 0;
    for (; i + kSums * kLanes <= a.c; i += kSums * kLanes) {
#pragma GCC unroll 8
      for (int s = 0; s < kSums; s++) sums[s] = sums[s] + load(x + i + s * kLanes);
    }
    for (; i < a.c; i += kLanes) {
      sums[0] = sums[0] + load_n(x + i, a.c - i < kLanes ? a.c - i : kLanes);
    }
    for (int s = 1; s < kSums; s++) sums[0] = sums[0] + sums[s];
    a.y[row] = sum(sums[0]);
  });
}
