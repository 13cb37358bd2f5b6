#include "labels.h"

#include <utility>

namespace fnn {
namespace {

// f(Integer{}) with the type of the labels.
template <class F> auto with_integer(DType dtype, F&& f) {
  switch (dtype) {
    case DType::i8: return f(int8_t{});
    case DType::i16: return f(int16_t{});
    case DType::i32: return f(int32_t{});
    case DType::u8_: return f(uint8_t{});
    case DType::u16: return f(uint16_t{});
    case DType::u32: return f(uint32_t{});
    case DType::u64_: return f(uint64_t{});
    default: return f(int64_t{});
  }
}

template <class Integer> Integer read(const char* from) {
  Integer value;  // may lie at any address
  memcpy(&value, from, sizeof value);
  return value;
}

template <class Integer> bool accepts(const LabelRange& range, Integer label) {
  if (std::cmp_greater_equal(label, 0) && std::cmp_less(label, range.classes)) [[likely]]
    return true;
  return range.ignored && std::cmp_equal(label, *range.ignored);
}

}  // namespace

i64 copy_labels(const View& labels, const LabelRange* range, i64* to) {
  return with_integer(labels.dtype, [&]<class Integer>(Integer) {
    const i64 n = labels.shape[0], stride = labels.strides[0];
    const char* from = labels.data;
    for (i64 r = 0; r < n; r++, from += stride) {
      const Integer label = read<Integer>(from);
      if (range && !accepts(*range, label)) return r;
      to[r] = static_cast<i64>(label);
    }
    return n;
  });
}

std::string label_text(const View& labels, i64 r) {
  return with_integer(labels.dtype, [&]<class Integer>(Integer) {
    return std::to_string(read<Integer>(labels.data + r * labels.strides[0]));
  });
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
  i64 row = copy_labels(view, &range, result.mutable_data());
  if (row < view.shape[0])
    raise("LabelError", where + ": label " + label_text(view, row) + " at row " +
                            std::to_string(row) + "; valid 0.." + std::to_string(classes - 1));
  return result;
}

}  // namespace fnn
