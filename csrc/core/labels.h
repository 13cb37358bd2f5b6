// Class indices and row numbers of any integer type, copied as int64 and checked in the same pass.
#pragma once
#include <optional>
#include <string>

#include "api.h"

namespace fnn {

// What a label may be: 0 .. classes - 1, or `ignored` where there is one.
struct LabelRange {
  i64 classes;
  std::optional<i64> ignored;
};

// Returns the row of the first one out of range, where it stops, else the number of rows. Without
// a range all are taken.
i64 copy_labels(const Integers& labels, const LabelRange* range, i64* to);

// Entry r as text.
std::string label_text(const Integers& labels, i64 r);

// "label 7 at row 3; valid 0..4"
std::string wrong_label_text(const Integers& labels, i64 r, i64 classes);

}  // namespace fnn
