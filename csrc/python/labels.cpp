#include "labels.h"

namespace fnn {

Integers integers(const View& view) {
  return {view.data, view.shape[0], view.strides[0], static_cast<int>(item_size(view.dtype)),
          view.dtype <= DType::i64_};
}

py::array check_labels(const py::array& labels, i64 classes, i64 ignored,
                       const std::string& where) {
  View view;
  view_array(labels.ptr(), view, where.c_str(), "labels");
  if (view.ndim != 1)
    raise("ShapeError", where + ": labels must have shape (n,), got " + describe(labels.ptr()));
  if (!is_integer(view.dtype))
    raise("DTypeError", where + ": labels must be integers, got " + describe(labels.ptr()));
  py::array_t<i64> result(view.shape[0]);
  const LabelRange range{classes, ignored};
  const Integers all = integers(view);
  i64 row = copy_labels(all, &range, result.mutable_data());
  if (row < all.n) raise("LabelError", where + ": " + wrong_label_text(all, row, classes));
  return result;
}

}  // namespace fnn
