// TMA: boxes of a two-dimensional tensor to and from shared memory, out of bounds zero or dropped.
// Loads complete at a moment that the scheduler picks, stores at the wait.
#include <string.h>

#include <algorithm>

#include "race.h"
#include "wrappers.h"

namespace emu {
namespace {

constexpr uint64_t kMagic = 0x70616d726f736e74;

uint32_t box_bytes(const TensorMap& map) { return map.box_width * map.box_height * map.item; }

// f(global address, offset in the box) for each element of the box, the address null outside.
template <class F> void each_element(const TensorMap& map, int x, int y, F f) {
  for (uint32_t row = 0; row < map.box_height; row++) {
    for (uint32_t column = 0; column < map.box_width; column++) {
      const int64_t gx = x + int64_t(column), gy = y + int64_t(row);
      const bool inside = gx >= 0 && gy >= 0 && gx < int64_t(map.width) && gy < int64_t(map.height);
      f(inside ? map.base + gy * int64_t(map.pitch) + gx * map.item : nullptr,
        (row * map.box_width + column) * map.item);
    }
  }
}

// f(address, bytes) for the part of each row of the box that lies in the tensor.
template <class F> void each_row(const TensorMap& map, int x, int y, F f) {
  const int64_t begin = std::max(x, 0);
  const int64_t end = std::min<int64_t>(x + int64_t(map.box_width), int64_t(map.width));
  for (int64_t row = y; row < y + int64_t(map.box_height); row++) {
    if (row < 0 || row >= int64_t(map.height) || begin >= end) continue;
    f(map.base + row * int64_t(map.pitch) + begin * map.item, size_t(end - begin) * map.item);
  }
}

TensorMap decode(const CUtensorMap* map, Location where) {
  TensorMap found;
  memcpy(&found, map, sizeof found);
  if (found.magic != kMagic) fail("bad tensor map", where, "not an encoded CUtensorMap");
  return found;
}

void check_shared_side(const TensorMap& map, const void* p, Location where) {
  const uint32_t address = shared_address(p);
  const uint32_t period = map.swizzle ? 128u << map.swizzle : 128u;  // of the swizzle's pattern
  if (address % period) fail("misaligned TMA box", where, "shared address 0x%x", address);
  shared_pointer(address + box_bytes(map) - 1);
}

char* in_box(const Block& b, const char* box, uint32_t offset, int swizzle) {
  const uint32_t base = 1024 + uint32_t(box - b.dynamic);
  return b.dynamic + (swizzled(base + offset, swizzle) - 1024);
}

}  // namespace

// 16-byte chunks of a row change places by the row's number modulo 8, 4 or 2.
uint32_t swizzled(uint32_t address, int mode) {
  switch (mode) {
    case CU_TENSOR_MAP_SWIZZLE_128B: return address ^ ((address >> 7 & 7) << 4);
    case CU_TENSOR_MAP_SWIZZLE_64B: return address ^ ((address >> 7 & 3) << 4);
    case CU_TENSOR_MAP_SWIZZLE_32B: return address ^ ((address >> 7 & 1) << 4);
    default: return address;
  }
}

void complete(PendingLoad load) {
  const uint32_t bytes = box_bytes(load.map);
  race::set_in_flight(load.dst, bytes, false, false, load.issuer, load.where);
  each_element(load.map, load.x, load.y, [&](const char* from, uint32_t offset) {
    char* to = in_box(*load.block, load.dst, offset, load.map.swizzle);
    if (from)
      memcpy(to, from, load.map.item);
    else
      memset(to, 0, load.map.item);
  });
  race::async_write_done(load.issuer, load.dst, bytes, load.barrier->clocks);
  load.barrier->bytes -= bytes;
  settle(*load.barrier, load.where);
}

namespace {

// The box has been read: it may be written again.
void take_data(PendingStore& store) {
  if (!store.data.empty()) return;
  store.data.resize(box_bytes(store.map));
  race::set_in_flight(store.src, store.data.size(), false, true, current, store.where);
  each_element(store.map, store.x, store.y, [&](const char*, uint32_t offset) {
    memcpy(&store.data[offset], in_box(*current->block, store.src, offset, store.map.swizzle),
           store.map.item);
  });
}

void write_data(PendingStore& store) {
  each_row(store.map, store.x, store.y, [&](char* row, size_t bytes) {
    race::set_in_flight(row, bytes, false, false, current, store.where);
  });
  each_element(store.map, store.x, store.y, [&](char* to, uint32_t offset) {
    if (to) memcpy(to, &store.data[offset], store.map.item);
  });
  each_row(store.map, store.x, store.y,
           [&](char* row, size_t bytes) { race::access(current, row, bytes, true, store.where); });
}

}  // namespace

void finish_stores(Thread& t) {
  auto check = [](const PendingStore& store) {
    if (store.data.empty()) {
      fail("TMA store not waited for", store.where, "shared memory is gone before it was read");
    }
  };
  for (const PendingStore& store : t.open_stores) check(store);
  for (std::vector<PendingStore>& group : t.store_groups) {
    for (PendingStore& store : group) {
      check(store);
      write_data(store);
    }
  }
  t.store_groups.clear();
}

}  // namespace emu

namespace simt {

using namespace emu;

cudaError_t make_tensor_map_2d(CUtensorMap* map, CUtensorMapDataType type, const void* base,
                               uint64_t width, uint64_t height, uint64_t pitch_bytes,
                               uint32_t box_width, uint32_t box_height,
                               CUtensorMapSwizzle swizzle) {
  const bool wide = type == CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  if (!wide && type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 && type != CU_TENSOR_MAP_DATA_TYPE_FLOAT16)
    return cudaErrorInvalidValue;
  const uint32_t item = wide ? 4 : 2, row = box_width * item;
  const uint32_t widest = swizzle ? 16u << swizzle : ~0u;
  const bool aligned = uintptr_t(base) % 16 == 0 && pitch_bytes % 16 == 0 && row % 16 == 0;
  const bool fits = box_width && box_height && box_width <= 256 && box_height <= 256;
  if (!aligned || !fits || row > widest) return cudaErrorInvalidValue;
  const TensorMap encoded{kMagic,      const_cast<char*>(static_cast<const char*>(base)),
                          width,       height,
                          pitch_bytes, box_width,
                          box_height,  item,
                          int(swizzle)};
  static_assert(sizeof encoded <= sizeof *map);
  memset(static_cast<void*>(map), 0, sizeof *map);
  memcpy(static_cast<void*>(map), &encoded, sizeof encoded);
  return cudaSuccess;
}

void tma_load_2d(void* dst, const CUtensorMap* tensor_map, uint64_t* bar, int x, int y,
                 Location where) {
  const TensorMap map = decode(tensor_map, where);
  check_shared_side(map, dst, where);
  const uint32_t bytes = box_bytes(map);
  race::access(current, dst, bytes, true, where);
  race::set_in_flight(dst, bytes, true, false, current, where);
  memset(dst, 0xFF, bytes);
  each_row(map, x, y, [&](const char* row, size_t length) {
    check_bounds("TMA read of global memory", row, length, where);
    race::access(current, row, length, false, where);
  });
  MBarrier& m = find_mbarrier(bar, where);
  race::release(current, m.clocks);
  pending_loads().push_back(
      {map, static_cast<char*>(dst), x, y, current->block, &m, current, where});
}

void tma_store_2d(const CUtensorMap* tensor_map, const void* src, int x, int y, Location where) {
  const TensorMap map = decode(tensor_map, where);
  check_shared_side(map, src, where);
  char* box = static_cast<char*>(const_cast<void*>(src));
  race::access(current, box, box_bytes(map), false, where, race::async_proxy);
  race::set_in_flight(box, box_bytes(map), true, true, current, where);
  each_row(map, x, y, [&](char* row, size_t length) {
    check_bounds("TMA write of global memory", row, length, where);
    race::access(current, row, length, true, where);
    race::set_in_flight(row, length, true, false, current, where);
  });
  current->open_stores.push_back({map, box, x, y, where, {}});
}
void tma_store_commit() {
  current->store_groups.push_back(std::exchange(current->open_stores, {}));
}
void tma_store_wait_for(int groups_left, bool reads_only) {
  std::deque<std::vector<PendingStore>>& groups = current->store_groups;
  for (size_t i = 0; int(i) < int(groups.size()) - groups_left; i++) {
    for (PendingStore& store : groups[i]) take_data(store);
  }
  race::async_reads_done(&current, 1);
  while (!reads_only && int(groups.size()) > groups_left) {
    for (PendingStore& store : groups.front()) write_data(store);
    groups.pop_front();
  }
}

}  // namespace simt
