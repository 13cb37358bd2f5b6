#include "labels.h"

#include <string.h>

#include <utility>

namespace fnn {
namespace {

// f(Integer{}) with the type of the labels.
template <class F> auto with_integer(const Integers& labels, F&& f) {
  switch (labels.size) {
    case 1: return labels.is_signed ? f(int8_t{}) : f(uint8_t{});
    case 2: return labels.is_signed ? f(int16_t{}) : f(uint16_t{});
    case 4: return labels.is_signed ? f(int32_t{}) : f(uint32_t{});
    default: return labels.is_signed ? f(int64_t{}) : f(uint64_t{});
  }
}

template <class Integer> Integer read(const char* from) {
  Integer value;
  memcpy(&value, from, sizeof value);
  return value;
}

template <class Integer> bool accepts(const LabelRange& range, Integer label) {
  if (std::cmp_greater_equal(label, 0) && std::cmp_less(label, range.classes)) [[likely]]
    return true;
  return range.ignored && std::cmp_equal(label, *range.ignored);
}

}  // namespace

i64 copy_labels(const Integers& labels, const LabelRange* range, i64* to) {
  return with_integer(labels, [&]<class Integer>(Integer) {
    const i64 n = labels.n, stride = labels.stride;
    const char* from = labels.data;
    for (i64 r = 0; r < n; r++, from += stride) {
      const Integer label = read<Integer>(from);
      if (range && !accepts(*range, label)) return r;
      to[r] = static_cast<i64>(label);
    }
    return n;
  });
}

std::string label_text(const Integers& labels, i64 r) {
  return with_integer(labels, [&]<class Integer>(Integer) {
    return std::to_string(read<Integer>(labels.data + r * labels.stride));
  });
}

std::string wrong_label_text(const Integers& labels, i64 r, i64 classes) {
  return "label " + label_text(labels, r) + " at row " + std::to_string(r) + "; valid 0.." +
         std::to_string(classes - 1);
}

}  // namespace fnn
