// Which fiber runs next, launches, and what is printed when something is wrong.
//
// Blocks run one after the other (all at once in a cooperative launch), threads in the order of
// EMU_SCHED: fwd, rev or rand with EMU_SEED; the same environment gives the same run.
// EMU_PREEMPT=n also switches after one in n memory accesses (race build).
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "race.h"

namespace emu {

Thread* current = nullptr;
Index grid_size, block_size;
bool in_kernel = false;

namespace {

enum class Order { forward, reverse, random };

struct Options {
  Order order = Order::forward;
  uint64_t seed = 1, preempt = 0;
  Options() {
    if (const char* s = getenv("EMU_SCHED")) {
      order = !strcmp(s, "rand") ? Order::random : !strcmp(s, "rev") ? Order::reverse : order;
    }
    if (const char* s = getenv("EMU_SEED")) seed = strtoull(s, nullptr, 10);
    if (const char* s = getenv("EMU_PREEMPT")) preempt = strtoull(s, nullptr, 10);
  }
};
const Options options;
uint64_t random_state = options.seed * 0x9E3779B97F4A7C15 | 1;
bool preemption = true;

constexpr uint64_t kMaxSpins = 50'000'000;
constexpr size_t kDynamicReserve = 256 << 10, kMaxDynamic = 227 << 10;

std::deque<Thread*> ready;
std::vector<PendingLoad> loads;
std::vector<Block*> live;
Barrier grid_state;
const Launch* now = nullptr;
size_t unfinished = 0;  // threads
uint64_t spins = 0;     // atomics since a thread last blocked or finished

bool is_random() { return options.order == Order::random; }

void complete_load(size_t i) {
  PendingLoad load = loads[i];
  loads.erase(loads.begin() + long(i));
  complete(load);
}

// The next thread. Loads by the copy engine complete at a random moment, or when nothing else can
// run: as late as possible.
Thread* next_thread() {
  for (;;) {
    const bool at_random = is_random() && random_bits() % 64 == 0;
    if (!loads.empty() && (ready.empty() || at_random)) {
      complete_load(is_random() ? random_bits() % loads.size() : 0);
      continue;
    }
    if (ready.empty()) return nullptr;
    if (is_random()) std::swap(ready.front(), ready[random_bits() % ready.size()]);
    Thread* thread = ready.front();
    ready.pop_front();
    return thread;
  }
}

void run(Thread* from, Thread* to, bool dying = false) {
  current = to;
  if (to) to->state = State::running;
  switch_fiber(from, to, dying);
}

void suspend() {
  Thread* me = current;
  Thread* next = next_thread();
  if (next == me)
    me->state = State::running;
  else
    run(me, next);
}

void thread_main() {
  fiber_entered();
  now->body(now->context);
  Thread& me = *current;
  check_exit(me);
  me.state = State::done;
  me.block->exited[me.warp] |= 1u << me.lane;
  me.block->alive--;
  unfinished--;
  spins = 0;
  run(&me, next_thread(), true);
  abort();
}

// ---- blocks --------------------------------------------------------------------------------

// All shared memory starts as NaN.
void allocate_dynamic(Block& b, size_t bytes) {
#if EMU_ASAN
  free(b.dynamic);
  b.dynamic = nullptr;
  void* p = nullptr;
  if (bytes && posix_memalign(&p, 1024, bytes)) abort();
  b.dynamic = static_cast<char*>(p);
#else
  if (!b.dynamic) {
    b.dynamic = static_cast<char*>(
        mmap(nullptr, kDynamicReserve, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  }
#endif
  b.dynamic_bytes = bytes;
  if (bytes) memset(b.dynamic, 0xFF, bytes);
}

Index position(uint32_t rank, Index size) {
  return {rank % size.x, rank / size.x % size.y, rank / size.x / size.y};
}

void set_up(Thread& t, uint32_t rank, Block& b, size_t fiber) {
  t.rank = rank;
  t.lane = rank & 31;
  t.warp = rank >> 5;
  t.index = position(rank, block_size);
  t.block = &b;
  t.wgmma_fenced = false;
  t.clock = t.fence_clock = t.proxy_fence_clock = t.known_since = 0;
  t.knows_other_warps = false;
  t.known.clear();
  t.known_at_fence.clear();
  make_fiber(t, fiber, thread_main);
}

void set_up(Block& b, uint32_t rank, size_t first_fiber) {
  static uint32_t serial = 0;
  b.serial = ++serial;
  b.rank = rank;
  b.index = position(rank, grid_size);
  b.size = b.alive = block_size.x * block_size.y * block_size.z;
  b.threads.resize(b.size);
  b.warps.assign((b.size + 31) / 32, {});
  b.exited.assign(b.warps.size(), 0);
  b.warpgroups.assign((b.size + 127) / 128, {});
  b.mbarriers.clear();
  b.known_blocks.clear();
  b.known_threads.clear();
  for (Barrier& barrier : b.barriers) barrier = {};
  allocate_dynamic(b, now->shared_bytes);
  for (uint32_t i = 0; i < b.size; i++) set_up(b.threads[i], i, b, first_fiber + i);
  race::begin_block(b);
}

void start(Block& b) {
  live.push_back(&b);
  unfinished += b.size;
  for (uint32_t i = 0; i < b.size; i++) {
    make_ready(&b.threads[options.order == Order::reverse ? b.size - 1 - i : i]);
  }
}

void run_live_blocks() {
  if (Thread* first = next_thread()) run(nullptr, first);
  while (!loads.empty()) complete_load(0);
  if (unfinished) {
    fail("deadlock", Location::current(), "no thread can run, %zu threads are blocked", unfinished);
  }
  live.clear();
}

void poison_static_shared() {
  const Range shared = static_shared();
  if (shared.begin) memset(shared.begin, 0xFF, shared.bytes);
}

std::vector<uint32_t> block_order(size_t blocks) {
  std::vector<uint32_t> order(blocks);
  for (size_t i = 0; i < blocks; i++) order[i] = uint32_t(i);
  if (options.order == Order::reverse) std::reverse(order.begin(), order.end());
  if (is_random()) {
    for (size_t i = blocks; i > 1; i--) std::swap(order[i - 1], order[random_bits() % i]);
  }
  return order;
}

void run_together(const std::vector<uint32_t>& order, size_t threads) {
  std::vector<Block> blocks(order.size());
  poison_static_shared();
  for (size_t i = 0; i < blocks.size(); i++) {
    set_up(blocks[i], order[i], i * threads);
    start(blocks[i]);
  }
  run_live_blocks();
}

void run_in_turn(const std::vector<uint32_t>& order) {
  Block block;
  for (uint32_t rank : order) {
    poison_static_shared();
    set_up(block, rank, 0);
    start(block);
    run_live_blocks();
  }
}

void print_blocked() {
  struct Group {
    int count = 0;
    std::string some;
  };
  std::map<std::string, Group> groups;
  for (Block* b : live) {
    for (Thread& t : b->threads) {
      std::string doing = t.state == State::done      ? "exited"
                          : t.state == State::ready   ? "ready"
                          : t.state == State::running ? "running"
                                                      : "";
      if (t.state == State::blocked) {
        doing = std::string("waiting at ") + t.waits_for + ", " + t.where.file_name() + ":" +
                std::to_string(t.where.line());
      }
      Group& group = groups[doing];
      if (group.count++ < 4) {
        group.some += " b" + std::to_string(b->rank) + " t" + std::to_string(t.rank);
      }
    }
  }
  for (auto& [doing, group] : groups) {
    fprintf(stderr, "    %5d threads %s (%s%s )\n", group.count, doing.c_str(), group.some.c_str(),
            group.count > 4 ? " .." : "");
  }
}

}  // namespace

Block::~Block() {
  for (Collective* c : spare) delete c;
#if EMU_ASAN
  free(dynamic);
#else
  if (dynamic) munmap(dynamic, kDynamicReserve);
#endif
}

void fail(const char* kind, Location where, const char* format, ...) {
  fprintf(stderr, "EMU ERROR: %s at %s:%u\n    ", kind, where.file_name(), where.line());
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\n");
  if (current) {
    const Index b = current->block->index, t = current->index;
    fprintf(stderr, "    in block (%u,%u,%u) thread (%u,%u,%u)\n", b.x, b.y, b.z, t.x, t.y, t.z);
  }
  print_blocked();
  fflush(nullptr);
  _exit(66);
}

uint64_t random_bits() {
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

void make_ready(Thread* thread) {
  thread->state = State::ready;
  ready.push_back(thread);
}

void block_on(const char* what, Location where) {
  current->state = State::blocked;
  current->waits_for = what;
  current->where = where;
  spins = 0;
  suspend();
}

void yield() {
  if (!current) return;
  make_ready(current);
  suspend();
}

void maybe_yield() {
  if (is_random()) yield();
}

void count_spin() {
  if (!current) return;
  if (++spins > kMaxSpins) {
    fail("livelock", Location::current(), "50M atomics without a thread that blocks or finishes");
  }
  if (is_random() || spins % 16 == 0) yield();
}

uint64_t preempt_every() { return preemption ? options.preempt : 0; }
void suppress_preemption(bool on) { preemption = !on; }
std::vector<Block*>& live_blocks() { return live; }
Barrier& grid_barrier_state() { return grid_state; }
bool is_cooperative() { return now->cooperative; }
std::vector<PendingLoad>& pending_loads() { return loads; }

const char* launch(const Launch& launch) {
  const auto [gx, gy, gz] = launch.grid;
  const auto [bx, by, bz] = launch.block;
  const size_t threads = size_t(bx) * by * bz, blocks = size_t(gx) * gy * gz;
  if (!threads || threads > 1024 || bz > 64) return "block of 0 or more than 1024 threads";
  if (!blocks || gx >= 1u << 31 || gy > 65535 || gz > 65535) return "grid of 0 or too many blocks";
  if (launch.shared_bytes > kMaxDynamic) return "more than 227 KB of dynamic shared memory";
  if (launch.cooperative && threads * blocks > kMaxFibers) return "cooperative grid too large";
  now = &launch;
  grid_size = launch.grid;
  block_size = launch.block;
  grid_state = {};
  race::begin_launch();
  in_kernel = true;
  const std::vector<uint32_t> order = block_order(blocks);
  if (launch.cooperative)
    run_together(order, threads);
  else
    run_in_turn(order);
  in_kernel = false;
  current = nullptr;
  return nullptr;
}

}  // namespace emu
