#include "fuse.h"

#include <algorithm>

#include "../core/work.h"
#include "blocks.h"
#include "in_turn.h"

namespace fnn {
namespace {

constexpr i64 kLeast = 8192;          // elements of a gradient worth a stage of its own
constexpr i64 kBufferBytes = 32768;   // of the gradient's rows: as long as they stay in L1
constexpr i64 kFactorBytes = 524288;  // of the factor that is read for each of them: half of L2
constexpr i64 kSumRows = 128;         // of a product for which adding up its factor is a trifle
constexpr i64 kPackedTerms = 16;      // more are not worth packing again for each of them

const Team kAlone{0, 1, nullptr};

i64 item(const Call& call) { return call.f64 ? 8 : 4; }
i64 round_up(i64 bytes) { return (bytes + 63) / 64 * 64; }

// The slots of the dimensions and strides are the same for float and double.
matmul_args<float> product_of(const Call& call) { return arguments<matmul_args<float>>(call); }

// A stretch of memory.
struct Range {
  const char *begin, *end;
  bool has(const void* p) const { return p >= begin && p < end; }
};

bool touches(const Call& call, Range range, bool results) {
  for (const Field& f : call.op->fields) {
    if (!f.is_array() && f.kind != Kind::targets && !(results && f.is_result())) continue;
    for (int slot = f.slot; slot < f.slot + (f.kind == Kind::targets ? 2 : 1); slot++)
      if (range.has(call.slots[slot].p)) return true;
  }
  return false;
}

// The whole model's update, if the calls from `commit` on hold exactly one and nobody else looks at
// the gradients but for their norm.
struct Update {
  const std::vector<Call>& calls;
  const size_t commit;
  size_t at = 0;
  bool found = false;
  char *grad = nullptr, *param = nullptr;
  i64 n = 0;

  Update(const std::vector<Call>& all, size_t first) : calls(all), commit(first) {
    i64 updates = 0;
    for (size_t c = commit; c < calls.size(); c++)
      if (calls[c].op->in_place && calls[c].op->find("param")) at = c, updates++;
    if (updates != 1) return;
    grad = pointer("grad"), param = pointer("param"), n = calls[at].slots[0].i;
    for (size_t c = 0; c < calls.size(); c++)
      if (c != at && !is_norm(c) && touches(calls[c], all_of(grad), c >= commit)) return;
    found = true;
  }

  char* pointer(const char* name) const {
    return static_cast<char*>(const_cast<void*>(calls[at].slots[calls[at].op->find(name)->slot].p));
  }
  Range all_of(char* array) const { return {array, array + n * item(calls[at])}; }
  bool is_norm(size_t c) const {
    return calls[c].op->id == op_l2_norm && arguments<l2_norm_args<char>>(calls[c]).x == grad &&
           arguments<l2_norm_args<char>>(calls[c]).n == n;
  }

  // Whether call c is a gradient that can be used up at once.
  bool fuses(size_t c) const {
    const Call& call = calls[c];
    if (call.op->id != op_matmul || call.f64 != calls[at].f64) return false;
    const auto p = product_of(call);
    if (!all_of(grad).has(p.y) || p.m * p.n < kLeast || p.k * p.n * item(call) > kFactorBytes)
      return false;
    if (p.precision == 1 && p.k > kPackedTerms) return false;
    char* weight = param + (reinterpret_cast<char*>(p.y) - grad);
    const Range range{weight, weight + p.m * p.n * item(call)};
    for (size_t later = c + 1; later < commit; later++)
      if (touches(calls[later], range, true)) return false;
    return true;
  }
};

// The activation whose gradient an op works out from the activation's output; -2 if it is none.
i64 gradient_of(const Call& call) {
  switch (call.op->id) {
    case op_relu_backward: return -1;  // a matmul's gate without an activation
    case op_sigmoid_backward_from_output: return 2;
    case op_tanh_backward_from_output: return 4;
    default: return -2;
  }
}

// Such a gradient of a matmul's result, if that is the first to touch it.
size_t gate_of(const std::vector<Call>& calls, size_t c) {
  const auto p = product_of(calls[c]);
  if (calls[c].op->id != op_matmul || p.bias || p.activation >= 0 || p.preactivation)
    return Stage::kNone;
  const char* y = reinterpret_cast<const char*>(p.y);
  const Range result{y, y + p.m * p.n * item(calls[c])};
  size_t next = c + 1;
  while (next < calls.size() && !touches(calls[next], result, true)) next++;
  if (next == calls.size() || gradient_of(calls[next]) < -1) return Stage::kNone;
  const auto g = arguments<relu_backward_args<float>>(calls[next]);
  const bool same = g.dy == p.y && g.dx == p.y && g.n == p.m * p.n;
  return same && calls[next].f64 == calls[c].f64 ? next : Stage::kNone;
}

// The column_sum of a matmul's right factor, if that is the next call.
size_t sum_of(const std::vector<Call>& calls, size_t c) {
  if (c + 1 == calls.size() || calls[c].op->id != op_matmul) return Stage::kNone;
  const auto p = product_of(calls[c]);
  const auto s = arguments<column_sum_args<float>>(calls[c + 1]);
  const bool same = p.m >= kSumRows && calls[c + 1].op->id == op_column_sum &&
                    calls[c + 1].f64 == calls[c].f64 && s.x == p.b && s.n == p.k && s.c == p.n &&
                    p.b_rs == p.n && p.b_cs == 1;
  return same ? c + 1 : Stage::kNone;
}

// Whether a matmul can rescale bytes that lie as its left factor does.
bool takes_bytes(const Call& call, const rescale_args<float>& r, bool f64) {
  if (call.op->id != op_matmul || call.f64 != f64) return false;
  const auto p = product_of(call);
  return p.a == r.y && p.b != r.y && p.m * p.k == r.n &&
         ((p.a_cs == 1 && p.a_rs == p.k) || (p.a_rs == 1 && p.a_cs == p.m));
}

// The matmuls that read what a rescale call writes, if nobody else does.
std::vector<size_t> readers_of(const std::vector<Call>& calls, size_t rescale) {
  std::vector<size_t> readers;
  if (calls[rescale].op->id != op_rescale) return readers;
  const auto r = arguments<rescale_args<float>>(calls[rescale]);
  const char* y = reinterpret_cast<const char*>(r.y);
  const Range result{y, y + r.n * item(calls[rescale])};
  for (size_t c = rescale + 1; c < calls.size(); c++) {
    const bool reads = touches(calls[c], result, false), writes = touches(calls[c], result, true);
    if (reads && !takes_bytes(calls[c], r, calls[rescale].f64)) return {};
    if (reads) readers.push_back(c);
    if (writes && !reads) break;  // the memory is used for something else from here on
  }
  return readers;
}

Call norm_of(const Call& whole, const void* x, i64 count, char* to) {
  Call call = whole;
  call.slots[call.op->find("n")->slot].i = count;
  call.slots[call.op->find("x")->slot].p = x;
  call.slots[call.op->find("norm")->slot].p = to;
  return call;
}

// Workspace of one thread for a product: rows of the gradient, then what the kernels need.
struct ProductScratch {
  i64 rows, kernels;
  ProductScratch(const Stage& stage, const std::vector<Call>& calls)
      : rows(round_up(stage.count * product_of(calls[stage.at]).n * item(calls[stage.at]))),
        kernels(round_up(std::max(
            calls[stage.at].op->scratch_bytes(calls[stage.at].slots, calls[stage.at].f64, 1),
            reduction_scratch(rows)))) {}
  i64 bytes() const { return rows + kernels; }
};

template <class T>
void run_product(const Stage& stage, const std::vector<Call>& calls, char* scratch, char* norms,
                 const Team& team) {
  const Call& update = calls[stage.update];
  const auto whole = arguments<matmul_args<T>>(whole_call(stage, calls));
  const ProductScratch size(stage, calls);
  char* rows = scratch + team.rank * size.bytes();
  share(team, (whole.m + stage.count - 1) / stage.count, [&](i64 task) {
    const i64 first = task * stage.count;
    auto p = whole;
    p.a += first * whole.a_rs;
    if (p.a_bytes) p.a_bytes += first * whole.a_rs;
    p.m = std::min(stage.count, whole.m - first);
    p.y = reinterpret_cast<T*>(rows);
    p.scratch = rows + size.rows;
    kernel(op_matmul, sizeof(T) == 8)(&p, &kAlone);
    const i64 count = p.m * p.n;
    if (stage.norm >= 0) {
      l2_norm_args<T> norm{count, p.y, reinterpret_cast<T*>(norms) + stage.norm + task, p.scratch};
      kernel(op_l2_norm, sizeof(T) == 8)(&norm, &kAlone);
    }
    run_call(part_of(update, stage.begin + first * p.n, count, p.y), p.scratch, kAlone);
  });
}

Stage part(size_t call, i64 begin, i64 count, i64 norm) {
  return {.work = Stage::part, .at = call, .begin = begin, .count = count, .norm = norm};
}

// Of parts: the root of the sum of their squares.
template <class T> void total(const Call& norm, const char* norms, i64 count) {
  const T* parts = reinterpret_cast<const T*>(norms);
  double sum = 0;
  for (i64 i = 0; i < count; i++)
    sum += static_cast<double>(parts[i]) * static_cast<double>(parts[i]);
  *arguments<l2_norm_args<T>>(norm).norm = static_cast<T>(sqrt(sum));
}

}  // namespace

Call part_of(const Call& whole, i64 begin, i64 count, const void* grad) {
  Call call = whole;
  call.slots[0].i = count;
  for (const Field& f : call.op->fields) {
    const void*& p = call.slots[f.slot].p;
    if ((!f.is_array() && !f.is_result()) || !p) continue;
    p = grad && f.name == "grad" ? grad : static_cast<const char*>(p) + begin * item(call);
  }
  return call;
}

Call whole_call(const Stage& stage, const std::vector<Call>& calls) {
  Call call = calls[stage.at];
  auto fuse = [&](const char* field) -> const void*& {
    return call.slots[call.op->find(field)->slot].p;
  };
  if (stage.rescale != Stage::kNone) {
    const Call& rescale = calls[stage.rescale];
    fuse("a_bytes") = arguments<rescale_args<float>>(rescale).x;
    fuse("a_scale") = &rescale.slots[rescale.op->find("scale")->slot].d;
  }
  if (stage.gate != Stage::kNone) {
    fuse("gate") = arguments<relu_backward_args<float>>(calls[stage.gate]).x;
    call.slots[call.op->find("activation")->slot].i = gradient_of(calls[stage.gate]);
  }
  if (stage.sum != Stage::kNone)
    fuse("b_sum") = arguments<column_sum_args<float>>(calls[stage.sum]).y;
  return call;
}

std::vector<Stage> stages_of(const std::vector<Call>& calls, size_t commit) {
  std::vector<Stage> stages;
  std::vector<bool> done(calls.size());
  std::vector<size_t> rescales(calls.size(), Stage::kNone);
  for (size_t c = 0; c < calls.size(); c++) {
    if (done[c]) continue;
    const std::vector<size_t> readers = readers_of(calls, c);
    for (size_t reader : readers) rescales[reader] = c;
    if (!readers.empty()) continue;
    Stage stage;
    stage.at = c;
    stage.rescale = rescales[c];
    if (c < commit) {
      stage.gate = gate_of(calls, c), stage.sum = sum_of(calls, c);
      for (size_t other : {stage.gate, stage.sum})
        if (other != Stage::kNone) done[other] = true;
    }
    stages.push_back(stage);
  }
  return stages;
}

std::vector<Stage> fused_stages(const std::vector<Call>& calls, size_t commit) {
  const Update update(calls, commit);
  if (!update.found) return {};
  const bool wants_norm = std::any_of(calls.begin() + static_cast<i64>(commit), calls.end(),
                                      [](const Call& c) { return c.op->id == op_l2_norm; });
  std::vector<Stage> stages;
  std::vector<std::pair<i64, i64>> fused;  // elements begin..end
  i64 norms = 0;
  for (Stage stage : stages_of(calls, commit)) {
    const size_t c = stage.at;
    if (c >= commit) break;
    if (update.fuses(c)) {
      const auto p = product_of(calls[c]);
      if (stage.sum != Stage::kNone) stages.push_back({Stage::call, stage.sum});
      stage.sum = Stage::kNone;
      stage.work = Stage::product;
      stage.update = update.at;
      stage.begin = (reinterpret_cast<char*>(p.y) - update.grad) / item(calls[c]);
      stage.count = std::max<i64>(kBufferBytes / (p.n * item(calls[c])) / 6, 1) * 6;
      if (wants_norm) stage.norm = norms, norms += (p.m + stage.count - 1) / stage.count;
      fused.push_back({stage.begin, stage.begin + p.m * p.n});
    }
    stages.push_back(stage);
  }
  if (fused.empty()) return {};
  std::sort(fused.begin(), fused.end());
  fused.push_back({update.n, update.n});
  for (size_t c = commit; c < calls.size(); c++) {
    const bool norm = update.is_norm(c);
    i64 begin = 0;
    for (auto [next, end] : fused) {
      if (begin < next && (norm || c == update.at))
        stages.push_back(part(c, begin, next - begin, norm ? norms++ : -1));
      begin = end;
    }
    if (norm) stages.push_back({.work = Stage::total_norm, .at = c, .norm = norms});
    if (!norm && c != update.at) stages.push_back({Stage::call, c});
  }
  return stages;
}

i64 norms(const std::vector<Stage>& stages) {
  for (const Stage& stage : stages)
    if (stage.work == Stage::total_norm) return stage.norm;
  return 0;
}

std::string describe(const Stage& stage, const std::vector<Call>& calls) {
  if (stage.work == Stage::blocks) {
    std::string names = "blocks: ";
    for (const Stage& member : stage.members)
      names += (&member == stage.members.data() ? "" : "; ") + describe(member, calls);
    return names;
  }
  std::string name = calls[stage.at].op->name;
  if (stage.rescale != Stage::kNone) name = "rescale + " + name;
  for (size_t other : {stage.gate, stage.sum, stage.update})
    if (other != Stage::kNone) name += " + " + calls[other].op->name;
  return name;
}

// Bytes that a left factor would take more in its calls' type.
static i64 widened(const Stage& stage, const std::vector<Call>& calls) {
  if (stage.rescale == Stage::kNone) return 0;
  return arguments<rescale_args<float>>(calls[stage.rescale]).n * (item(calls[stage.at]) - 1);
}

Work work(const Stage& stage, const std::vector<Call>& calls) {
  const Call& call = calls[stage.at];
  const std::string name = describe(stage, calls) + ' ';
  switch (stage.work) {
    case Stage::blocks: {
      Work all{"blocks of " + std::to_string(stage.count) + ": ", 0, 0};
      for (const Stage& member : stage.members) {
        const Work one = work(member, calls);
        all.name += (&member == stage.members.data() ? "" : "; ") + one.name;
        all.flops += one.flops, all.bytes += one.bytes;
      }
      return all;
    }
    case Stage::total_norm: return {name + "of parts", 0, stage.norm * item(call)};
    case Stage::part: {
      const Call part = part_of(call, stage.begin, stage.count, nullptr);
      return {name + shape_text(part), flops(part), bytes(part)};
    }
    case Stage::product: {
      const i64 elements = product_of(call).m * product_of(call).n;
      const Call update = part_of(calls[stage.update], stage.begin, elements, nullptr);
      const i64 moved = bytes(call, {"y"}) + bytes(update, {"grad"});
      return {name + shape_text(call), flops(call), moved - widened(stage, calls)};
    }
    default: {
      // Epilogues find what is the product's in registers.
      i64 moved = bytes(call) - widened(stage, calls);
      if (stage.gate != Stage::kNone) moved += bytes(calls[stage.gate], {"dy", "dx"});
      if (stage.sum != Stage::kNone) moved += bytes(calls[stage.sum], {"x"});
      return {name + shape_text(call), flops(call), moved};
    }
  }
}

double cost(const Stage& stage, const std::vector<Call>& calls) {
  const Call& call = calls[stage.at];
  auto whole = [](const Call& c) { return c.op->cost(c.slots, c.f64); };
  auto share = [&](const Call& c, i64 count) {
    return whole(c) * static_cast<double>(count) / static_cast<double>(c.slots[0].i);
  };
  switch (stage.work) {
    case Stage::blocks: {
      double sum = 0;
      for (const Stage& member : stage.members) sum += cost(member, calls);
      return sum;
    }
    case Stage::total_norm: return 0;
    case Stage::part: return share(call, stage.count);
    case Stage::product:
      return whole(call) + share(calls[stage.update], product_of(call).m * product_of(call).n);
    default: return whole(call);
  }
}

i64 scratch_bytes(const Stage& stage, const std::vector<Call>& calls, int threads) {
  const Call& call = calls[stage.at];
  if (stage.work == Stage::product) return threads * ProductScratch(stage, calls).bytes();
  if (stage.work == Stage::blocks) return blocks_scratch_bytes(stage, calls, threads);
  return call.op->scratch_bytes(call.slots, call.f64, threads);
}

void run_stage(const Stage& stage, const std::vector<Call>& calls, char* scratch, char* norms,
               const Team& team) {
  const Call& call = calls[stage.at];
  char* place = norms + stage.norm * item(call);
  switch (stage.work) {
    case Stage::call:
      return run_call(stage.alone() ? call : whole_call(stage, calls), scratch, team);
    case Stage::blocks: return run_blocks(stage, calls, scratch, team);
    case Stage::product:
      return call.f64 ? run_product<double>(stage, calls, scratch, norms, team)
                      : run_product<float>(stage, calls, scratch, norms, team);
    case Stage::part:
      if (stage.norm < 0)
        return run_call(part_of(call, stage.begin, stage.count, nullptr), scratch, team);
      return run_call(
          norm_of(call, arguments<l2_norm_args<char>>(call).x + stage.begin * item(call),
                  stage.count, place),
          scratch, team);
    case Stage::total_norm:
      if (team.rank > 0) return;
      return call.f64 ? total<double>(call, norms, stage.norm)
                      : total<float>(call, norms, stage.norm);
  }
}

}  // namespace fnn
