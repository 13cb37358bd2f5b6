#include "api.h"

#include <string.h>

#include <new>
#include <string>
#include <utility>
#include <vector>

#include "../core/labels.h"
#include "plan.h"

namespace fnn {
namespace {

const char* keep(std::string text) {
  static thread_local std::string kept;
  kept = std::move(text);
  return kept.c_str();
}

const char* run(int op, bool f64, const void* args, i64 count) {
  const OpInfo& info = all_ops()[static_cast<size_t>(op)];
  const size_t n = static_cast<size_t>(count), step = static_cast<size_t>(info.slots);
  const Slot* slots = static_cast<const Slot*>(args);
  for (size_t i = 0; i < n; i++)
    if (const char* text = info.check(slots + i * step, f64))
      return keep(info.name + ": " + fill_in(info, slots + i * step, text));
  try {
    Call one;  // most often there is one
    std::vector<Call> several(n > 1 ? n : 0);
    Call* calls = n > 1 ? several.data() : &one;
    for (size_t i = 0; i < n; i++) {
      calls[i].op = &info;
      calls[i].f64 = f64;
      memcpy(calls[i].slots, slots + i * step, step * sizeof(Slot));
    }
    run_now(calls, n);
  } catch (std::bad_alloc&) { return keep(info.name + ": not enough memory for the workspace"); }
  return nullptr;
}

const char* copy_labels(int op, const Integers& labels, i64 classes, i64 ignored, i64* to) {
  const LabelRange range{classes, ignored};
  const i64 row = fnn::copy_labels(labels, &range, to);
  if (row == labels.n) return nullptr;
  return keep(all_ops()[static_cast<size_t>(op)].name + ": " +
              wrong_label_text(labels, row, classes));
}

}  // namespace

const Api& api() {
  static const Api table{kContract, run, copy_labels};
  return table;
}

}  // namespace fnn
