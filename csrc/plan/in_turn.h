// Pieces of work that a team does one after the other, all threads on each; those as cheap as a
// barrier run on one thread.
#pragma once
#include <string.h>

#include <chrono>

#include "../core/contract.h"

namespace fnn {

constexpr double kSolo = 2000;  // nanoseconds

inline void run_call(const Call& call, char* scratch, const Team& team) {
  Slot slots[kMaxSlots];
  memcpy(slots, call.slots, static_cast<size_t>(call.op->slots) * sizeof(Slot));
  if (call.op->scratch_slot >= 0) slots[call.op->scratch_slot].p = scratch;
  kernel(call.op->id, call.f64)(slots, &team);
}

// Seconds since it was last asked.
struct Stopwatch {
  std::chrono::steady_clock::time_point last = std::chrono::steady_clock::now();
  double lap() {
    auto before = last;
    last = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(last - before).count();
  }
};

// run(i, team) for i of 0..count-1, with a barrier between; cost(i) in nanoseconds on one thread.
// Adds each one's seconds to `seconds`, unless that is null.
template <class Cost, class Run>
void run_in_turn(size_t count, const Team& team, Cost&& cost, Run&& run,
                 double* seconds = nullptr) {
  const Team alone{0, 1, nullptr};
  const bool timed = seconds && team.rank == 0;
  Stopwatch watch;
  for (size_t i = 0; i < count;) {
    size_t end = i;
    while (end < count && (team.size == 1 || cost(end) < kSolo)) {
      if (team.rank == 0) run(end, alone);
      if (timed) seconds[end] += watch.lap();
      end++;
    }
    if (end == i) {
      run(end, team);
      end++;
    }
    barrier(team);
    if (timed) seconds[end - 1] += watch.lap();
    i = end;
  }
}

}  // namespace fnn
