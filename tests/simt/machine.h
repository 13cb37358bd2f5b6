// The emulated GPU: what a thread, a warp, a warpgroup and a block are made of, and what the parts
// of the emulator call of each other. Kernels see builtins.h and wrappers.h.
//
// Three builds of the same kernels, chosen by a macro:
//   (neither)  plain: wrong results, deadlocks, divergent barriers and warp operations
//   EMU_ASAN   address and undefined-behaviour sanitizers; a __shared__ array is a static one,
//              around which AddressSanitizer puts redzones
//   EMU_RACE   races, uninitialised reads and asynchronous copies: kernels are compiled with
//              -fsanitize=thread, whose calls at each load and store come to hooks.cpp. A
//              __shared__ array is thread_local, so that its address tells what it is
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <source_location>
#include <unordered_map>
#include <vector>

#include "fiber.h"

namespace emu {

using Location = std::source_location;
struct Thread;
struct Block;

struct Index {
  uint32_t x = 0, y = 0, z = 0;
};

// What is known of other threads' progress: thread (or block) -> clock. Carried by whatever
// synchronises: barriers, mbarriers, atomics.
using Clocks = std::unordered_map<uint32_t, uint32_t>;

// ---- asynchronous work ---------------------------------------------------------------------

struct PendingCopy {  // cp.async
  char* dst;
  const char* src;
  uint32_t bytes, src_bytes;
  Location where;
};

struct TensorMap {  // what the emulator keeps in a CUtensorMap
  uint64_t magic;
  char* base;
  uint64_t width, height, pitch;
  uint32_t box_width, box_height, item;
  int swizzle;
};

struct PendingStore {  // TMA store; `data` is taken from shared memory when the read has completed
  TensorMap map;
  char* src;
  int x, y;
  Location where;
  std::vector<char> data;
};

struct MBarrier {
  uint32_t expected = 0;
  int64_t pending = 0, bytes = 0;
  uint32_t phase = 0;
  Clocks clocks;
  std::vector<Thread*> waiting;
};

struct PendingLoad {  // TMA load
  TensorMap map;
  char* dst;
  int x, y;
  Block* block;
  MBarrier* barrier;
  Thread* issuer;
  Location where;
};

enum class Factors { bf16, fp16, tf32 };

struct Wgmma {
  uint64_t a, b;  // descriptors
  int n;
  Factors factors;
  bool accumulate, transpose_a, transpose_b;
  float* registers[128];  // accumulators of each thread of the warpgroup
  Location where;
};

// ---- threads, warpgroups, blocks -----------------------------------------------------------

enum class State : uint8_t { ready, running, blocked, done };

struct Thread : Fiber {
  Index index;
  uint32_t rank = 0, lane = 0, warp = 0;
  Block* block = nullptr;

  State state = State::done;
  const char* waits_for = "";
  Location where;

  std::vector<PendingCopy> open_copies;  // cp.async of the group not yet committed
  std::deque<std::vector<PendingCopy>> copy_groups;
  std::vector<PendingStore> open_stores;
  std::deque<std::vector<PendingStore>> store_groups;
  bool wgmma_fenced = false;

  // Race detector: its own clock, the clocks of its last fences, and what it knows of the other
  // threads of its block (valid while known_since is the block's last full barrier).
  uint32_t clock = 0, fence_clock = 0, proxy_fence_clock = 0, known_since = 0;
  bool knows_other_warps = false;
  std::vector<uint32_t> known, known_at_fence;
};

// Threads that wait for the rest of their mask in one warp (or warpgroup) operation.
struct Collective {
  uint64_t mask[2] = {}, arrived[2] = {};
  const char* name = nullptr;
  Location where;
  void* argument[128];
};

struct Warpgroup {
  std::vector<Collective*> collectives;
  std::vector<Wgmma> open;
  std::deque<std::vector<Wgmma>> groups;
  std::map<float*, std::vector<float>> in_flight;  // accumulators, by thread 0's registers
};

struct Barrier {
  uint32_t arrived = 0, expected = 0;
  Location where;
  std::vector<Thread*> waiting;
  Clocks clocks;
};

struct Block {
  Index index;
  uint32_t rank = 0, serial = 0, size = 0, alive = 0;
  std::vector<Thread> threads;
  std::vector<std::vector<Collective*>> warps;
  std::vector<uint32_t> exited;  // lanes of each warp
  std::vector<Warpgroup> warpgroups;
  std::vector<Collective*> spare;
  Barrier barriers[16];
  std::unordered_map<uintptr_t, MBarrier> mbarriers;
  char* dynamic = nullptr;  // dynamic shared memory
  size_t dynamic_bytes = 0;

  uint32_t last_barrier = 0;  // clock of the last full barrier
  Clocks known_threads, known_blocks;

  Block() = default;
  Block(const Block&) = delete;
  ~Block();
};

extern Thread* current;
extern Index grid_size, block_size;
extern bool in_kernel;

// ---- scheduler.cpp -------------------------------------------------------------------------

[[noreturn]] void fail(const char* kind, Location where, const char* format, ...)
    __attribute__((format(printf, 3, 4)));
void make_ready(Thread* thread);
void block_on(const char* what, Location where);
void yield();
void maybe_yield();  // in random schedules
void count_spin();   // an atomic operation: other threads must get their turn
uint64_t random_bits();
uint64_t preempt_every();  // one memory access in so many is followed by a switch; 0: none
void suppress_preemption(bool on);
std::vector<Block*>& live_blocks();
Barrier& grid_barrier_state();
bool is_cooperative();
std::vector<PendingLoad>& pending_loads();

struct Launch {
  Index grid, block;
  size_t shared_bytes;
  bool cooperative;
  void (*body)(void*);
  void* context;
  std::shared_ptr<void> (*copy)(const void* context);  // for a graph
};
const char* launch(const Launch& launch);  // null, or what is wrong with it
extern int launches;                       // so far

// ---- collectives.cpp -----------------------------------------------------------------------

void barrier(uint32_t id, uint32_t threads, Location where, bool arrive_only = false);
void grid_barrier(Location where);
// All lanes of `mask` meet; the last one runs `action` on their arguments (null for other lanes).
void warp_collective(uint32_t mask, const char* name, void* argument, void (*action)(void**),
                     Location where);
void warpgroup_collective(const char* name, void* argument, void (*action)(void**), Location where);
void syncwarp(uint32_t mask, Location where);
void fence();

// ---- async_copy.cpp, tensor_copy.cpp -------------------------------------------------------

void check_exit(Thread& thread);     // nothing asynchronous left behind
void finish_stores(Thread& thread);  // TMA stores whose reads were waited for
void complete(PendingLoad load);
MBarrier& find_mbarrier(uint64_t* bar, Location where);
void settle(MBarrier& m, Location where);  // ends the phase if everything has arrived
uint32_t shared_address(const void* p);    // in the block's window of dynamic shared memory
char* shared_pointer(uint32_t address);
uint32_t swizzled(uint32_t address, int mode);  // mode as CU_TENSOR_MAP_SWIZZLE_*
void check_bounds(const char* what, const void* p, size_t bytes, Location where);

// ---- graph.cpp ------------------------------------------------------------------------------

// Whether work is recorded into a graph instead of done.
bool is_capturing();
extern bool captured_by_another;  // as when a stream of the caller's is captured
extern void* awaited_stream;      // by the last cudaStreamWaitEvent
void record(std::function<void()> work);

// ---- runtime.cpp ---------------------------------------------------------------------------

struct Range {
  char* begin;
  size_t bytes;
};
Range static_shared();  // all static __shared__ variables of the program; empty with EMU_ASAN
Range global_arena();   // all device memory; empty without EMU_RACE

}  // namespace emu
