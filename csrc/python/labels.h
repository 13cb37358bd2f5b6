// Class indices and row numbers of any integer type, copied as int64 and checked in the same pass.
#pragma once
#include <optional>

#include "arrays.h"

namespace fnn {

// What a label may be: 0 .. classes - 1, or `ignored` where there is one.
struct LabelRange {
  i64 classes;
  std::optional<i64> ignored;
};

// Copies 1-d integers. Returns the row of the first one out of range, where it stops, else the
// number of rows. Without a range all are taken.
i64 copy_labels(const View& labels, const LabelRange* range, i64* to);

// Entry r as text.
std::string label_text(const View& labels, i64 r);

// A copy as int64; raises if the array has another shape or type or a label is out of range.
py::array check_labels(const py::array& labels, i64 classes, i64 ignored, const std::string& where);

}  // namespace fnn
