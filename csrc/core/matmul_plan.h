// How a matrix product is cut at every ISA level: what the kernel and the size of its workspace
// must agree on. Each thread owns one slot of the workspace: a block of the right factor, a tile of
// the left factor, and a part of the result where that is computed transposed.
#pragma once
#include "ops.h"

enum : i64 {
  kTerms = 256,        // terms of one FMA chain; an element is the sum of its chains, in order
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

// Chains of a product so small and long that the threads share its chains, else 0. They wait behind
// the slots.
static inline i64 matmul_shared_chains(i64 m, i64 n, i64 k) {
  return k >= 4 * kTerms && m * n <= 256 ? (k + kTerms - 1) / kTerms : 0;
}

// matmul of float32 with precision='bf16': the active level's kernel, with AVX512-BF16 if the CPU
// has it.
extern "C" void fnn_matmul_bf16(const void* args, const Team* team);
