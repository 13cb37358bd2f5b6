// Labels in Python arrays.
#pragma once
#include "../core/labels.h"
#include "arrays.h"

namespace fnn {

Integers integers(const View& view);  // of a 1-d view of an integer type

// A copy as int64; raises if the array has another shape or type or a label is out of range.
py::array check_labels(const py::array& labels, i64 classes, i64 ignored, const std::string& where);

}  // namespace fnn
