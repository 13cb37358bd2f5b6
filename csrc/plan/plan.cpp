#include "plan.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <new>

#include "../core/permutation.h"
#include "../core/threads.h"
#include "blocks.h"
#include "in_turn.h"

namespace fnn {
void FreeDeleter::operator()(char* p) const { free(p); }

Buffer allocate(size_t bytes) {
  size_t rounded = std::max<size_t>((bytes + 63) / 64 * 64, 64);
  if (rounded < bytes) throw std::bad_alloc();
  char* p = static_cast<char*>(aligned_alloc(64, rounded));
  if (!p) throw std::bad_alloc();
  return Buffer(p);
}

void run_now(Call* calls, size_t count) {
  constexpr i64 kKept = 64 << 20;  // a larger workspace is given back after the call
  static thread_local Buffer kept;
  static thread_local i64 kept_size = 0;
  double most = 0;
  for (size_t i = 0; i < count; i++)
    most = std::max(most, calls[i].op->cost(calls[i].slots, calls[i].f64));
  const int size = team_size(most);
  i64 bytes = 0;
  for (size_t i = 0; i < count; i++)
    bytes = std::max(bytes, calls[i].op->scratch_bytes(calls[i].slots, calls[i].f64, size));
  Buffer large;
  char* scratch = kept.get();
  if (bytes > kKept) {
    large = allocate(static_cast<size_t>(bytes));
    scratch = large.get();
  } else if (bytes > kept_size) {
    kept = allocate(static_cast<size_t>(bytes));
    kept_size = bytes;
    scratch = kept.get();
  }
  run_team(size, [&](const Team& team) {
    run_in_turn(
        count, team, [&](size_t i) { return calls[i].op->cost(calls[i].slots, calls[i].f64); },
        [&](size_t i, const Team& now) { run_call(calls[i], scratch, now); });
  });
}

char* Arena::take(size_t bytes) {
  Block* best = nullptr;
  for (Block& block : blocks_)
    if (block.free && block.size >= bytes && block.size <= 2 * bytes + 4096 &&
        (!best || block.size < best->size))
      best = &block;
  if (!best) {
    blocks_.push_back({allocate(bytes), bytes, false});
    best = &blocks_.back();
  }
  best->free = false;
  return best->memory.get();
}

void Arena::give_back(char* memory) {
  for (Block& block : blocks_)
    if (block.memory.get() == memory) block.free = true;
}

Arena::Extent Arena::block_of(const void* p) const {
  for (const Block& block : blocks_) {
    const char* begin = block.memory.get();
    const size_t size = std::max<size_t>(block.size, 1);
    if (p >= begin && p < begin + size) return {begin, size};
  }
  return {nullptr, 0};
}

char* Arena::scratch(i64 bytes) {
  if (bytes > scratch_size_) {
    scratch_.reset();
    scratch_ = allocate(static_cast<size_t>(bytes));
    scratch_size_ = bytes;
  }
  return scratch_.get();
}

size_t Arena::bytes() const {
  size_t total = 0;
  for (const Block& block : blocks_) total += block.size;
  return total;
}

void Plan::add(const OpInfo& op, bool f64, const Slot* slots) {
  Call call{&op, f64, {}};
  memcpy(call.slots, slots, static_cast<size_t>(op.slots) * sizeof(Slot));
  calls.push_back(call);
}

void Plan::keep(char* data, size_t size) { kept.push_back({data, size, allocate(size)}); }

void Plan::remember_kept() {
  for (Kept& k : kept) memcpy(k.before.get(), k.data, k.size);
}

void Plan::put_back_kept() {
  for (Kept& k : kept) memcpy(k.data, k.before.get(), k.size);
}

void Plan::finish() {
  for (Input& input : inputs)
    for (size_t c = 0; c < calls.size(); c++)
      for (const Field& f : calls[c].op->fields) {
        if (!f.is_array() && f.kind != Kind::targets) continue;
        for (int slot = f.slot; slot < f.slot + (f.kind == Kind::targets ? 2 : 1); slot++) {
          i64 offset = static_cast<const char*>(calls[c].slots[slot].p) - input.data;
          if (offset >= 0 && offset < std::max<i64>(input.rows * input.row_bytes, 1))
            input.patches.push_back({c, slot, offset});
        }
      }
  separate_ = grouped(stages_of(calls, commit), calls);
  body_ = 0;
  while (body_ < separate_.size() && separate_[body_].at < commit) body_++;
  fused_ = grouped(fused_stages(calls, commit), calls);
  norms_ = allocate(static_cast<size_t>(norms(fused_)) * sizeof(double));
}

void Plan::bind(const Input& input, const char* data) {
  for (const Patch& patch : input.patches)
    calls[patch.call].slots[patch.slot].p = data + patch.offset;
}

int Plan::reserve(const std::vector<Stage>& stages, double least_cost) {
  double most = least_cost;
  for (const Stage& stage : stages) most = std::max(most, cost(stage, calls));
  const int size = team_size(most);
  i64 bytes = 0;
  for (const Stage& stage : stages) bytes = std::max(bytes, scratch_bytes(stage, calls, size));
  scratch_ = arena->scratch(bytes);
  return size;
}

i64 Plan::run(const Steps& s) {
  const std::vector<Stage>& all = stages(s.update);
  const size_t body = s.update && !s.guard ? all.size() : body_;
  const size_t rest = s.update ? all.size() - body : 0;
  const bool may_undo = !s.update || s.guard;
  const i64 batch = inputs.empty() ? 0 : inputs[0].rows;
  double gather_cost = 0;
  for (size_t i = 0; i < inputs.size(); i++)
    if (s.sources[i].gather) gather_cost += 0.05 * static_cast<double>(batch * inputs[i].row_bytes);
  const int size = reserve(all, gather_cost);
  order_.resize(static_cast<size_t>(batch));

  auto last_asked = std::chrono::steady_clock::now();
  i64 done = 0;
  bool stop = false, undo = !s.update;
  // What rank 0 does between two steps while the others wait.
  auto prepare = [&](i64 step) {
    i64 row = s.first_row + step * batch;
    if (s.wrap) row = s.first_row + step % ((s.rows - s.first_row) / batch) * batch;
    if (s.shuffle)
      for (i64 r = 0; r < batch; r++)
        order_[static_cast<size_t>(r)] = permuted(row + r, s.rows, s.seed, s.epoch);
    for (size_t i = 0; i < inputs.size(); i++)
      bind(inputs[i],
           s.sources[i].gather ? inputs[i].data : s.sources[i].data + row * inputs[i].row_bytes);
    if (s.clock && s.lr) s.clock->lr = s.lr[step];
    if (may_undo) remember_kept();
  };
  auto conclude = [&](i64 step) {
    for (const Record& record : s.records)
      memcpy(record.to + step * static_cast<i64>(record.size), record.from, record.size);
    if (s.clock && s.update) s.clock->set(s.clock->updates + 1);
    done = step + 1;
    auto now = std::chrono::steady_clock::now();
    if (s.interrupted && now - last_asked > std::chrono::milliseconds(20)) {
      stop = s.interrupted();
      last_asked = std::chrono::steady_clock::now();
    }
  };
  auto gather = [&](const Team& team) {
    for (size_t i = 0; i < inputs.size(); i++) {
      if (!s.sources[i].gather) continue;
      size_t bytes = static_cast<size_t>(inputs[i].row_bytes);
      share_range(team, batch, 16, [&](i64 begin, i64 end) {
        for (i64 r = begin; r < end; r++)
          memcpy(inputs[i].data + r * inputs[i].row_bytes,
                 s.sources[i].data + order_[static_cast<size_t>(r)] * inputs[i].row_bytes, bytes);
      });
    }
  };

  auto run_stages = [&](size_t first, size_t count, const Team& team) {
    run_in_turn(
        count, team, [&](size_t i) { return cost(all[first + i], calls); },
        [&](size_t i, const Team& now) {
          run_stage(all[first + i], calls, scratch_, norms_.get(), now);
        },
        s.seconds ? s.seconds + first : nullptr);
  };

  run_team(size, [&](const Team& team) {
    for (i64 step = 0; step < s.count && !stop; step++) {
      if (team.rank == 0) prepare(step);
      barrier(team);
      if (s.shuffle) {
        gather(team);
        barrier(team);
      }
      run_stages(0, body, team);
      if (s.guard && *s.guard >= 0) {
        if (team.rank == 0) undo = true;
        break;
      }
      run_stages(body, rest, team);
      if (team.rank == 0) conclude(step);
      barrier(team);
    }
  });
  if (undo) put_back_kept();
  for (const Input& input : inputs) bind(input, input.data);
  return done;
}

}  // namespace fnn
