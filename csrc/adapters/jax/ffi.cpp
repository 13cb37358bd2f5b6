// The kernels as a foreign function of XLA on CPUs: the module fastnn._jax, whose one handler runs
// any op. It fills the argument struct from XLA's buffers as the contract says, shapes checked, and
// hands it to fastnn._core's table of functions; buffers are neither copied nor converted.
//
// Attributes of a call: `op`, the op's number; `arrays`, bit i set where the op's field i is an
// operand; `count`, how many times the op runs (a list of parameters); and the op's numbers by
// name, unless they have their default or are operands. Operands come call by call, in the
// contract's order; results likewise: arrays updated in place first, which XLA may have given the
// same memory.
#include "xla/ffi/api/ffi.h"

#include <pybind11/pybind11.h>
#include <string.h>

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../core/api.h"
#include "../../core/contract.h"

namespace py = pybind11;
namespace ffi = xla::ffi;

namespace fnn {
namespace {

const Api* api = nullptr;

template <class T> T value_of(ffi::ErrorOr<T> got) {
  if (got.has_error()) throw std::invalid_argument(got.error().message());
  return std::move(*got);
}

template <class T> T attribute(const ffi::Dictionary& attributes, std::string_view name) {
  return value_of(attributes.get<T>(name));
}

// Operands and results in turn.
struct Buffers {
  ffi::RemainingArgs operands;
  ffi::RemainingRets results;
  size_t operand = 0, result = 0;

  ffi::AnyBuffer next_operand() { return value_of(operands.get<ffi::AnyBuffer>(operand++)); }
  ffi::AnyBuffer next_result() { return *value_of(results.get<ffi::AnyBuffer>(result++)); }
};

i64 product(ffi::AnyBuffer::Dimensions shape, size_t begin, size_t end) {
  i64 n = 1;
  for (size_t i = begin; i < end; i++) n *= shape[i];
  return n;
}

std::string shape_text(ffi::AnyBuffer::Dimensions shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

// One call: slots that make up the op's struct, and the memory of what XLA holds otherwise.
class Filler {
 public:
  Filler(const OpInfo& op, const ffi::Dictionary& attributes, Slot* slots)
      : op_(op), attributes_(attributes), slots_(slots) {}

  void fill(Buffers& buffers);
  bool f64() const { return f64_; }

 private:
  [[noreturn]] void refuse(const Field& f, const std::string& text) const {
    throw std::invalid_argument(op_.name + ": " + f.name + " " + text);
  }
  void set_number(size_t i);
  void set_number(size_t i, ffi::AnyBuffer operand);
  void set_choice(const Field& f);
  void set_array(const Field& f, ffi::AnyBuffer operand);
  void set_matrix(const Field& f, ffi::AnyBuffer operand);
  void set_targets(const Field& f, ffi::AnyBuffer operand);
  void set_result(const Field& f, ffi::AnyBuffer result);
  void set_length(const Field& f, ffi::AnyBuffer::Dimensions shape, int slot, i64 length);
  void match_type(const Field& f, ffi::DataType type);
  void match_shape(const Field& f, ffi::AnyBuffer::Dimensions shape);
  bool wanted(const Field& f) const;
  i64 number(const char* name) const { return slots_[op_.find(name)->slot].i; }

  const OpInfo& op_;
  const ffi::Dictionary& attributes_;
  Slot* slots_;
  bool typed_ = false, f64_ = false;
  i64 last_axis_ = 1;
  double reals_[kMaxSlots];
  i64 integers_[kMaxSlots];
  std::vector<i64> labels_;
};

void Filler::fill(Buffers& buffers) {
  const std::vector<Field>& fields = op_.fields;
  const u64 given = static_cast<u64>(attribute<i64>(attributes_, "arrays"));
  for (size_t i = 0; i < fields.size(); i++) {  // numbers first: they say how to read the arrays
    const Field& f = fields[i];
    if (f.kind == Kind::dim) slots_[f.slot].i = -1;
    if (f.kind == Kind::choice) set_choice(f);
    if (f.kind >= Kind::real && f.kind != Kind::choice && f.kind != Kind::scratch) set_number(i);
  }
  std::vector<std::pair<const Field*, ffi::AnyBuffer>> updated;
  for (size_t i = 0; i < fields.size(); i++) {
    const Field& f = fields[i];
    const bool array = f.is_array() || f.kind == Kind::targets;
    if (!(given >> i & 1)) {
      if (array && !f.optional()) refuse(f, "is missing");
      continue;
    }
    if (!array && f.kind != Kind::scalar && f.kind != Kind::counter) refuse(f, "is no array");
    const ffi::AnyBuffer operand = buffers.next_operand();
    if (f.kind == Kind::scalar || f.kind == Kind::counter)
      set_number(i, operand);
    else if (f.kind == Kind::mat)
      set_matrix(f, operand);
    else if (f.kind == Kind::targets)
      set_targets(f, operand);
    else
      set_array(f, operand);
    if (f.is_inout()) updated.push_back({&f, operand});
  }
  for (const Field& f : fields)
    if (f.kind == Kind::dim && slots_[f.slot].i < 0)
      slots_[f.slot].i = f.text == "last" ? last_axis_ : 0;
  for (auto& [f, operand] : updated) {
    const ffi::AnyBuffer result = buffers.next_result();
    match_type(*f, result.element_type());
    match_shape(*f, result.dimensions());
    if (result.untyped_data() != operand.untyped_data())
      memcpy(result.untyped_data(), operand.untyped_data(), operand.size_bytes());
    slots_[f->slot].p = result.untyped_data();
  }
  for (const Field& f : fields)
    if (wanted(f)) set_result(f, buffers.next_result());
}

void Filler::set_number(size_t i) {
  const Field& f = op_.fields[i];
  const bool given = attributes_.contains(f.name);
  const bool real = f.kind == Kind::real || f.kind == Kind::scalar;
  reals_[i] = given && real ? attribute<double>(attributes_, f.name) : f.number;
  integers_[i] = given && !real ? attribute<i64>(attributes_, f.name) : f.integer;
  Slot& slot = slots_[f.slot];
  if (f.kind == Kind::scalar)
    slot.p = &reals_[i];
  else if (f.kind == Kind::counter)
    slot.p = &integers_[i];
  else if (real)
    slot.d = reals_[i];
  else
    slot.i = integers_[i];
}

void Filler::set_number(size_t i, ffi::AnyBuffer operand) {
  const Field& f = op_.fields[i];
  if (operand.element_count() != 1) refuse(f, "must be one number");
  switch (operand.element_type()) {
    case ffi::F32: reals_[i] = *operand.typed_data<float>(); break;
    case ffi::F64: reals_[i] = *operand.typed_data<double>(); break;
    case ffi::S32: integers_[i] = *operand.typed_data<int32_t>(); break;
    case ffi::S64: integers_[i] = *operand.typed_data<i64>(); break;
    default: refuse(f, "must be float32, float64, int32 or int64");
  }
  const bool real = operand.element_type() == ffi::F32 || operand.element_type() == ffi::F64;
  if (f.kind == Kind::scalar && !real) reals_[i] = static_cast<double>(integers_[i]);
  if (f.kind == Kind::counter && real) refuse(f, "must be an integer");
}

void Filler::set_choice(const Field& f) {
  Slot& slot = slots_[f.slot];
  slot.i = f.integer;
  if (!attributes_.contains(f.name)) return;
  const auto word = attribute<std::string_view>(attributes_, f.name);
  const auto found = std::find(f.words.begin(), f.words.end(), word);
  if (found == f.words.end()) refuse(f, "must not be '" + std::string(word) + "'");
  slot.i = found - f.words.begin();
}

void Filler::match_type(const Field& f, ffi::DataType type) {
  if (f.type == Type::T) {
    const bool f64 = type == ffi::F64;
    if (!f64 && type != ffi::F32) refuse(f, "must be float32 or float64");
    if (typed_ && f64 != f64_)
      refuse(f, std::string("must be ") + (f64_ ? "float64" : "float32") + " as the arrays before");
    typed_ = true;
    f64_ = f64;
  } else if (f.type == Type::i64 || type != (f.type == Type::boolean ? ffi::PRED : ffi::U8)) {
    refuse(f, f.type == Type::i64       ? "can't be passed: nothing would check the indices"
              : f.type == Type::boolean ? "must be bool"
                                        : "must be uint8");
  }
}

void Filler::set_length(const Field& f, ffi::AnyBuffer::Dimensions shape, int slot, i64 length) {
  i64& known = slots_[slot].i;
  if (known >= 0 && known != length)
    refuse(f, "must be of shape " + f.shape + ", which is at odds with " + shape_text(shape));
  known = length;
}

void Filler::match_shape(const Field& f, ffi::AnyBuffer::Dimensions shape) {
  const bool grouped = std::any_of(f.axes.begin(), f.axes.end(), [](Axis a) { return a.group; });
  const size_t plain = f.axes.size() - grouped;
  if (shape.size() < plain || (!grouped && shape.size() > plain))
    refuse(f, "must be of shape " + f.shape + ", got " + shape_text(shape));
  size_t at = 0;
  for (const Axis& axis : f.axes) {
    const size_t end = at + (axis.group ? shape.size() - plain : 1);
    set_length(f, shape, axis.slot, product(shape, at, end));
    at = end;
  }
}

void Filler::set_array(const Field& f, ffi::AnyBuffer operand) {
  const auto shape = operand.dimensions();
  if (!typed_ && shape.size() > 1) last_axis_ = shape.back();
  match_type(f, operand.element_type());
  match_shape(f, shape);
  slots_[f.slot].p = operand.untyped_data();
}

// C-contiguous; the transpose is one of strides.
void Filler::set_matrix(const Field& f, ffi::AnyBuffer operand) {
  match_type(f, operand.element_type());
  const auto shape = operand.dimensions();
  if (shape.size() < 2) refuse(f, "must be a matrix");
  i64 rows = product(shape, 0, shape.size() - 1), columns = shape.back();
  i64 row_stride = columns, column_stride = 1;
  if (number(("transpose_" + f.name).c_str())) {
    std::swap(rows, columns);
    std::swap(row_stride, column_stride);
  }
  set_length(f, shape, f.axes[0].slot, rows);
  set_length(f, shape, f.axes[1].slot, columns);
  slots_[f.slot].p = operand.untyped_data();
  slots_[f.slot + 1].i = row_stride;
  slots_[f.slot + 2].i = column_stride;
}

void Filler::set_targets(const Field& f, ffi::AnyBuffer operand) {
  const ffi::DataType type = operand.element_type();
  slots_[f.slot].p = slots_[f.slot + 1].p = nullptr;
  if (type == ffi::F32 || type == ffi::F64) {
    match_type(f, type);
    match_shape(f, operand.dimensions());
    slots_[f.slot + 1].p = operand.untyped_data();
    return;
  }
  const bool is_signed = type >= ffi::S8 && type <= ffi::S64;
  const i64 n = slots_[f.axes[0].slot].i, classes = slots_[f.axes[1].slot].i;
  if (!op_.find("ignore_index")) refuse(f, "can't be passed to this op");
  if (!is_signed && !(type >= ffi::U8 && type <= ffi::U64)) refuse(f, "must be integers");
  if (operand.dimensions().size() != 1 || operand.dimensions()[0] != n)
    refuse(f, "must be of shape (" + std::to_string(n) + ",)");
  const int size = static_cast<int>(ffi::ByteWidth(type));
  labels_.resize(static_cast<size_t>(n));
  const Integers labels{static_cast<const char*>(operand.untyped_data()), n, size, size, is_signed};
  if (const char* wrong =
          api->copy_labels(op_.id, labels, classes, number("ignore_index"), labels_.data()))
    throw std::invalid_argument(wrong);
  slots_[f.slot].p = labels_.data();
}

bool Filler::wanted(const Field& f) const {
  return f.is_result() && (f.kind != Kind::optout || number(f.text.c_str()));
}

void Filler::set_result(const Field& f, ffi::AnyBuffer result) {
  match_type(f, result.element_type());
  if (f.kind == Kind::loss &&
      op_.find("reduction")->words[static_cast<size_t>(number("reduction"))] != "none") {
    if (result.element_count() != 1) refuse(f, "must be one number");
  } else {
    // A product's leading dimensions are rows of the result.
    const auto shape = result.dimensions();
    i64 elements = 1;
    for (const Axis& axis : f.axes) elements *= slots_[axis.slot].i;
    if (product(shape, 0, shape.size()) != elements)
      refuse(f, "must be of shape " + f.shape + ", got " + shape_text(shape));
  }
  slots_[f.slot].p = result.untyped_data();
}

ffi::Error call(ffi::RemainingArgs operands, ffi::RemainingRets results,
                ffi::Dictionary attributes) {
  try {
    const auto id = static_cast<size_t>(attribute<i64>(attributes, "op"));
    const auto count = static_cast<size_t>(attribute<i64>(attributes, "count"));
    const OpInfo& op = all_ops().at(id);
    const auto step = static_cast<size_t>(op.slots);
    std::vector<Slot> slots(count * step);  // null: what a field is unless something sets it
    std::vector<Filler> fillers;
    fillers.reserve(count);
    Buffers buffers{operands, results};
    for (size_t i = 0; i < count; i++)
      fillers.emplace_back(op, attributes, slots.data() + i * step).fill(buffers);
    const bool f64 = count && fillers[0].f64();
    for (const Filler& filler : fillers)
      if (filler.f64() != f64)
        throw std::invalid_argument(op.name + ": all arrays of one call have one type");
    if (const char* wrong = api->run(op.id, f64, slots.data(), static_cast<i64>(count)))
      throw std::invalid_argument(wrong);
    return ffi::Error::Success();
  } catch (std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "not enough memory");
  } catch (std::exception& e) { return ffi::Error(ffi::ErrorCode::kInvalidArgument, e.what()); }
}

XLA_FFI_DEFINE_HANDLER(handler, call, ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs());

// Every op's fields in the contract's order, each with the type of its attribute.
py::dict fields() {
  const py::module_ numpy = py::module_::import("numpy");
  const py::object real = numpy.attr("float64"), integer = numpy.attr("int64");
  const py::handle text(reinterpret_cast<PyObject*>(&PyUnicode_Type));
  py::dict all;
  for (const OpInfo& op : all_ops()) {
    py::dict types;
    for (const Field& f : op.fields)
      types[py::str(f.name)] = f.kind == Kind::choice ? text
                               : f.kind == Kind::real || f.kind == Kind::scalar
                                   ? py::handle(real)
                                   : py::handle(integer);
    all[py::str(op.name)] = types;
  }
  return all;
}

}  // namespace
}  // namespace fnn

PYBIND11_MODULE(_jax, m, py::mod_gil_not_used()) {
  m.doc() = "fastnn's kernels as a foreign function of XLA.";
  fnn::api = static_cast<const fnn::Api*>(PyCapsule_Import("fastnn._core._api", 0));
  PyErr_Clear();
  if (!fnn::api || strcmp(fnn::api->contract, fnn::kContract) != 0)
    throw py::import_error("fastnn._jax is of another build than fastnn._core");
  m.attr("handler") = py::capsule(reinterpret_cast<void*>(fnn::handler), "xla._CUSTOM_CALL_TARGET");
  m.def("fields", fnn::fields,
        "Every op's fields in the contract's order, each with the type of its attribute.");
}
