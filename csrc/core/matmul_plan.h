// How a matrix product is cut at every ISA level: what the kernel and the size of its workspace
// must agree on. Each thread owns one slot of the workspace: a packed block of the left factor, a
// packed panel of the right factor, and the result where that is computed transposed.
#pragma once
#include "ops.h"

enum : i64 {
  kTerms = 256,       // terms of one FMA chain; an element is the sum of its chains, in order
  kLeftRows = 512,    // rows of a packed left block of float: half of a usual L2
  kPanelVecs = 4,     // 64-byte vectors across a packed panel
  kResultVecs = 16,   // and across the part of a transposed result that is collected at once
};

struct MatmulSlot {
  i64 left, panel, result;  // bytes of each part, multiples of 64
  i64 bytes() const { return left + panel + result; }
};

static inline MatmulSlot matmul_slot(i64 m, i64 n, i64 k, i64 itemsize) {
  const i64 lanes = 64 / itemsize, longest = m > n ? m : n, most_rows = 4 * kLeftRows / itemsize;
  const i64 terms = k < kTerms ? k : kTerms, rows = longest < most_rows ? longest : most_rows;
  const i64 shortest = n < lanes ? n : lanes;
  return {(rows * ((terms + lanes - 1) / lanes + 1) + 1) * 64, terms * kPanelVecs * 64,
          shortest * kResultVecs * 64};
}
