// Class indices from NumPy arrays of any integer type.
#pragma once
#include <pybind11/numpy.h>

#include "../core/contract.h"

namespace fnn {

namespace py = pybind11;

// What a label may be: 0 .. classes - 1, or `ignored`.
struct LabelRange {
  i64 classes, ignored;
};

bool are_integers(const py::array& labels);

// Copies a C-contiguous 1-d array of integers. Returns the row of the first label out of range,
// where it stops, else the number of rows.
i64 copy_labels(const py::array& labels, LabelRange range, i64* to);

// A copy as int64; raises if the array has another shape or type or a label is out of range.
py::array check_labels(const py::array& labels, i64 classes, i64 ignored, const std::string& where);

}  // namespace fnn
