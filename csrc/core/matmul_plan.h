// How a matrix product is cut at every ISA level: what the kernel and the size of its workspace
// must agree on. Each thread owns one slot of the workspace: a block of the right factor, a tile of
// the left factor, and a part of the result where that is computed transposed.
#pragma once
#include "ops.h"

enum : i64 {
  kTerms = 288,        // most terms of one FMA chain; an element is the sum of its chains, in order
  kBlockVecs = 32,     // 64-byte vectors across a block of the right factor: half of a usual L2
  kTileRowsMost = 16,  // rows of a tile of the left factor
  kResultVecs = 8,     // 64-byte vectors across, and
  kResultRows = 256,   // rows of the part of a transposed result that is computed at once
};

struct MatmulSlot {
  i64 block, tile, result;  // bytes of each part, multiples of 64
  i64 bytes() const { return block + tile + result; }
};

static inline MatmulSlot matmul_slot(i64 m, i64 n, i64 k, i64 itemsize) {
  auto least = [](i64 a, i64 b) { return a < b ? a : b; };
  auto vecs = [&](i64 count) { return (count * itemsize + 63) / 64; };
  const i64 terms = least(k, kTerms), longest = m > n ? m : n;
  return {terms * least(vecs(longest), kBlockVecs) * 64, kTileRowsMost * (vecs(terms) + 1) * 64,
          least(n, kResultRows) * least(vecs(m) + 1, kResultVecs) * 64};
}

static inline i64 matmul_chains(i64 k) { return (k + kTerms - 1) / kTerms; }

// The terms of each chain but the last: about as many for all.
static inline i64 matmul_terms(i64 k) {
  const i64 chains = matmul_chains(k);
  return chains > 1 ? ((k + chains - 1) / chains + 15) / 16 * 16 : kTerms;
}

// Whether the threads share the chains of a product: a small and long one; or, where the right
// factor lies in rows, one of a few rows by a large factor, so that a thread reads those rows of a
// weight that it also updates (a cache line that another has written comes at half the speed). The
// chains wait behind the slots.
static inline bool matmul_shares_chains(i64 m, i64 n, i64 k, bool in_rows) {
  const bool small = k >= 4 * kTerms && m * n <= 256;
  return small || (in_rows && k > kTerms && m <= 64 && k * n >= 65536);
}

// matmul of float32 with precision='bf16': the active level's kernel, with AVX512-BF16 if the CPU
// has it.
extern "C" void fnn_matmul_bf16(const void* args, const Team* team);
