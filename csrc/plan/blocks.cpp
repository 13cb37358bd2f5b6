#include "blocks.h"

#include <string.h>

#include <algorithm>

#include "../core/matmul_plan.h"
#include "in_turn.h"

namespace fnn {
namespace {

constexpr i64 kLeastBlocks = 8;
constexpr i64 kCacheBytes = 262144;  // of a block's rows and the weights: a small L2 holds them
constexpr i64 kSumElements = 8192;   // of a gradient, of which there is one for each block

const Team kAlone{0, 1, nullptr};

i64 item(const Call& call) { return call.f64 ? 8 : 4; }
i64 round_up(i64 bytes) { return (bytes + 63) / 64 * 64; }

// Memory that a stage touches: rows one after the other, or all of it for every block.
struct Access {
  const char* begin;
  i64 row_bytes, bytes;  // row_bytes is 0 for what has no rows
  bool written;

  bool collides(const Access& other) const {
    if (!written && !other.written) return false;
    if (begin >= other.begin + other.bytes || other.begin >= begin + bytes) return false;
    return !row_bytes || row_bytes != other.row_bytes || begin != other.begin;
  }
};

// A stage as what it does to a block of the samples.
struct Member {
  enum Kind { none, product, elements, weight_sum, bias_sum };
  Kind kind = none;
  i64 rows = 0;  // of all blocks
  i64 sums = 0;  // elements that it adds up over the rows
  std::vector<Access> accesses;

  void touch(const void* p, i64 row_bytes, i64 bytes, bool written = false) {
    if (p) accesses.push_back({static_cast<const char*>(p), row_bytes, bytes, written});
  }
  void touch_rows(const void* p, i64 row_bytes, bool written = false) {
    touch(p, row_bytes, rows * row_bytes, written);
  }
};

template <class T> void describe_matmul(const matmul_args<T>& p, Member& member) {
  const i64 size = sizeof(T);
  const bool by_rows = p.a_cs == 1 && p.a_rs == p.k;
  const bool by_columns = p.a_rs == 1 && p.a_cs == p.m && p.b_cs == 1 && p.b_rs == p.n;
  if (by_rows && !p.b_sum && p.m > p.k) {
    member.kind = Member::product, member.rows = p.m;
    member.touch(p.b, 0, p.k * p.n * size);
    member.touch(p.bias, 0, p.n * size);
    member.touch_rows(p.gate, p.n * size);
    member.touch_rows(p.preactivation, p.n * size, true);
  } else if (by_columns && !p.bias && !p.gate && !p.preactivation && p.activation < 0) {
    member.kind = Member::weight_sum, member.rows = p.k;
    member.sums = p.m * p.n + (p.b_sum ? p.n : 0);
    member.touch_rows(p.b, p.n * size);
    member.touch(p.b_sum, 0, p.n * size, true);
  } else {
    return;
  }
  const i64 across = by_rows && member.kind == Member::product ? p.k : p.m;
  p.a_bytes ? member.touch_rows(p.a_bytes, across) : member.touch_rows(p.a, across * size);
  const bool sum = member.kind == Member::weight_sum;
  member.touch(p.y, sum ? 0 : p.n * size, p.m * p.n * size, true);
}

bool is_elementwise(const Call& call) {
  switch (call.op->id) {
    case op_relu:
    case op_relu_backward:
    case op_leaky_relu:
    case op_leaky_relu_backward:
    case op_sigmoid:
    case op_sigmoid_backward:
    case op_sigmoid_backward_from_output:
    case op_hard_sigmoid:
    case op_hard_sigmoid_backward:
    case op_tanh:
    case op_tanh_backward:
    case op_tanh_backward_from_output:
    case op_gelu:
    case op_gelu_backward:
    case op_gelu_tanh:
    case op_gelu_tanh_backward:
    case op_silu:
    case op_silu_backward:
    case op_softplus:
    case op_softplus_backward: return true;
    default: return false;
  }
}

// `rows`: of the group so far, or 0.
Member member_of(const Stage& stage, const std::vector<Call>& calls, i64 rows) {
  Member member;
  if (stage.work != Stage::call) return member;
  const Call call = whole_call(stage, calls);
  if (call.op->id == op_matmul) {
    call.f64 ? describe_matmul(arguments<matmul_args<double>>(call), member)
             : describe_matmul(arguments<matmul_args<float>>(call), member);
  } else if (call.op->id == op_column_sum) {
    const auto s = arguments<column_sum_args<char>>(call);
    member.kind = Member::bias_sum, member.rows = s.n, member.sums = s.c;
    member.touch_rows(s.x, s.c * item(call));
    member.touch(s.y, 0, s.c * item(call), true);
  } else if (is_elementwise(call) && rows && call.slots[0].i % rows == 0) {
    member.kind = Member::elements, member.rows = rows;
    const i64 row_bytes = call.slots[0].i / rows * item(call);
    for (const Field& f : call.op->fields)
      if (f.is_array() || f.is_result())
        member.touch_rows(call.slots[f.slot].p, row_bytes, f.is_result());
  }
  return member;
}

// Stages that can follow one another block by block.
struct Group {
  i64 rows = 0, bytes = 0;  // of all samples; of the arrays of a block and those without rows
  std::vector<Member> members;

  bool takes(const Member& next) {
    if (next.kind == Member::none || (rows && next.rows != rows)) return false;
    if (next.sums > kSumElements) return false;
    const i64 block = matmul_terms(next.rows);
    if (next.rows < kLeastBlocks * block) return false;
    i64 more = 0;
    for (const Access& a : next.accesses) {
      more += a.row_bytes ? a.row_bytes * block : a.bytes;
      for (const Member& member : members)
        for (const Access& other : member.accesses)
          if (a.collides(other)) return false;
    }
    if (bytes + more > kCacheBytes) return false;
    rows = next.rows, bytes += more;
    members.push_back(next);
    return true;
  }
};

// The part of a member's call in rows first..first + count; its sums go to `parts`.
template <class T>
Call part_in(const Call& whole, bool sums, i64 rows, i64 first, i64 count, T* parts) {
  Call call = whole;
  if (call.op->id == op_matmul) {
    auto p = arguments<matmul_args<T>>(call);
    const i64 a = first * (sums ? p.a_cs : p.a_rs), y = first * p.n;
    p.a += a;
    if (p.a_bytes) p.a_bytes += a;
    if (p.preactivation) p.preactivation += y;
    if (p.gate) p.gate += y;
    if (sums) {
      p.b += first * p.b_rs, p.k = count, p.y = parts;
      if (p.b_sum) p.b_sum = parts + p.m * p.n;
    } else {
      p.y += y, p.m = count;
    }
    memcpy(call.slots, &p, sizeof p);
  } else if (call.op->id == op_column_sum) {
    auto s = arguments<column_sum_args<T>>(call);
    s.x += first * s.c, s.n = count, s.y = parts;
    memcpy(call.slots, &s, sizeof s);
  } else {
    const i64 across = call.slots[0].i / rows;
    call = part_of(call, first * across, count * across, nullptr);
  }
  return call;
}

// Workspace: of the members on one thread, for each thread; then each block's sums.
struct Scratch {
  i64 kernels = 0, sums = 0, blocks;

  Scratch(const Stage& stage, const std::vector<Call>& calls)
      : blocks((stage.rows + stage.count - 1) / stage.count) {
    for (const Stage& member : stage.members) {
      const Call& call = calls[member.at];
      const Call part =
          call.f64 ? part_in<double>(call, member.count, stage.rows, 0, stage.count, nullptr)
                   : part_in<float>(call, member.count, stage.rows, 0, stage.count, nullptr);
      kernels = std::max(kernels, round_up(part.op->scratch_bytes(part.slots, part.f64, 1)));
      sums += member.count;
    }
  }
};

// Adds the blocks' sums in order.
template <class T>
void add_up(const Call& call, const T* parts, i64 stride, i64 blocks, const Team& team) {
  auto add = [&](T* y, i64 offset, i64 n) {
    share_range(team, n, 16, [&](i64 begin, i64 end) {
      for (i64 i = begin; i < end; i++) {
        T sum = parts[offset + i];
        for (i64 b = 1; b < blocks; b++) sum += parts[b * stride + offset + i];
        y[i] = sum;
      }
    });
  };
  if (call.op->id == op_column_sum) {
    const auto s = arguments<column_sum_args<T>>(call);
    return add(s.y, 0, s.c);
  }
  const auto p = arguments<matmul_args<T>>(call);
  add(p.y, 0, p.m * p.n);
  if (p.b_sum) add(p.b_sum, p.m * p.n, p.n);
}

template <class T>
void run(const Stage& stage, const std::vector<Call>& calls, char* scratch, const Team& team) {
  const Scratch size(stage, calls);
  T* const parts = reinterpret_cast<T*>(scratch + team.size * size.kernels);
  share(team, size.blocks, [&](i64 block) {
    const i64 first = block * stage.count, count = std::min(stage.count, stage.rows - first);
    for (const Stage& member : stage.members) {
      const Call whole = whole_call(member, calls);
      run_call(part_in<T>(whole, member.count, stage.rows, first, count,
                          parts + block * size.sums + member.begin),
               scratch + team.rank * size.kernels, kAlone);
    }
  });
  if (!size.sums) return;
  barrier(team);
  for (const Stage& member : stage.members)
    if (member.count)
      add_up<T>(whole_call(member, calls), parts + member.begin, size.sums, size.blocks, team);
}

}  // namespace

std::vector<Stage> grouped(std::vector<Stage> stages, const std::vector<Call>& calls) {
  std::vector<Stage> result;
  for (size_t i = 0; i < stages.size();) {
    Group group;
    Stage blocks;
    blocks.work = Stage::blocks, blocks.at = stages[i].at;
    i64 sums = 0;
    size_t end = i;
    for (; end < stages.size(); end++) {
      const Member member = member_of(stages[end], calls, group.rows);
      if (!group.takes(member)) break;
      blocks.members.push_back(stages[end]);
      blocks.members.back().begin = sums, blocks.members.back().count = member.sums;
      sums += member.sums;
    }
    if (blocks.members.size() > 1) {
      blocks.rows = group.rows, blocks.count = matmul_terms(group.rows);
      result.push_back(blocks);
      i = end;
    } else {
      result.push_back(stages[i++]);
    }
  }
  return result;
}

i64 blocks_scratch_bytes(const Stage& stage, const std::vector<Call>& calls, int threads) {
  const Scratch size(stage, calls);
  return threads * size.kernels + size.blocks * size.sums * item(calls[stage.at]);
}

void run_blocks(const Stage& stage, const std::vector<Call>& calls, char* scratch,
                const Team& team) {
  calls[stage.at].f64 ? run<double>(stage, calls, scratch, team)
                      : run<float>(stage, calls, scratch, team);
}

}  // namespace fnn
