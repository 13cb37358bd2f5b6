// Races, uninitialised reads, accesses out of bounds, and asynchronous copies used too early.
//
// Every 4 bytes of device and shared memory have a Cell with the last accesses to them, each with
// the clock of its thread (clocks are ticks of one global counter). An access races with a recorded
// one unless the thread knows the other's clock, through a barrier, __syncwarp (not shuffles: they
// do not order memory), an mbarrier, a fence and an atomic, or a launch.
#include "race.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>

extern "C" char __executable_start;

namespace emu::race {
namespace {

// Ranks in `who` of what writes and reads a block's shared memory besides its threads.
constexpr uint32_t kCopyEngine = 2047, kAsyncReader = 2046;  // TMA loads; wgmma and TMA stores

struct Access {
  uint32_t who = 0, clock = 0;  // block serial << 11 | rank
  const void* pc = nullptr;     // of the kernel's code, or null:
  Location where;               // of the emulated operation
  uint8_t bytes = 0;            // of the 4, as a mask
  bool atomic = false, used = false;
};

struct Cell {
  Access writes[2], reads[3], atomic;
  uint8_t live = 0, initialised = 0, being_written = 0, being_read = 0;  // masks of bytes
  const Access* in_flight = nullptr;
  uint32_t block = 0;  // whose shared memory this was: another block finds it fresh
};

struct Spot {
  Cell* cell;  // null: no such memory in that space
  const char* space;
  size_t offset;
};

uint32_t tick = 1, launch_start = 0, last_grid_barrier = 0;
std::vector<Cell> static_cells;
std::unordered_map<Block*, std::vector<Cell>> dynamic_cells;
std::deque<Access> flights;

Cell* global_cells() {
  static Cell* cells = [] {
    void* p = mmap(nullptr, global_arena().bytes / 4 * sizeof(Cell), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      perror("race detector");
      abort();
    }
    return static_cast<Cell*>(p);
  }();
  return cells;
}

Cell* shared_cell(std::vector<Cell>& cells, size_t offset, size_t bytes, const Block& b) {
  if (offset / 4 >= cells.size()) return nullptr;
  Cell& cell = cells[offset / 4];
  if (cell.block != b.serial) {
    const size_t left = bytes - offset / 4 * 4;
    cell = Cell();
    cell.block = b.serial;
    cell.live = left >= 4 ? 15 : uint8_t((1u << left) - 1);
  }
  return &cell;
}

Spot find(Block& b, const char* p) {
  const size_t dynamic = size_t(p - b.dynamic);
  if (b.dynamic && dynamic < 256u << 10) {
    return {shared_cell(dynamic_cells[&b], dynamic, b.dynamic_bytes, b), "dynamic shared", dynamic};
  }
  const Range fixed = static_shared(), arena = global_arena();
  const size_t offset = size_t(p - fixed.begin), device = size_t(p - arena.begin);
  if (offset < fixed.bytes) {
    return {shared_cell(static_cells, offset, fixed.bytes, b), "static shared", offset};
  }
  if (device < arena.bytes) return {&global_cells()[device / 4], "global", device};
  return {nullptr, nullptr, 0};
}

// ---- who knows what ------------------------------------------------------------------------

uint32_t id(const Thread* t) { return t->block->serial << 11 | t->rank; }
uint32_t rank_of(const Access& a) { return a.who & 2047; }
bool same_block(const Thread* t, const Access& a) { return a.who >> 11 == t->block->serial; }

// They come after the threads.
uint32_t known_index(const Block& b, uint32_t rank) {
  return rank == kCopyEngine ? b.size : rank == kAsyncReader ? b.size + 1 : rank;
}

std::vector<uint32_t>& known(Thread* t) {
  if (t->known_since != t->block->last_barrier || t->known.empty()) {
    t->known.assign(t->block->size + 2, 0);
    t->known_since = t->block->last_barrier;
    t->knows_other_warps = false;
  }
  return t->known;
}

bool ordered(const Thread* t, const Access& a) {
  if (a.who == id(t) || a.clock < launch_start || a.clock < last_grid_barrier) return true;
  const Block& b = *t->block;
  if (same_block(t, a)) {
    if (a.clock < b.last_barrier) return true;
    const uint32_t i = known_index(b, rank_of(a));
    return t->known_since == b.last_barrier && i < t->known.size() && t->known[i] >= a.clock;
  }
  const auto block = b.known_blocks.find(a.who >> 11);
  if (block != b.known_blocks.end() && a.clock < block->second) return true;
  const auto thread = b.known_threads.find(a.who);
  return thread != b.known_threads.end() && a.clock <= thread->second;
}

void raise(Clocks& clocks, uint32_t who, uint32_t clock) {
  uint32_t& c = clocks[who];
  c = std::max(c, clock);
}
void raise(Clocks& clocks, const Clocks& by) {
  for (auto [who, clock] : by) raise(clocks, who, clock);
}

// ---- reports -------------------------------------------------------------------------------

std::string source_line(const void* pc, Location where) {
  if (!pc) return std::string(where.file_name()) + ":" + std::to_string(where.line());
  char command[256], line[512] = "?";
  snprintf(command, sizeof command, "addr2line -e /proc/%d/exe -i 0x%zx 2>/dev/null | head -1",
           getpid(), size_t(static_cast<const char*>(pc) - &__executable_start) - 1);
  if (FILE* f = popen(command, "r")) {
    if (!fgets(line, sizeof line, f)) line[0] = 0;
    pclose(f);
  }
  return std::string(line, strcspn(line, " \n"));  // the name of the file has no spaces
}

struct Request {  // one access, and how to speak of it
  Thread* thread;
  const char* p;
  size_t bytes;
  bool write;
  Kind kind;
  const void* pc;
  Location where;
};

[[noreturn]] void report(const char* error, const Request& q, const Spot& spot, const Access* other,
                         const char* note) {
  const Thread* t = q.thread;
  fprintf(stderr, "EMU ERROR: %s: %zu-byte %s of %s memory +%zu\n", error, q.bytes,
          q.write ? "write" : "read", spot.space, spot.offset);
  fprintf(stderr, "    by block %u thread %u (warp %u) at %s\n", t->block->rank, t->rank, t->warp,
          source_line(q.pc, q.where).c_str());
  if (other) {
    const uint32_t rank = rank_of(*other);
    const std::string thread = rank == kCopyEngine    ? "a TMA load"
                               : rank == kAsyncReader ? "a wgmma or TMA store"
                                                      : "thread " + std::to_string(rank);
    fprintf(stderr, "    against %s by %s%s at %s\n", note,
            same_block(t, *other) ? "" : "another block's ", thread.c_str(),
            source_line(other->pc, other->where).c_str());
  } else if (note) {
    fprintf(stderr, "    %s\n", note);
  }
  fflush(nullptr);
  _exit(66);
}

// ---- one access ----------------------------------------------------------------------------

bool clashes(const Access& a, uint8_t bytes, const Request& q) {
  return a.used && (a.bytes & bytes) && !ordered(q.thread, a);
}

void check_state(const Request& q, const Spot& spot, uint8_t bytes) {
  const Cell* c = spot.cell;
  if (!c || (c->live & bytes) != bytes) {
    report("out-of-bounds access", q, spot, nullptr, "outside every live allocation");
  }
  if (c->being_written & bytes) {
    report("race with asynchronous copy", q, spot, c->in_flight,
           "a copy into this location that has not been waited for, issued");
  }
  if (q.write && (c->being_read & bytes)) {
    report("race with asynchronous read", q, spot, c->in_flight,
           "a wgmma or TMA store still reading this location, issued");
  }
  if ((!q.write || q.kind == atomic_access) && (c->initialised & bytes) != bytes) {
    report("uninitialised read", q, spot, nullptr, "never written (by this block, if shared)");
  }
}

void check_races(const Request& q, const Spot& spot, uint8_t bytes) {
  const Cell& c = *spot.cell;
  const bool atomic = q.kind == atomic_access;
  if (!atomic && clashes(c.atomic, bytes, q)) {
    report("data race (with an atomic)", q, spot, &c.atomic, "an unordered atomic access");
  }
  for (const Access& w : c.writes) {
    if (!clashes(w, bytes, q)) continue;
    report(q.write ? "data race (write after write)" : "data race (read after write)", q, spot, &w,
           "an unordered write");
  }
  for (const Access& r : c.reads) {
    if (!q.write || !clashes(r, bytes, q)) continue;
    report("data race (write after read)", q, spot, &r, "an unordered read");
  }
}

// Ordinary writes become visible to TMA and wgmma by fence.proxy.async alone.
void check_proxy(const Request& q, const Spot& spot, uint8_t bytes) {
  const Block& b = *q.thread->block;
  for (const Access& w : spot.cell->writes) {
    if (!w.used || !(w.bytes & bytes) || w.atomic || !same_block(q.thread, w)) continue;
    if (rank_of(w) >= b.size || b.threads[rank_of(w)].proxy_fence_clock > w.clock) continue;
    report("missing fence.proxy.async", q, spot, &w, "a write not followed by a proxy fence,");
  }
}

// Which record to give up: a free one or the thread's own, one that is ordered before, one of the
// same warp, any.
Access& choose_slot(Access* slots, int count, const Request& q, uint8_t bytes) {
  const uint32_t me = id(q.thread);
  auto covered = [&](const Access& a) { return (a.bytes & ~bytes) == 0; };
  for (int i = 0; i < count; i++) {
    if (!slots[i].used || (slots[i].who == me && covered(slots[i]))) return slots[i];
  }
  for (int i = 0; i < count; i++) {
    if (covered(slots[i]) && ordered(q.thread, slots[i])) return slots[i];
  }
  for (int i = 0; i < count && !q.write; i++) {
    if (slots[i].who >> 5 == me >> 5) return slots[i];
  }
  return slots[random_bits() % uint64_t(count)];
}

void record(const Request& q, Cell& c, uint8_t bytes) {
  const bool atomic = q.kind == atomic_access;
  const Access access{id(q.thread), q.thread->clock, q.pc, q.where, bytes, atomic, true};
  // An atomic has a record of its own: it must not hide an earlier plain write.
  if (atomic)
    c.atomic = access;
  else if (q.write)
    choose_slot(c.writes, 2, q, bytes) = access;
  else
    choose_slot(c.reads, 3, q, bytes) = access;
  if (q.write) c.initialised |= bytes;
}

void check(const Request& q) {
  Block& b = *q.thread->block;
  const Spot first = find(b, q.p);
  if (!first.space) return;  // stacks, constants, the emulator itself
  if (first.space[0] == 's' && is_cooperative() && live_blocks().size() > 1) {
    report("static shared memory in a cooperative launch", q, first, nullptr, "use DYN_SMEM");
  }
  const bool power_of_two = (q.bytes & (q.bytes - 1)) == 0;
  if (q.pc && power_of_two && uintptr_t(q.p) % std::min<size_t>(q.bytes, 16)) {
    report("misaligned access", q, first, nullptr, nullptr);
  }
  for (size_t i = 0; i < q.bytes;) {
    const size_t low = uintptr_t(q.p + i) & 3, count = std::min(4 - low, q.bytes - i);
    const uint8_t bytes = uint8_t(((1u << count) - 1) << low);
    const Spot spot = i ? find(b, q.p + i) : first;
    check_state(q, spot, bytes);
    check_races(q, spot, bytes);
    if (q.kind == async_proxy)
      check_proxy(q, spot, bytes);  // recorded when it completes
    else
      record(q, *spot.cell, bytes);
    i += count;
  }
}

// Clocks that travel with an atomic's location: what fences before it have made visible.
struct Published {
  Clocks blocks, threads;
};

void synchronise_through(const void* p) {
  static std::unordered_map<uintptr_t, Published> locations;
  static uint32_t launch = 0;
  if (launch != launch_start) locations.clear();
  launch = launch_start;
  Published& at = locations[uintptr_t(p)];
  Block& b = *current->block;
  if (current->fence_clock) {
    raise(at.blocks, b.serial, b.last_barrier);
    raise(at.threads, id(current), current->fence_clock - 1);
    const std::vector<uint32_t>& others = current->known_at_fence;
    for (uint32_t k = 0; k < others.size() && k < b.size; k++) {
      if (others[k]) raise(at.threads, b.serial << 11 | k, others[k]);
    }
    raise(at.blocks, b.known_blocks);
    raise(at.threads, b.known_threads);
  }
  raise(b.known_blocks, at.blocks);
  raise(b.known_threads, at.threads);
}

}  // namespace

void access(Thread* thread, const void* p, size_t bytes, bool write, Location where, Kind kind) {
  check({thread, static_cast<const char*>(p), bytes, write, kind, nullptr, where});
}

// An access of the kernel's own code, from hooks.cpp.
void access_at(const void* p, size_t bytes, bool write, bool atomic, const void* pc) {
  if (!current || !in_kernel || on_fiber_stack(p)) return;
  if (atomic) synchronise_through(p);
  check({current, static_cast<const char*>(p), bytes, write, atomic ? atomic_access : plain, pc,
         Location()});
  if (preempt_every() && random_bits() % preempt_every() == 0) yield();
}

// ---- launches, blocks, memory --------------------------------------------------------------

void begin_launch() {
  launch_start = ++tick;
  flights.clear();
}
void begin_block(Block& b) {
  static_cells.resize((static_shared().bytes + 3) / 4);
  dynamic_cells[&b].resize((b.dynamic_bytes + 3) / 4);
  full_barrier(b);
}
void allocated(const void* p, size_t bytes, bool on) {
  launch_start = ++tick;
  const size_t offset = size_t(static_cast<const char*>(p) - global_arena().begin);
  for (size_t i = 0; i < bytes; i++) {
    Cell& c = global_cells()[(offset + i) / 4];
    if (i == 0 || (offset + i) % 4 == 0) c = Cell();
    if (on) c.live |= uint8_t(1u << ((offset + i) & 3));
  }
}
void initialised(const void* p, size_t bytes) {
  const size_t offset = size_t(static_cast<const char*>(p) - global_arena().begin);
  if (offset >= global_arena().bytes) return;
  for (size_t i = offset; i < offset + bytes; i++) {
    global_cells()[i / 4].initialised |= uint8_t(1u << (i & 3));
  }
}

// ---- synchronisation -----------------------------------------------------------------------

void full_barrier(Block& b) {
  b.last_barrier = ++tick;
  for (Thread& t : b.threads) t.clock = tick;
}
void grid_barrier(const std::vector<Block*>& blocks) {
  last_grid_barrier = ++tick;
  for (Block* b : blocks) {
    b->last_barrier = tick;
    for (Thread& t : b->threads) t.clock = tick;
  }
}

void join_lanes(Thread** lanes, int count) {
  bool wide = false;  // whether one of them knows more than its own warp
  for (int i = 0; i < count; i++) {
    known(lanes[i])[lanes[i]->rank] = lanes[i]->clock;
    wide |= lanes[i]->knows_other_warps;
  }
  const uint32_t all = uint32_t(lanes[0]->known.size());
  const uint32_t begin = wide ? 0 : lanes[0]->warp * 32;
  const uint32_t end = wide ? all : std::min(begin + 32, lanes[0]->block->size);
  for (uint32_t k = begin; k < end; k++) {
    uint32_t most = 0;
    for (int i = 0; i < count; i++) most = std::max(most, lanes[i]->known[k]);
    for (int i = 0; i < count; i++) lanes[i]->known[k] = most;
  }
  ++tick;
  for (int i = 0; i < count; i++) {
    lanes[i]->clock = tick;
    lanes[i]->knows_other_warps = wide;
  }
}

void release(Thread* t, Clocks& to) {
  known(t)[t->rank] = t->clock;
  for (uint32_t k = 0; k < t->known.size(); k++) {
    if (t->known[k]) raise(to, k, t->known[k]);
  }
  t->clock = ++tick;
}
void acquire(Thread* t, const Clocks& from) {
  std::vector<uint32_t>& mine = known(t);
  for (auto [k, clock] : from) {
    if (k < mine.size()) mine[k] = std::max(mine[k], clock);
  }
  t->knows_other_warps = true;
}

// What other threads have handed on before, the fence makes visible, too.
void fence(Thread* t) {
  t->known_at_fence = known(t);
  t->clock = t->fence_clock = ++tick;
}

// wgmma completes for the warpgroup as a whole: one thread may hand the operands on. TMA stores
// complete for the thread that issued them.
void async_reads_done(Thread** threads, int count) {
  for (int i = 0; i < count; i++) {
    known(threads[i])[threads[i]->block->size + 1] = tick;
    threads[i]->knows_other_warps = true;
  }
  ++tick;
}

// ---- asynchronous copies -------------------------------------------------------------------

void set_in_flight(const void* p, size_t bytes, bool on, bool reading, Thread* by, Location where) {
  const Access* flight = nullptr;
  if (on)
    flight = &flights.emplace_back(Access{id(by), by->clock, nullptr, where, 15, false, true});
  for (size_t i = 0; i < bytes; i += 4) {
    Cell* c = find(*by->block, static_cast<const char*>(p) + i).cell;
    if (!c) continue;
    (reading ? c->being_read : c->being_written) = on ? 15 : 0;
    c->in_flight = flight;
    if (reading && !on) {
      const uint32_t who = by->block->serial << 11 | kAsyncReader;
      c->reads[random_bits() % 3] = Access{who, tick, nullptr, where, 15, false, true};
    }
  }
}

void async_write_done(Thread* issuer, const void* p, size_t bytes, Clocks& barrier) {
  Block& b = *issuer->block;
  const uint32_t who = b.serial << 11 | kCopyEngine;
  ++tick;
  for (size_t i = 0; i < bytes; i += 4) {
    Cell* c = find(b, static_cast<const char*>(p) + i).cell;
    c->initialised = 15;
    c->writes[0] = Access{who, tick, nullptr, Location::current(), 15, true, true};
    c->writes[1] = Access();
    for (Access& r : c->reads) r = Access();
  }
  barrier[b.size] = tick;
}

}  // namespace emu::race
