// Consecutive stages of a small network over many samples, run block of rows by block of rows: a
// thread takes a block through all of them, so that what they hand on stays in its caches, and the
// threads meet once instead of after each. A block has the rows of one chain of a weight's gradient
// or a bias's; each block leaves its part of these sums, which are added in order at the end. So
// every element gets the bits that the stages give one after the other.
#pragma once
#include "fuse.h"

namespace fnn {

// The stages with those grouped that gain by it.
std::vector<Stage> grouped(std::vector<Stage> stages, const std::vector<Call>& calls);

i64 blocks_scratch_bytes(const Stage& stage, const std::vector<Call>& calls, int threads);
void run_blocks(const Stage& stage, const std::vector<Call>& calls, char* scratch,
                const Team& team);

}  // namespace fnn
