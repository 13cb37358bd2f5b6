// wgmma: products of a warpgroup from shared memory, which happen at the wait. Until then the
// accumulators hold NaN and the operands count as being read. Descriptors are those of the PTX
// manual (shared-memory matrix layouts), tested for the layouts that tests/simt uses.
#include <cuda_fp16.h>
#include <string.h>

#include "race.h"
#include "wrappers.h"

namespace simt {

using namespace emu;

namespace {

struct Descriptor {
  uint32_t start, leading, stride;  // bytes
  int swizzle;                      // as CU_TENSOR_MAP_SWIZZLE_*
  uint32_t row_bytes;               // of the swizzled pattern

  explicit Descriptor(uint64_t d)
      : start((d & 0x3fff) << 4), leading((d >> 16 & 0x3fff) << 4),
        stride((d >> 32 & 0x3fff) << 4) {
    const int layout = int(d >> 62);  // 0: none, 1: 128, 2: 64, 3: 32 bytes
    swizzle = layout ? 4 - layout : 0;
    row_bytes = layout ? 16u << swizzle : 16;
  }

  // Of element i along m or n and k along k, of `item` bytes.
  uint32_t address(bool transposed, uint32_t i, uint32_t k, uint32_t item) const {
    const uint32_t chunk = 16 / item;  // elements in 16 bytes
    uint32_t offset;
    if (!transposed && !swizzle) {
      offset = i % 8 * 16 + i / 8 * stride + k / chunk * leading + k % chunk * item;
    } else if (!transposed) {
      offset = i % 8 * row_bytes + i / 8 * stride + k * item;
    } else if (!swizzle) {
      offset = i % 8 * item + i / 8 * stride + k % 8 * 16 + k / 8 * leading;
    } else {
      const uint32_t row = row_bytes / item;
      offset = i % row * item + i / row * leading + k % 8 * row_bytes + k / 8 * stride;
    }
    return swizzled(start + offset, swizzle);
  }
};

uint32_t item_bytes(const Wgmma& w) { return w.factors == Factors::tf32 ? 4 : 2; }
int depth(const Wgmma& w) { return w.factors == Factors::tf32 ? 8 : 16; }

// f(address) for every 16-byte chunk of the operands.
template <class F> void each_chunk(const Wgmma& w, F f) {
  auto operand = [&](uint64_t descriptor, bool transposed, int rows) {
    const Descriptor d(descriptor);
    const int chunk = 16 / int(item_bytes(w));
    for (int i = 0; i < rows; i += transposed ? chunk : 1) {
      for (int k = 0; k < depth(w); k += transposed ? 1 : chunk) {
        f(shared_pointer(d.address(transposed, i, k, item_bytes(w))));
      }
    }
  };
  operand(w.a, w.transpose_a, 64);
  operand(w.b, w.transpose_b, w.n);
}

float element(const Wgmma& w, const Descriptor& d, bool transposed, int i, int k) {
  const char* p = shared_pointer(d.address(transposed, i, k, item_bytes(w)));
  uint32_t bits = 0;
  if (w.factors == Factors::tf32) {
    memcpy(&bits, p, 4);
    bits &= ~0x1fffu;
  } else if (w.factors == Factors::bf16) {
    memcpy(reinterpret_cast<char*>(&bits) + 2, p, 2);
  } else {
    uint16_t half;
    memcpy(&half, p, 2);
    return float(__builtin_bit_cast(__half, half));
  }
  return __builtin_bit_cast(float, bits);
}

// f(thread, register, row, column) for every element of the 64 x n accumulator.
template <class F> void each_accumulator(int n, F f) {
  for (int t = 0; t < 128; t++) {
    for (int i = 0; i < n / 2; i++) {
      const int row = 16 * (t / 32) + t % 32 / 4 + 8 * (i / 2 % 2);
      f(t, i, row, 8 * (i / 4) + 2 * (t % 4) + i % 2);
    }
  }
}

void multiply(const Wgmma& w, std::vector<float>& sums) {
  const Descriptor a(w.a), b(w.b);
  float right[16][256];
  for (int k = 0; k < depth(w); k++) {
    for (int n = 0; n < w.n; n++) right[k][n] = element(w, b, w.transpose_b, n, k);
  }
  for (int m = 0; m < 64; m++) {
    float* row = &sums[size_t(m) * w.n];
    if (!w.accumulate) std::fill(row, row + w.n, 0.f);
    for (int k = 0; k < depth(w); k++) {
      const float left = element(w, a, w.transpose_a, m, k);
      for (int n = 0; n < w.n; n++) row[n] += left * right[k][n];
    }
  }
}

Warpgroup& group_of(Thread* t) { return t->block->warpgroups[t->rank / 128]; }

struct IssueArgument {
  float* d;
  const Wgmma* operation;
  Thread* thread;
};

// Takes the accumulators out of the registers and leaves NaN there.
void take_accumulators(Warpgroup& group, const Wgmma& w) {
  auto [entry, fresh] = group.in_flight.try_emplace(w.registers[0]);
  if (!fresh) return;
  std::vector<float>& sums = entry->second;
  sums.resize(64 * size_t(w.n));
  each_accumulator(w.n, [&](int t, int i, int row, int column) {
    sums[size_t(row) * w.n + column] = w.registers[t][i];
    w.registers[t][i] = __builtin_nanf("");
  });
}

void issue(void** threads) {
  const IssueArgument& first = *static_cast<IssueArgument*>(threads[0]);
  Wgmma w = *first.operation;
  for (int t = 0; t < 128; t++) {
    const IssueArgument& each = *static_cast<IssueArgument*>(threads[t]);
    w.registers[t] = each.d;
    if (each.operation->a != w.a || each.operation->b != w.b) {
      fail("wgmma descriptors differ", w.where, "thread %d of the warpgroup has its own", t);
    }
  }
  Warpgroup& group = group_of(first.thread);
  take_accumulators(group, w);
  each_chunk(w, [&](char* p) {
    check_bounds("wgmma", p, 16, w.where);
    race::access(current, p, 16, false, w.where, race::async_proxy);
    race::set_in_flight(p, 16, true, true, current, w.where);
  });
  group.open.push_back(w);
}

bool is_busy(const Warpgroup& group, float* accumulator) {
  for (const Wgmma& w : group.open) {
    if (w.registers[0] == accumulator) return true;
  }
  for (const std::vector<Wgmma>& committed : group.groups) {
    for (const Wgmma& w : committed) {
      if (w.registers[0] == accumulator) return true;
    }
  }
  return false;
}

void return_accumulators(Warpgroup& group, const Wgmma& w) {
  auto found = group.in_flight.find(w.registers[0]);
  if (found == group.in_flight.end() || is_busy(group, w.registers[0])) return;
  each_accumulator(w.n, [&](int t, int i, int row, int column) {
    w.registers[t][i] = found->second[size_t(row) * w.n + column];
  });
  group.in_flight.erase(found);
}

void finish_oldest(Warpgroup& group) {
  const std::vector<Wgmma> oldest = group.groups.front();
  group.groups.pop_front();
  for (const Wgmma& w : oldest) {
    each_chunk(w, [&](char* p) { race::set_in_flight(p, 16, false, true, current, w.where); });
    multiply(w, group.in_flight[w.registers[0]]);
  }
  for (const Wgmma& w : oldest) return_accumulators(group, w);
}

struct WaitArgument {
  Thread* thread;
  int groups_left;
};

void wait(void** arguments) {
  const WaitArgument& first = *static_cast<WaitArgument*>(arguments[0]);
  Warpgroup& group = group_of(first.thread);
  while (int(group.groups.size()) > first.groups_left) finish_oldest(group);
  Thread* threads[128];
  for (int t = 0; t < 128; t++) threads[t] = static_cast<WaitArgument*>(arguments[t])->thread;
  race::async_reads_done(threads, 128);
}

}  // namespace

void wgmma_issue(float* d, const Wgmma& operation) {
  if (!current->wgmma_fenced) {
    fail("missing wgmma.fence", operation.where, "registers may have been touched since the last");
  }
  IssueArgument argument{d, &operation, current};
  warpgroup_collective("wgmma", &argument, issue, operation.where);
}
void wgmma_fence() { current->wgmma_fenced = true; }
void wgmma_commit(Location where) {
  auto commit = [](void** threads) {
    Warpgroup& group = group_of(static_cast<Thread*>(threads[0]));
    group.groups.push_back(std::exchange(group.open, {}));
  };
  warpgroup_collective("wgmma.commit_group", current, commit, where);
}
void wgmma_wait_for(int groups_left, Location where) {
  current->wgmma_fenced = false;
  WaitArgument argument{current, groups_left};
  warpgroup_collective("wgmma.wait_group", &argument, wait, where);
}

}  // namespace simt
