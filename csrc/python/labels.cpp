#include "labels.h"

#include <string>
#include <utility>

#include "arrays.h"

namespace fnn {
namespace {

template <class Integer> i64 copy(const py::array& labels, LabelRange range, i64* to) {
  auto from = static_cast<const Integer*>(labels.data());
  const i64 n = labels.shape(0);
  for (i64 r = 0; r < n; r++) {
    const Integer label = from[r];
    if (!(std::cmp_greater_equal(label, 0) && std::cmp_less(label, range.classes)) &&
        !std::cmp_equal(label, range.ignored))
      return r;
    to[r] = static_cast<i64>(label);
  }
  return n;
}

}  // namespace

bool are_integers(const py::array& labels) {
  const char kind = labels.dtype().kind();
  return kind == 'i' || kind == 'u';
}

i64 copy_labels(const py::array& labels, LabelRange range, i64* to) {
  const bool is_signed = labels.dtype().kind() == 'i';
  switch (labels.itemsize()) {
    case 1: return is_signed ? copy<int8_t>(labels, range, to) : copy<uint8_t>(labels, range, to);
    case 2: return is_signed ? copy<int16_t>(labels, range, to) : copy<uint16_t>(labels, range, to);
    case 4: return is_signed ? copy<int32_t>(labels, range, to) : copy<uint32_t>(labels, range, to);
    default:
      return is_signed ? copy<int64_t>(labels, range, to) : copy<uint64_t>(labels, range, to);
  }
}

py::array check_labels(const py::array& labels, i64 classes, i64 ignored,
                       const std::string& where) {
  if (labels.ndim() != 1)
    raise("ShapeError", where + ": labels must have shape (n,), got " + describe(labels.ptr()));
  if (!are_integers(labels))
    raise("DTypeError", where + ": labels must be integers, got " + describe(labels.ptr()));
  py::array_t<i64> result(labels.shape(0));
  i64 row = copy_labels(labels, {classes, ignored}, result.mutable_data());
  if (row < labels.shape(0))
    raise("LabelError", where + ": label " + std::string(py::str(labels[py::int_(row)])) +
                            " at row " + std::to_string(row) + "; valid 0.." +
                            std::to_string(classes - 1));
  return result;
}

}  // namespace fnn
