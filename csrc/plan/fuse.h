// A step as stages: its calls, some of them fused. A product does the rescale of its left factor,
// the gradient of its result's activation and the column_sum of its right factor on the way. And a
// weight's gradient is fused with the optimizer: the product computes some rows of it into a buffer
// that stays in cache, the optimizer updates the weight by them, and the gradient never reaches
// memory. Every element gets the bits that the calls give one after the other.
#pragma once
#include <string.h>

#include <vector>

#include "../core/contract.h"

namespace fnn {

struct Stage {
  enum Work {
    call,        // a recorded call
    part,        // a call over all gradients, on elements begin..begin + count alone
    product,     // rows of a gradient and the update by them, in turn
    total_norm,  // of the gradient, from the norms that the stages before have left
    blocks,      // members, on a block of rows after the other: blocks.h
  };
  static constexpr size_t kNone = ~size_t{0};

  Work work = call;
  size_t at = 0;           // the call
  size_t update = kNone;   // product: the optimizer's call
  size_t rescale = kNone;  // calls that a matmul does as well
  size_t gate = kNone;     // relu_backward, or another gradient from an output
  size_t sum = kNone;      // column_sum
  bool alone() const { return rescale == kNone && gate == kNone && sum == kNone; }
  i64 begin = 0;  // part, product: first element; member: first of its sums
  i64 count = 0;  // part: elements; product, blocks: rows at a time; member: elements of its sums
  i64 rows = 0;   // blocks: in all
  i64 norm = -1;  // where norms of parts go or come from, unless nobody asks
  std::vector<Stage> members = {};
};

template <class Args> Args arguments(const Call& call) {
  Args args;
  memcpy(&args, call.slots, sizeof args);
  return args;
}

// The call at which a stage is, with what it does besides.
Call whole_call(const Stage& stage, const std::vector<Call>& calls);

// Elements begin..begin + count of a call's arrays; the gradient from `grad`, unless null.
Call part_of(const Call& whole, i64 begin, i64 count, const void* grad);

// The stages of all calls, of which the ones from `commit` on change the model.
std::vector<Stage> stages_of(const std::vector<Call>& calls, size_t commit);

// Likewise with weights updated as soon as a part of their gradient is known; none if there is
// nothing to fuse so: no large gradient of a small batch that only the optimizer reads.
std::vector<Stage> fused_stages(const std::vector<Call>& calls, size_t commit);

i64 norms(const std::vector<Stage>& stages);  // that the stages leave, numbers of the calls' type
std::string describe(const Stage& stage, const std::vector<Call>& calls);

// What a stage has to do: operations of its products, bytes that it reads and writes. What fused
// calls hand on to each other counts as no bytes.
struct Work {
  std::string name;  // with its shape
  i64 flops, bytes;
};
Work work(const Stage& stage, const std::vector<Call>& calls);

double cost(const Stage& stage, const std::vector<Call>& calls);
i64 scratch_bytes(const Stage& stage, const std::vector<Call>& calls, int threads);
void run_stage(const Stage& stage, const std::vector<Call>& calls, char* scratch, char* norms,
               const Team& team);

}  // namespace fnn
