// Barriers of a block and of the grid, and operations that a whole warp or warpgroup does together.
// The source location, column included, tells one barrier from another: two calls that only look
// the same are a divergent barrier.
#include <string.h>

#include <algorithm>
#include <utility>

#include "race.h"

namespace emu {
namespace {

bool same(Location a, Location b) {
  return a.line() == b.line() && a.column() == b.column() && !strcmp(a.file_name(), b.file_name());
}

void wake_all(Barrier& barrier) {
  barrier.arrived = 0;
  for (Thread* t : std::exchange(barrier.waiting, {})) make_ready(t);
}

void check_barrier(Block& b, Barrier& barrier, uint32_t id, uint32_t expected, bool whole_block,
                   Location where) {
  if (!whole_block && expected % 32) {
    fail("bad barrier", where, "%u threads is not a multiple of 32", expected);
  }
  if (whole_block && b.alive != b.size) {
    fail("divergent barrier", where, "%u threads of the block have exited", b.size - b.alive);
  }
  if (!barrier.arrived) {
    barrier.where = where;
    barrier.expected = expected;
  } else if (barrier.expected != expected || (whole_block && !same(barrier.where, where))) {
    fail("divergent barrier", where,
         "others of the block are at barrier %u, %s:%u (%u threads, %u here)", id,
         barrier.where.file_name(), barrier.where.line(), barrier.expected, expected);
  }
}

}  // namespace

// threads == 0: all of the block (__syncthreads); else a named barrier.
void barrier(uint32_t id, uint32_t threads, Location where, bool arrive_only) {
  Thread* me = current;
  Block& b = *me->block;
  Barrier& barrier = b.barriers[id];
  const bool whole_block = threads == 0;
  const uint32_t expected = whole_block ? b.size : threads;
  check_barrier(b, barrier, id, expected, whole_block, where);
  if (!whole_block) race::release(me, barrier.clocks);
  if (++barrier.arrived < expected) {
    if (arrive_only) return;
    barrier.waiting.push_back(me);
    return block_on(whole_block ? "__syncthreads" : "bar.sync", where);
  }
  if (whole_block) {
    race::full_barrier(b);
  } else {
    for (Thread* t : barrier.waiting) race::acquire(t, barrier.clocks);
    if (!arrive_only) race::acquire(me, barrier.clocks);
    barrier.clocks.clear();
  }
  wake_all(barrier);
  if (!arrive_only) maybe_yield();
}

void grid_barrier(Location where) {
  barrier(0, 0, where);
  if (!is_cooperative()) fail("grid sync in an ordinary launch", where, "use launch_coop");
  Barrier& grid = grid_barrier_state();
  grid.expected = 0;
  for (Block* b : live_blocks()) grid.expected += b->size;
  if (!grid.arrived) grid.where = where;
  if (!same(grid.where, where)) {
    fail("divergent barrier", where, "other threads are at the grid barrier of %s:%u",
         grid.where.file_name(), grid.where.line());
  }
  if (++grid.arrived < grid.expected) {
    grid.waiting.push_back(current);
    return block_on("grid sync", where);
  }
  race::grid_barrier(live_blocks());
  wake_all(grid);
  maybe_yield();
}

// ---- warps and warpgroups ------------------------------------------------------------------

namespace {

struct Group {  // a warp, or a warpgroup
  std::vector<Collective*>& pending;
  Thread* first;
  uint32_t lane;
  uint64_t mask[2];
};

void check_mask(Block& b, uint32_t mask, const char* name, Location where) {
  const Thread& me = *current;
  const uint32_t lanes = std::min(32u, b.size - me.warp * 32);
  if (!(mask >> me.lane & 1)) {
    fail("bad lane mask", where, "%s: the calling lane is not in its mask 0x%x", name, mask);
  }
  if (lanes < 32 && mask >> lanes) {
    fail("bad lane mask", where, "%s: mask 0x%x, but the warp has %u lanes", name, mask, lanes);
  }
  if (mask & b.exited[me.warp]) {
    fail("bad lane mask", where, "%s: mask 0x%x names lanes that have exited", name, mask);
  }
}

// The pending operation of the same mask that the caller belongs to, or null.
Collective* find(const Group& g, const char* name, Location where) {
  const int word = g.lane >> 6;
  const uint64_t bit = 1ull << (g.lane & 63);
  Collective* found = nullptr;
  for (Collective* c : g.pending) {
    if (c->mask[0] == g.mask[0] && c->mask[1] == g.mask[1] && !(c->arrived[word] & bit)) {
      found = c;
    } else if ((c->mask[0] & g.mask[0]) || (c->mask[1] & g.mask[1])) {
      fail("divergent warp operation", where, "%s overlaps a pending %s with another mask at %s:%u",
           name, c->name, c->where.file_name(), c->where.line());
    }
  }
  if (found && (strcmp(found->name, name) || !same(found->where, where))) {
    fail("divergent warp operation", where, "this lane is in %s, others of its mask in %s at %s:%u",
         name, found->name, found->where.file_name(), found->where.line());
  }
  return found;
}

Collective* open(Block& b, const Group& g, const char* name, Location where) {
  Collective* c;
  if (b.spare.empty()) {
    c = new Collective;
  } else {
    c = b.spare.back();
    b.spare.pop_back();
  }
  for (int word = 0; word < 2; word++) {
    c->mask[word] = g.mask[word];
    c->arrived[word] = 0;
  }
  c->name = name;
  c->where = where;
  memset(c->argument, 0, sizeof c->argument);
  g.pending.push_back(c);
  return c;
}

void meet(Group g, const char* name, void* argument, void (*action)(void**), Location where) {
  Block& b = *current->block;
  Collective* c = find(g, name, where);
  if (!c) c = open(b, g, name, where);
  const int word = g.lane >> 6;
  c->arrived[word] |= 1ull << (g.lane & 63);
  c->argument[g.lane] = argument;
  if (c->arrived[0] != g.mask[0] || c->arrived[1] != g.mask[1]) return block_on(name, where);

  std::erase(g.pending, c);
  suppress_preemption(true);
  if (action) action(c->argument);
  suppress_preemption(false);
  b.spare.push_back(c);
  g.mask[word] &= ~(1ull << (g.lane & 63));
  for (int w = 0; w < 2; w++) {
    for (uint64_t left = g.mask[w]; left; left &= left - 1) {
      make_ready(g.first + w * 64 + __builtin_ctzll(left));
    }
  }
  maybe_yield();
}

}  // namespace

void warp_collective(uint32_t mask, const char* name, void* argument, void (*action)(void**),
                     Location where) {
  Thread& me = *current;
  Block& b = *me.block;
  check_mask(b, mask, name, where);
  meet({b.warps[me.warp], &b.threads[me.warp * 32], me.lane, {mask, 0}}, name, argument, action,
       where);
}

void warpgroup_collective(const char* name, void* argument, void (*action)(void**),
                          Location where) {
  Thread& me = *current;
  Block& b = *me.block;
  const uint32_t group = me.rank / 128;
  if ((group + 1) * 128 > b.size) fail("incomplete warpgroup", where, "%s needs 128 threads", name);
  meet({b.warpgroups[group].collectives, &b.threads[group * 128], me.rank & 127, {~0ull, ~0ull}},
       name, argument, action, where);
}

void syncwarp(uint32_t mask, Location where) {
  auto join = [](void** arguments) {
    Thread* lanes[32];
    int count = 0;
    for (int i = 0; i < 32; i++) {
      if (arguments[i]) lanes[count++] = static_cast<Thread*>(arguments[i]);
    }
    race::join_lanes(lanes, count);
  };
  warp_collective(mask, "__syncwarp", current, join, where);
}

void fence() {
  if (!current) return;
  race::fence(current);
  maybe_yield();
}

// ---- leaving -------------------------------------------------------------------------------

namespace {

void check_nobody_waits(Thread& t) {
  Block& b = *t.block;
  for (int i = 0; i < 16; i++) {
    const Barrier& barrier = b.barriers[i];
    const size_t others = b.alive - 1 - barrier.waiting.size();  // who may still arrive
    if (!barrier.waiting.empty() && barrier.arrived + others < barrier.expected) {
      fail("divergent barrier", barrier.where, "a thread exits while %u of %u wait at barrier %d",
           barrier.arrived, barrier.expected, i);
    }
  }
  for (Collective* c : b.warps[t.warp]) {
    if (c->mask[0] >> t.lane & 1) {
      fail("lane exited", c->where, "a lane exits while others of its mask wait in %s", c->name);
    }
  }
  for (Collective* c : b.warpgroups[t.rank / 128].collectives) {
    fail("lane exited", c->where, "a thread exits while its warpgroup waits in %s", c->name);
  }
}

}  // namespace

void check_exit(Thread& t) {
  if (!t.open_copies.empty() || !t.copy_groups.empty()) {
    fail("cp.async not waited for", Location::current(), "a thread exits with copies in flight");
  }
  finish_stores(t);
  check_nobody_waits(t);
}

}  // namespace emu
