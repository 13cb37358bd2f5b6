// A training step as a list of (kernel, arguments), recorded once and replayed without Python,
// without allocation and without leaving the team of threads between kernels.
#pragma once
#include <memory>
#include <vector>

#include "fuse.h"

namespace fnn {

// Runs calls now, on as many threads as pay, with a workspace kept for the next time.
void run_now(Call* calls, size_t count);

struct FreeDeleter {
  void operator()(char* p) const;
};
typedef std::unique_ptr<char, FreeDeleter> Buffer;
Buffer allocate(size_t bytes);  // 64-byte aligned; throws std::bad_alloc

// Memory of plans that never run at the same time: blocks given back while recording are used again
// by later results and by other plans, so that a plan takes what the same calls would take at their
// peak if run one by one, and several take little more than the largest.
class Arena {
 public:
  char* take(size_t bytes);
  void give_back(char* block);
  bool holds(const void* p) const { return block_of(p).begin; }
  struct Extent {
    const char* begin;  // null: none of the arena
    size_t size;
  };
  Extent block_of(const void* p) const;
  char* scratch(i64 bytes);  // one workspace for all; moves when it grows
  size_t bytes() const;

 private:
  struct Block {
    Buffer memory;
    size_t size;
    bool free;
  };
  std::vector<Block> blocks_;
  Buffer scratch_;
  i64 scratch_size_ = -1;
};

// Where a recorded call's argument lies in the memory of one of the plan's inputs: replaying on
// other memory means writing another pointer there.
struct Patch {
  size_t call;
  int slot;
  i64 offset;
};

struct Input {
  char* data;  // the placeholder in the arena
  i64 rows, row_bytes;
  std::vector<Patch> patches;
};

// One number of every step, copied to the caller's array: loss, gradient norm, correct count.
struct Record {
  const void* from;
  char* to;
  size_t size;
};

// Memory that the calls before the commit change besides their results: running statistics.
struct Kept {
  char* data;
  size_t size;
  Buffer before;
};

// Numbers that change from step to step; the kernels read them through pointers.
struct Clock {
  i64 updates = 0;  // done; the counter of dropout's random bits, too
  double step = 1;  // number of the update at hand: updates + 1
  double lr = 0;

  void set(i64 n) {
    updates = n;
    step = static_cast<double>(n + 1);
  }
};

struct Source {
  const char* data;
  bool gather;  // copy rows in shuffled order; else use the rows where they lie
};

struct Steps {
  const Source* sources;  // one per input
  i64 rows;               // rows that the sources hold
  i64 first_row, count;   // first row in the order of this run, number of steps
  bool wrap;              // start over at the end of the sources (not shuffled)
  bool shuffle;
  u64 seed, epoch;   // of the permutation
  const double* lr;  // one per step
  Clock* clock;      // advanced with each update; may be null
  std::vector<Record> records;
  bool update;            // false: stop each step before the commit and put back what is kept
  const i64* guard;       // unless null: >= 0 before the commit ends the run, the step undone
  bool (*interrupted)();  // asked between steps, now and then; true ends the run
  double* seconds;        // unless null: one sum per stage, added to
};

class Plan {
 public:
  const std::shared_ptr<Arena> arena;
  std::vector<Call> calls;
  std::vector<Input> inputs;
  std::vector<Kept> kept;
  size_t commit = 0;  // calls from here on change the model

  explicit Plan(std::shared_ptr<Arena> memory) : arena(std::move(memory)) {}
  void add(const OpInfo& op, bool f64, const Slot* slots);
  void keep(char* data, size_t size);
  void finish();  // finds the patches; call once, after recording

  // What a step does; one with an update may fuse calls.
  const std::vector<Stage>& stages(bool update) const {
    return update && !fused_.empty() ? fused_ : separate_;
  }

  // Number of steps done: fewer than asked for if interrupted, or stopped by the guard.
  i64 run(const Steps& steps);

 private:
  std::vector<Stage> separate_, fused_;
  size_t body_ = 0;  // of separate_: stages before the commit
  Buffer norms_;
  char* scratch_ = nullptr;
  std::vector<i64> order_;  // rows of the batch at hand
  void bind(const Input& input, const char* data);
  int reserve(const std::vector<Stage>& stages, double least_cost);  // number of threads
  void remember_kept();
  void put_back_kept();
};

}  // namespace fnn
