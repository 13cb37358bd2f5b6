#include "work.h"

#include <algorithm>

namespace fnn {
namespace {

i64 item_size(const Field& f, bool f64) {
  switch (f.type) {
    case Type::T: return f64 ? 8 : 4;
    case Type::i64: return 8;
    default: return 1;
  }
}

i64 length(const Call& call, const Field& f) {
  i64 n = 1;
  for (const Axis& axis : f.axes) n *= call.slots[axis.slot].i;
  return n;
}

// A loss is one number, but for reduction="none", the last of its words.
bool is_reduced(const Call& call, const Field& f) {
  return f.kind == Kind::loss && call.slots[call.op->find("reduction")->slot].i != 2;
}

i64 bytes_of(const Call& call, const Field& f) {
  if (f.kind == Kind::targets && call.slots[f.slot].p)
    return 8 * call.slots[f.axes[0].slot].i;  // labels
  if (f.kind != Kind::targets && !call.slots[f.slot].p) return 0;
  const i64 n = is_reduced(call, f) ? 1 : length(call, f);
  return n * item_size(f, call.f64) * (f.is_inout() ? 2 : 1);
}

// Whether a matrix is read along its columns.
bool transposed(const Call& call, const char* name) {
  const Slot* slots = call.slots + call.op->find(name)->slot;
  return slots[1].i == 1 && slots[2].i != 1;
}

std::string joined(const Call& call, std::initializer_list<const char*> names) {
  std::string text;
  for (const char* name : names)
    text += (text.empty() ? "" : "x") + std::to_string(call.slots[call.op->find(name)->slot].i);
  return text;
}

}  // namespace

std::string shape_text(const Call& call) {
  if (call.op->id == op_matmul)
    return joined(call, {"m", "k", "n"}) + (transposed(call, "a") ? " a.T" : "") +
           (transposed(call, "b") ? " b.T" : "");
  std::string text;
  for (const Field& f : call.op->fields) {
    if (!f.is_array()) continue;
    for (const Axis& axis : f.axes) {
      const i64 n = call.slots[axis.slot].i;
      if (axis.group && n == 1 && !text.empty()) continue;  // no such axes
      text += (text.empty() ? "" : "x") + std::to_string(n);
    }
    break;
  }
  return text;
}

i64 flops(const Call& call) {
  if (call.op->id != op_matmul) return 0;
  const auto length = [&](const char* name) { return call.slots[call.op->find(name)->slot].i; };
  return 2 * length("m") * length("n") * length("k");
}

i64 bytes(const Call& call, std::initializer_list<std::string_view> left_out) {
  i64 total = 0;
  for (const Field& f : call.op->fields) {
    if (!f.is_array() && !f.is_result() && f.kind != Kind::targets) continue;
    if (std::find(left_out.begin(), left_out.end(), f.name) == left_out.end())
      total += bytes_of(call, f);
  }
  return total;
}

}  // namespace fnn
