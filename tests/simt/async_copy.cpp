// cp.async and mbarriers. What a copy brings becomes visible at the matching wait and no earlier:
// until then its destination holds NaN.
#include <string.h>

#include <utility>

#include "race.h"
#include "wrappers.h"
#if EMU_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace emu {

void check_bounds([[maybe_unused]] const char* what, [[maybe_unused]] const void* p,
                  [[maybe_unused]] size_t bytes, [[maybe_unused]] Location where) {
#if EMU_ASAN
  if (__asan_region_is_poisoned(const_cast<void*>(p), bytes)) {
    fail("out-of-bounds asynchronous access", where, "%s of %zu bytes", what, bytes);
  }
#endif
}

uint32_t shared_address(const void* p) {
  const Block& b = *current->block;
  const size_t offset = size_t(static_cast<const char*>(p) - b.dynamic);
  if (offset >= b.dynamic_bytes) {
    fail("bad shared address", Location::current(), "a pointer outside of dynamic shared memory");
  }
  return 1024 + uint32_t(offset);  // address 0 would hide mistakes
}

char* shared_pointer(uint32_t address) {
  const Block& b = *current->block;
  const uint32_t offset = address - 1024;
  if (offset >= b.dynamic_bytes) {
    fail("bad shared address", Location::current(), "0x%x is outside of the block's %zu bytes",
         address, b.dynamic_bytes);
  }
  return b.dynamic + offset;
}

}  // namespace emu

namespace simt {
namespace {

using namespace emu;

void start_copy(void* to, const void* from, uint32_t bytes, uint32_t read, Location where) {
  char* dst = static_cast<char*>(to);
  const char* src = static_cast<const char*>(from);
  if (uintptr_t(dst) % bytes || (read && uintptr_t(src) % bytes)) {
    fail("misaligned cp.async", where, "%u bytes to %p from %p", bytes, to, from);
  }
  if (read > bytes) fail("bad cp.async", where, "%u bytes read, %u written", read, bytes);
  check_bounds("write to shared memory", dst, bytes, where);
  if (read) check_bounds("read of global memory", src, read, where);
  race::access(current, dst, bytes, true, where);
  if (read) race::access(current, src, read, false, where);
  race::set_in_flight(dst, bytes, true, false, current, where);
  memset(dst, 0xFF, bytes);
  current->open_copies.push_back({dst, src, bytes, read, where});
}

void finish(const PendingCopy& c) {
  race::set_in_flight(c.dst, c.bytes, false, false, current, c.where);
  memcpy(c.dst, c.src, c.src_bytes);
  memset(c.dst + c.src_bytes, 0, c.bytes - c.src_bytes);
  race::access(current, c.dst, c.bytes, true, c.where);
}

}  // namespace

void cp_async16(void* dst, const void* src, bool valid, Location where) {
  start_copy(dst, src, 16, valid ? 16 : 0, where);
}
void cp_async16_part(void* dst, const void* src, int bytes, Location where) {
  start_copy(dst, src, 16, uint32_t(bytes), where);
}
void cp_async4(void* dst, const void* src, bool valid, Location where) {
  start_copy(dst, src, 4, valid ? 4 : 0, where);
}
void cp_async_commit() { current->copy_groups.push_back(std::exchange(current->open_copies, {})); }
void cp_async_wait_for(int groups_left, Location) {
  std::deque<std::vector<PendingCopy>>& groups = current->copy_groups;
  while (int(groups.size()) > groups_left) {
    for (const PendingCopy& copy : groups.front()) finish(copy);
    groups.pop_front();
  }
}

}  // namespace simt

// ---- mbarriers -----------------------------------------------------------------------------

namespace emu {

MBarrier& find_mbarrier(uint64_t* bar, Location where) {
  auto found = current->block->mbarriers.find(uintptr_t(bar));
  if (found == current->block->mbarriers.end()) {
    fail("mbarrier not initialised", where, "%p", static_cast<void*>(bar));
  }
  race::access(current, bar, 8, true, where, race::atomic_access);
  return found->second;
}

void settle(MBarrier& m, Location where) {
  if (m.pending < 0) {
    fail("mbarrier over-arrived", where, "more arrivals than the %u expected", m.expected);
  }
  if (m.pending || m.bytes) return;
  m.phase++;
  m.pending = m.expected;
  for (Thread* t : std::exchange(m.waiting, {})) make_ready(t);
}

}  // namespace emu

namespace simt {
namespace {

void arrive(uint64_t* bar, uint32_t bytes, Location where) {
  MBarrier& m = find_mbarrier(bar, where);
  race::release(current, m.clocks);
  m.bytes += bytes;
  m.pending--;
  settle(m, where);
  maybe_yield();
}

}  // namespace

void mbar_init(uint64_t* bar, uint32_t arrivals, Location where) {
  if (uintptr_t(bar) % 8) fail("misaligned mbarrier", where, "%p", static_cast<void*>(bar));
  race::access(current, bar, 8, true, where);
  *bar = 0;
  MBarrier m;
  m.expected = arrivals;
  m.pending = arrivals;
  current->block->mbarriers[uintptr_t(bar)] = m;
}
void mbar_arrive(uint64_t* bar, Location where) { arrive(bar, 0, where); }
void mbar_expect_tx(uint64_t* bar, uint32_t bytes, Location where) { arrive(bar, bytes, where); }
void mbar_wait(uint64_t* bar, uint32_t parity, Location where) {
  for (;;) {
    MBarrier& m = find_mbarrier(bar, where);
    if ((m.phase & 1) != parity) return race::acquire(current, m.clocks);
    m.waiting.push_back(current);
    block_on("mbarrier wait", where);
  }
}

void fence_proxy_async() {
  race::fence(current);
  current->proxy_fence_clock = current->fence_clock;
}

}  // namespace simt
