#include "binder.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "gil.h"

namespace fnn {

thread_local Recorder* recorder = nullptr;

namespace {

std::string dim_name(const OpInfo& op, int slot) {
  for (const Field& f : op.fields)
    if (f.kind == Kind::dim && f.slot == slot) return f.name;
  return "?";
}

bool is_none(PyObject* o) { return !o || o == Py_None; }

std::string type_name(PyObject* o) { return Py_TYPE(o)->tp_name; }

}  // namespace

// Length of the last axis behind the examples' one, in the first array.
i64 Binder::last_axis() const {
  for (const View& v : views_)
    if (v.object) return v.ndim > 1 ? v.shape[v.ndim - 1] : 1;
  return 1;
}

i64 Binder::product(const i64* shape, int count, const Field& f) const {
  i64 n = 1;
  for (int i = 0; i < count; i++)
    if (__builtin_mul_overflow(n, shape[i], &n))
      throw py::value_error(where(f) +
                            " has more elements than 63 bits count: " + shape_text(shape, count));
  return n;
}

void Binder::bind() {
  const auto& fields = op_.fields;
  int count = static_cast<int>(fields.size());
  for (int i = 0; i < count; i++) {
    const Field& f = fields[i];
    if (f.kind == Kind::dim) call.slots[f.slot].i = -1;
    if (f.kind == Kind::scratch || f.kind == Kind::fused) call.slots[f.slot].p = nullptr;
    if (f.kind == Kind::halves) call.slots[f.slot].i = 0;
    if (f.kind >= Kind::real && f.kind != Kind::choice && f.kind != Kind::scratch) bind_number(i);
    if (f.kind == Kind::choice) bind_choice(i);
  }
  for (int i = 0; i < count; i++) {
    if (fields[i].kind == Kind::mat)
      bind_matrix(i);
    else if (fields[i].is_array())
      bind_array(i);
    else if (fields[i].kind == Kind::targets)
      bind_targets(i);
  }
  for (int i = 0; i < count && numbers_on_device_; i++)
    if (fields[i].kind >= Kind::real && views_[i].object) take_library(fields[i], views_[i]);
  for (int i = 0; i < count; i++)
    if (fields[i].kind == Kind::dim && call.slots[fields[i].slot].i < 0)
      call.slots[fields[i].slot].i = fields[i].text == "last" ? last_axis() : 0;
  if (const char* text = op_.check(call.slots, call.f64))
    throw py::value_error(op_.name + ": " + fill_in(op_, call.slots, text));
  if (on_device() && !cuda().has_kernel(op_.id, call.f64))
    raise("DeviceError", op_.name + ": there is no CUDA kernel for it yet");
  if (on_device()) look_for_bad_index(queue_, op_.name);
  bind_results();
  check_overlaps();
  // Only now, when nothing can be refused any more, may memory of the caller be copied.
  for (const Temporary& t : temporaries_)
    if (!fields[t.field].is_result()) copy(t, false);
  if (!on_device()) return;
  for (const Temporary& t : indices_) copy_indices(t);
  store_numbers();
}

// Between the caller's memory and a C-contiguous copy.
void Binder::copy(const Temporary& t, bool back) {
  const View& v = views_[t.field];
  const size_t item = item_size(v.dtype);
  i64 strides[kMaxAxes];
  c_strides(v.shape, v.ndim, item, strides);
  if (!on_device() && back)
    copy_strided(v.data, v.strides, t.memory.get(), strides, v.shape, v.ndim, item);
  else if (!on_device())
    copy_strided(t.memory.get(), strides, v.data, v.strides, v.shape, v.ndim, item);
  if (!on_device()) return;
  CudaCopy c;
  c.to = back ? v.data : t.memory.get();
  c.from = back ? t.memory.get() : v.data;
  c.ndim = v.ndim;
  c.item = static_cast<int>(item);
  std::copy(v.shape, v.shape + v.ndim, c.shape);
  std::copy(v.strides, v.strides + v.ndim, back ? c.to_strides : c.from_strides);
  std::copy(strides, strides + v.ndim, back ? c.from_strides : c.to_strides);
  check_cuda(cuda().copy(queue_, c), op_.name, queue_.device);
}

void Binder::launch() {
  const i64 bytes = cuda().workspace(op_.id, call.f64, call.slots);
  Memory workspace;
  if (bytes > 0) workspace = allocate_on(queue_, bytes, op_.name);
  CudaError error;
  {
    Unlocked unlocked;
    error = cuda().launch(queue_, op_.id, call.f64, call.slots, workspace.get());
  }
  check_cuda(error, op_.name, queue_.device);
}

void Binder::launch(const std::vector<std::unique_ptr<Binder>>& list) {
  const Binder& first = *list[0];
  std::vector<const void*> args;
  for (const auto& binder : list) args.push_back(binder->call.slots);
  CudaError error;
  {
    Unlocked unlocked;
    error = cuda().launch_list(first.queue_, first.op_.id, first.call.f64, args.data(),
                               static_cast<int>(args.size()));
  }
  check_cuda(error, first.op_.name, first.queue_.device);
}

// ---- numbers -------------------------------------------------------------------------------

void Binder::bind_number(int i) {
  const Field& f = op_.fields[i];
  Slot& slot = call.slots[f.slot];
  PyObject* value = values[i];
  if (!value && f.standard.empty()) throw py::type_error(op_.name + ": missing argument " + f.name);
  bool real = f.kind == Kind::real || f.kind == Kind::scalar;
  bool pointer = f.kind == Kind::scalar || f.kind == Kind::counter;
  if (pointer && recorder && value && py::isinstance<py::array>(value)) {
    auto array = py::reinterpret_borrow<py::array>(value);
    if (array.ndim() != 0 || array.dtype().char_() != (real ? 'd' : 'l'))
      throw py::type_error(where(f) + " must be a 0-d " + (real ? "float64" : "int64") +
                           " array while recording, got " + describe(value));
    slot.p = array.data();
    recorder->keep_alive.append(array);
    return;
  }
  if (pointer && recorder && value)
    throw py::type_error(where(f) + " must be a 0-d array while recording, got " +
                         type_name(value));
  if (pointer && value && bind_device_number(i)) return;
  double number = 0;
  i64 integer = 0;
  if (!value) {
    if (real)
      number = f.number;
    else
      integer = f.integer;
  } else if (real) {
    number = PyFloat_AsDouble(value);
    if (number == -1 && PyErr_Occurred()) {
      PyErr_Clear();
      throw py::type_error(where(f) + " must be a number, got " + describe(value));
    }
  } else if (f.kind == Kind::flag) {
    int truth = PyBool_Check(value) || PyLong_Check(value) || PyObject_HasAttrString(value, "dtype")
                    ? PyObject_IsTrue(value)
                    : -1;
    if (truth < 0) {
      PyErr_Clear();
      throw py::type_error(where(f) + " must be True or False, got " + describe(value));
    }
    integer = truth;
  } else {
    py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(value));
    if (!index) {
      PyErr_Clear();
      throw py::type_error(where(f) + " must be an integer, got " + describe(value));
    }
    bool is_seed = f.name == "seed";
    integer = is_seed ? static_cast<i64>(PyLong_AsUnsignedLongLong(index.ptr()))
                      : PyLong_AsLongLong(index.ptr());
    if (PyErr_Occurred()) {
      PyErr_Clear();
      throw py::value_error(
          where(f) + (is_seed ? " must be in 0 .. 2^64 - 1, got " : " must fit 64 bits, got ") +
          std::string(py::str(index)));
    }
  }
  numbers_[i] = number;
  counters_[i] = integer;
  if (f.kind == Kind::scalar)
    slot.p = &numbers_[i];
  else if (f.kind == Kind::counter)
    slot.p = &counters_[i];
  else if (real)
    slot.d = number;
  else
    slot.i = integer;
}

// A 0-d array on a device stays there. Until store_numbers(), the checks see a number that they
// let pass.
bool Binder::bind_device_number(int i) {
  PyObject* value = values[i];
  if (PyFloat_Check(value) || PyLong_Check(value) || recorder ||
      !(PyObject_HasAttrString(value, "__dlpack_device__") ||
        PyObject_HasAttrString(value, "__cuda_array_interface__")))
    return false;
  const Field& f = op_.fields[i];
  View& v = views_[i];
  view_array(value, v, op_.name.c_str(), f.name.c_str());
  if (v.device < 0) {
    v = View();
    return false;
  }
  const bool fits = is_integer(v.dtype) ||
                    (f.kind == Kind::scalar && (v.dtype == DType::f32 || v.dtype == DType::f64));
  if (v.size() != 1 || !fits)
    throw py::type_error(where(f) + " must be a number or a 0-d array, got " + describe(value));
  numbers_on_device_ = true;
  numbers_[i] = 1;
  counters_[i] = 1;
  Slot& slot = call.slots[f.slot];
  if (f.kind == Kind::scalar)
    slot.p = &numbers_[i];
  else
    slot.p = &counters_[i];
  return true;
}

CudaElement element_of(DType dtype) {
  const bool real = dtype == DType::f32 || dtype == DType::f64;
  return {real ? 'f' : dtype <= DType::i64_ ? 'i' : 'u', static_cast<int>(item_size(dtype))};
}

// Numbers that the kernel reads through pointers, to the device.
void Binder::store_numbers() {
  CudaNumbers numbers;
  numbers.count = 0;
  int fields[kCudaNumbers];
  for (int i = 0; i < static_cast<int>(op_.fields.size()); i++) {
    const Field& f = op_.fields[i];
    if (f.kind != Kind::scalar && f.kind != Kind::counter) continue;
    Slot& slot = call.slots[f.slot];
    if (numbers_of) {
      slot = numbers_of->call.slots[f.slot];
      continue;
    }
    const View& v = views_[i];
    const bool real = f.kind == Kind::scalar;
    if (v.object && v.dtype == (real ? DType::f64 : DType::i64_) && v.aligned()) {
      slot.p = v.data;
      continue;
    }
    if (numbers.count == kCudaNumbers)
      throw std::logic_error("more than kCudaNumbers numbers by pointer");
    fields[numbers.count] = i;
    numbers.each[numbers.count++] = {
        real, real ? std::bit_cast<u64>(numbers_[i]) : static_cast<u64>(counters_[i]),
        v.object ? v.data : nullptr, v.object ? element_of(v.dtype) : CudaElement{}};
  }
  if (numbers.count == 0) return;
  device_numbers_ = take_memory(static_cast<size_t>(numbers.count) * sizeof(u64));
  numbers.to = reinterpret_cast<u64*>(device_numbers_.get());
  check_cuda(cuda().store_numbers(queue_, numbers), op_.name, queue_.device);
  for (int k = 0; k < numbers.count; k++) call.slots[op_.fields[fields[k]].slot].p = numbers.to + k;
}

void Binder::bind_choice(int i) {
  const Field& f = op_.fields[i];
  PyObject* value = values[i];
  Slot& slot = call.slots[f.slot];
  i64 standard = f.integer;
  slot.i = standard;
  if (!value || (value == Py_None && standard < 0)) return;
  std::string word = PyUnicode_Check(value) ? PyUnicode_AsUTF8(value) : "";
  auto found = std::find(f.words.begin(), f.words.end(), word);
  slot.i = found - f.words.begin();
  if (found != f.words.end()) return;
  std::string words;
  for (const std::string& w : f.words) words += (words.empty() ? "'" : ", '") + w + "'";
  std::string got = PyUnicode_Check(value) ? "'" + word + "'" : describe(value);
  throw py::value_error(where(f) + " must be " + (standard < 0 ? "None, " : "") + words + ", got " +
                        got);
}

// ---- arrays --------------------------------------------------------------------------------

std::string Binder::expected(const Field& f) const {
  const char* types[] = {"float32 or float64", "integers", "uint8", "bool"};
  std::string text = types[static_cast<int>(f.type)];
  if (f.type == Type::T && takes(DType::bf16)) text = "float32, float64, bfloat16 or float16";
  if (f.type == Type::T && type_field_ >= 0) text = name_of(type_);
  if (f.kind == Kind::targets) text = "integers";
  text += " of shape " +
          (f.kind == Kind::targets ? "(" + dim_name(op_, f.axes[0].slot) + ",)" : f.shape);
  std::string with;
  size_t known = f.kind == Kind::targets ? 1 : f.axes.size();
  for (size_t a = 0; a < known; a++) {
    int slot = f.axes[a].slot;
    if (f.axes[a].group && axes_[slot].count >= 0)
      with += (with.empty() ? " with " : ", ") + dim_name(op_, slot) +
              "...=" + shape_text(axes_[slot].shape, axes_[slot].count);
    else if (!f.axes[a].group && call.slots[slot].i >= 0)
      with += (with.empty() ? " with " : ", ") + dim_name(op_, slot) + "=" +
              std::to_string(call.slots[slot].i);
  }
  return text + with;
}

void Binder::wrong_shape(const Field& f, const View& v) const {
  raise("ShapeError", where(f) + " must be " + expected(f) + ", got " + describe(v.object));
}

void Binder::wrong_dtype(const Field& f, PyObject* object) const {
  std::string text = where(f) + " must be " + expected(f) + ", got " + describe(object);
  std::string dtype = describe(object);
  if (dtype.starts_with(">")) {
    dtype = dtype.substr(1, dtype.find(' ') - 1);
    text = where(f) + " is big-endian ('>" + dtype + "'); use .astype('<" + dtype + "')";
  } else if (type_field_ >= 0 && f.type == Type::T) {
    const Field& first = op_.fields[type_field_];
    text += " (" + first.name + " is " + name_of(type_) + "); all arrays of one call have one type";
  }
  raise("DTypeError", text);
}

void Binder::take_library(const Field& f, const View& v) {
  auto device_text = [](int device) {
    return device < 0 ? std::string("the CPU") : "cuda:" + std::to_string(device);
  };
  if (library_ == Library::none) {
    library_ = v.library;
    like_ = v.object;
    if (v.device >= 0) queue_ = current_queue(library_, v.device);
    if (recorder && on_device())
      raise("DeviceError", where(f) + " must be an array on the CPU while recording, got one on " +
                               device_text(v.device));
  } else if (library_ != v.library) {
    throw py::type_error(where(f) + " is an array of " + name_of(v.library) +
                         " but the arrays before it are of " + name_of(library_) +
                         "; all arrays of one call come from one library");
  } else if (queue_.device != v.device) {
    throw py::value_error(where(f) + " is on " + device_text(v.device) +
                          " but the arrays before it are on " + device_text(queue_.device) +
                          "; all arrays of one call are on one device");
  }
  if (v.stream && v.stream != queue_.stream)
    check_cuda(cuda().wait_for_stream(queue_, v.stream), op_.name, v.device);
}

bool Binder::takes(DType dtype) const {
  if (dtype == DType::f32 || dtype == DType::f64) return true;
  const bool halves = on_device() && op_.halves_slot >= 0;
  return halves && (dtype == DType::bf16 || dtype == DType::f16);
}

void Binder::set_type(int field, DType dtype) {
  type_field_ = field;
  type_ = dtype;
  call.f64 = dtype == DType::f64;
  if (op_.halves_slot < 0) return;
  call.slots[op_.halves_slot].i = dtype == DType::bf16 ? 1 : dtype == DType::f16 ? 2 : 0;
}

void Binder::take_type(int i) {
  const Field& f = op_.fields[i];
  const View& v = views_[i];
  if (f.type == Type::T) {
    if (!takes(v.dtype) || (type_field_ >= 0 && v.dtype != type_)) wrong_dtype(f, v.object);
    if (type_field_ < 0) set_type(i, v.dtype);
  } else if (f.type == Type::i64 ? !is_integer(v.dtype) : v.dtype != dtype_of(f.type, type_)) {
    wrong_dtype(f, v.object);
  }
}

void Binder::settle_dim(int slot, const i64* shape, int count, const Field& f, const View& v) {
  i64& length = call.slots[slot].i;
  if (length >= 0 && axes_[slot].count >= 0) {
    if (count != axes_[slot].count || !std::equal(shape, shape + count, axes_[slot].shape))
      wrong_shape(f, v);
    return;
  }
  i64 n = product(shape, count, f);
  if (length >= 0 && length != n) wrong_shape(f, v);
  length = n;
  axes_[slot] = {shape, count};
}

void Binder::match_shape(const Field& f, const View& v) {
  int plain = 0, grouped = 0;
  for (const Axis& axis : f.axes) (axis.group ? grouped : plain)++;
  int rest = v.ndim - plain;
  if (rest < 0 || (!grouped && rest)) wrong_shape(f, v);
  product(v.shape, v.ndim, f);
  int at = 0;
  for (const Axis& axis : f.axes) {
    if (axis.group) {
      settle_dim(axis.slot, v.shape + at, rest, f, v);
      at += rest;
      continue;
    }
    i64& length = call.slots[axis.slot].i;
    if (length >= 0 && length != v.shape[at]) wrong_shape(f, v);
    length = v.shape[at++];
  }
}

void Binder::require_writeable(const Field& f, const View& v) {
  if (v.library == Library::jax)
    throw py::type_error(
        where(f) + " would be written in place, which JAX arrays don't allow; use fastnn.jax");
  if (!v.writeable) throw py::value_error(where(f) + " is read-only and would be written");
  if (v.overlaps_itself())
    throw py::value_error(
        where(f) + " has internal overlap (several elements share memory) and would be written");
}

// A plan holds on to the arrays it points at, but for its own results: their memory is used again.
void Binder::keep_alive(const View& v) {
  if (recorder && !recorder->plan->arena->holds(v.data))
    recorder->keep_alive.append(py::reinterpret_borrow<py::object>(v.object));
}

Memory Binder::take_memory(size_t bytes) {
  if (on_device()) return allocate_on(queue_, static_cast<i64>(bytes), op_.name);
  return Memory(allocate(bytes).release());
}

// The kernel gets the caller's memory where its layout allows, else a C-contiguous copy.
void Binder::use_memory(int i, bool copy_back) {
  View& v = views_[i];
  Slot& slot = call.slots[op_.fields[i].slot];
  slot.p = v.data;
  if (v.contiguous() && v.aligned()) {
    keep_alive(v);
    return;
  }
  if (recorder)
    throw py::value_error(where(op_.fields[i]) + " must be C-contiguous while recording");
  temporaries_.push_back(
      {take_memory(static_cast<size_t>(v.size()) * item_size(v.dtype)), i, copy_back});
  slot.p = temporaries_.back().memory.get();
}

void Binder::bind_array(int i) {
  const Field& f = op_.fields[i];
  if (is_none(values[i])) {
    if (!f.optional()) {
      if (values[i]) throw py::type_error(where(f) + " must be an array, got None");
      throw py::type_error(op_.name + ": missing argument " + f.name + ": " + expected(f));
    }
    call.slots[f.slot].p = nullptr;
    return;
  }
  View& v = views_[i];
  view_array(values[i], v, op_.name.c_str(), f.name.c_str());
  take_library(f, v);
  take_type(i);
  match_shape(f, v);
  if (f.is_inout()) require_writeable(f, v);
  if (f.type == Type::i64)
    bind_indices(i);
  else
    use_memory(i, f.is_inout());
}

void Binder::bind_matrix(int i) {
  const Field& f = op_.fields[i];
  if (is_none(values[i]))
    throw py::type_error(op_.name + ": missing argument " + f.name + ": an array");
  View& v = views_[i];
  view_array(values[i], v, op_.name.c_str(), f.name.c_str());
  take_library(f, v);
  take_type(i);
  const Field* flag = op_.find("transpose_" + f.name);
  bool transpose = flag && call.slots[flag->slot].i;
  bool leading = f.name == "a" && !transpose;
  if (v.ndim < 2 || (v.ndim > 2 && !leading))
    raise("ShapeError", where(f) + " must be 2-D" + (leading ? " or have leading dimensions" : "") +
                            ", got " + describe(v.object));
  product(v.shape, v.ndim, f);
  i64 item = static_cast<i64>(item_size(v.dtype));
  bool usable =
      v.aligned() && v.strides[v.ndim - 1] % item == 0 && v.strides[v.ndim - 2] % item == 0;
  if (!usable || (v.ndim > 2 && !v.contiguous()))
    use_memory(i, false);
  else
    call.slots[f.slot].p = v.data;
  keep_alive(v);
  bool copied = call.slots[f.slot].p != v.data;
  i64 inner = v.shape[v.ndim - 1];
  i64 row = copied || v.ndim > 2 ? inner : v.strides[0] / item;
  i64 column = copied || v.ndim > 2 ? 1 : v.strides[v.ndim - 1] / item;
  if (transpose) std::swap(row, column);
  call.slots[f.slot + 1].i = row;
  call.slots[f.slot + 2].i = column;
  i64 rows = transpose ? v.shape[1] : v.shape[0];
  if (f.name == "b" && call.slots[f.axes[0].slot].i != rows) wrong_inner(i);
  if (leading) {
    axes_[f.axes[0].slot] = {v.shape, v.ndim - 1};
    rows = product(v.shape, v.ndim - 1, f);
  }
  call.slots[f.axes[0].slot].i = rows;
  call.slots[f.axes[1].slot].i = transpose ? v.shape[0] : inner;
}

void Binder::wrong_inner(int b) const {
  auto text = [&](int i) {
    const Field* flag = op_.find("transpose_" + op_.fields[i].name);
    return op_.fields[i].name + " is " + describe(values[i]) +
           (call.slots[flag->slot].i ? " transposed" : "");
  };
  raise("ShapeError", op_.name + ": inner lengths differ: " + text(b - 1) + ", " + text(b));
}

// Indices are copied to int64 first: other threads may change them while the kernel runs.
void Binder::bind_indices(int i) {
  const Field& f = op_.fields[i];
  View& v = views_[i];
  Slot& slot = call.slots[f.slot];
  if (recorder) {
    if (v.dtype != DType::i64_ || !v.contiguous())
      throw py::type_error(where(f) + " must be contiguous int64 while recording, got " +
                           describe(v.object));
    keep_alive(v);
    slot.p = v.data;
    return;
  }
  indices_.push_back({take_memory(static_cast<size_t>(v.size()) * 8), i, false});
  i64* to = reinterpret_cast<i64*>(indices_.back().memory.get());
  slot.p = to;
  if (on_device()) return;
  const std::optional<LabelRange> range = label_range(f);
  i64 r = copy_labels(integers(v), range ? &*range : nullptr, to);
  if (r < v.shape[0]) wrong_label(f, v, r, range->classes);
}

// On a device nobody waits for the check: a kernel makes NaN of a bad label and reads nothing
// outside, and synchronize() raises.
void Binder::copy_indices(const Temporary& t) {
  const View& v = views_[t.field];
  const std::optional<LabelRange> range = label_range(op_.fields[t.field]);
  CudaIndices indices = {};
  indices.to = reinterpret_cast<i64*>(t.memory.get());
  indices.from = v.data;
  indices.element = element_of(v.dtype);
  indices.n = v.size();
  indices.stride = v.strides[0];
  indices.op = op_.id;
  indices.checked = range.has_value();
  if (range) {
    indices.limit = range->classes;
    indices.ignores = range->ignored.has_value();
    indices.ignored = range->ignored.value_or(0);
  }
  check_cuda(cuda().copy_indices(queue_, indices), op_.name, queue_.device);
}

void Binder::bind_targets(int i) {
  const Field& f = op_.fields[i];
  if (is_none(values[i]))
    throw py::type_error(op_.name + ": missing argument " + f.name + ": " + expected(f));
  View& v = views_[i];
  view_array(values[i], v, op_.name.c_str(), f.name.c_str());
  take_library(f, v);
  Slot& labels = call.slots[f.slot];
  Slot& probabilities = call.slots[f.slot + 1];
  labels.p = probabilities.p = nullptr;
  i64 n = call.slots[f.axes[0].slot].i, c = call.slots[f.axes[1].slot].i;
  if (v.dtype == DType::f32 || v.dtype == DType::f64) {
    if (v.dtype != type_ || v.ndim != 2) {
      if (v.ndim != 2) wrong_dtype(f, v.object);
      raise("DTypeError", where(f) + " must be integers, or probabilities of the type of " +
                              op_.fields[type_field_].name + " (" + name_of(type_) + "), got " +
                              describe(v.object));
    }
    if (v.shape[0] != n || v.shape[1] != c)
      raise("ShapeError", where(f) + " must be probabilities of shape (" + std::to_string(n) +
                              ", " + std::to_string(c) + "), got " + describe(v.object));
    use_memory(i, false);
    probabilities.p = labels.p ? labels.p : call.slots[f.slot].p;
    labels.p = nullptr;
    return;
  }
  if (!is_integer(v.dtype)) wrong_dtype(f, v.object);
  if (v.ndim != 1 || v.shape[0] != n) wrong_shape(f, v);
  bind_indices(i);
}

// Which integers an op takes; all of them where it minds none.
std::optional<LabelRange> Binder::label_range(const Field& f) const {
  if (f.kind == Kind::targets) {
    const Field* ignore = op_.find("ignore_index");
    if (!ignore) return {};
    return LabelRange{call.slots[f.axes[1].slot].i, call.slots[ignore->slot].i};
  }
  const Field* rows = op_.find("rows");
  return rows ? std::optional(LabelRange{call.slots[rows->slot].i, {}}) : std::nullopt;
}

void Binder::wrong_label(const Field& f, const View& v, i64 r, i64 classes) const {
  if (f.kind == Kind::targets)
    raise("LabelError", op_.name + ": " + wrong_label_text(integers(v), r, classes));
  throw py::index_error(where(f) + ": " + label_text(integers(v), r) + " at position " +
                        std::to_string(r) + "; valid 0.." + std::to_string(classes - 1));
}

// ---- results -------------------------------------------------------------------------------

bool Binder::wanted(const Field& f) const {
  if (!f.is_result()) return false;
  return f.kind != Kind::optout || call.slots[op_.find(f.text)->slot].i;
}

std::vector<i64> Binder::result_shape(const Field& f) const {
  if (f.kind == Kind::loss) {
    const Field* reduction = op_.find("reduction");
    if (reduction->words[static_cast<size_t>(call.slots[reduction->slot].i)] != "none") return {};
  }
  std::vector<i64> shape;
  for (const Axis& axis : f.axes) {
    const Axes& axes = axes_[axis.slot];
    if (axes.count >= 0)
      shape.insert(shape.end(), axes.shape, axes.shape + axes.count);
    else
      shape.push_back(call.slots[axis.slot].i);
  }
  return shape;
}

void Binder::bind_results() {
  int results = 0;
  for (const Field& f : op_.fields) results += wanted(f);
  if (type_field_ < 0 && dtype) {
    std::string name =
        py::str(py::module_::import("numpy").attr("dtype")(py::handle(dtype)).attr("name"));
    if (name != "float32" && name != "float64")
      raise("DTypeError", op_.name + ": dtype must be float32 or float64, got " + name);
    set_type(0, name == "float64" ? DType::f64 : DType::f32);
  }
  bool tuple = out && PyTuple_Check(out);
  if (out && out != Py_None &&
      (results > 1 ? !tuple || PyTuple_GET_SIZE(out) != results
                   : tuple && PyTuple_GET_SIZE(out) != 1))
    throw py::type_error(
        op_.name + ": out must be " +
        (results == 1 ? "an array" : "a tuple of " + std::to_string(results) + " arrays or None") +
        ", got " + (tuple ? "a tuple of " + std::to_string(PyTuple_GET_SIZE(out)) : describe(out)));
  int at = 0;
  for (int i = 0; i < static_cast<int>(op_.fields.size()); i++) {
    const Field& f = op_.fields[i];
    if (!f.is_result()) continue;
    call.slots[f.slot].p = nullptr;
    if (!wanted(f)) continue;
    PyObject* given = tuple ? PyTuple_GET_ITEM(out, at) : out;
    at++;
    if (!is_none(given)) bind_out(i, given);
  }
  for (int i = 0; i < static_cast<int>(op_.fields.size()); i++)
    if (wanted(op_.fields[i]) && !call.slots[op_.fields[i].slot].p) make_out(i);
  std::sort(results_.begin(), results_.end(),
            [](const Result& a, const Result& b) { return a.field < b.field; });
}

void Binder::bind_out(int i, PyObject* given) {
  const Field& f = op_.fields[i];
  View& v = views_[i];
  view_array(given, v, op_.name.c_str(), ("out (" + f.name + ")").c_str());
  take_library(f, v);
  if (type_field_ < 0 && f.type == Type::T && takes(v.dtype)) set_type(i, v.dtype);
  std::vector<i64> shape = result_shape(f);
  DType dtype = dtype_of(f.type, type_);
  auto must = [&] {  // on refusal only: describing an array runs Python code
    return where(f) + " must be " + name_of(dtype) + " of shape " +
           shape_text(shape.data(), static_cast<int>(shape.size())) + ", got " + describe(given);
  };
  if (v.dtype != dtype) raise("DTypeError", must());
  if (v.ndim != static_cast<int>(shape.size()) || !std::equal(shape.begin(), shape.end(), v.shape))
    raise("ShapeError", must());
  require_writeable(f, v);
  use_memory(i, true);
  if (!call.slots[f.slot].p)
    call.slots[f.slot].p = &numbers_[i];  // a zero-size array without memory
  results_.push_back({i, py::reinterpret_borrow<py::object>(given), false, false});
}

void Binder::make_out(int i) {
  const Field& f = op_.fields[i];
  std::vector<i64> shape = result_shape(f);
  i64 n = product(shape.data(), static_cast<int>(shape.size()), f);
  DType dtype = dtype_of(f.type, type_);
  if (n > (i64{1} << 62) / static_cast<i64>(item_size(dtype)))
    throw py::value_error(where(f) + ": result too large");
  int ndim = static_cast<int>(shape.size());
  void* data = nullptr;
  py::object array;
  bool numpy = library_ == Library::none || library_ == Library::numpy;
  bool exported = false;
  if (recorder) {
    array = placeholder(recorder->plan, dtype, shape.data(), ndim, &data);
  } else if (numpy) {
    array = new_numpy(dtype, shape.data(), ndim, &data);
  } else if (on_device()) {
    DeviceArray made = new_on_device(library_, like_, dtype, shape.data(), ndim, queue_, op_.name);
    array = std::move(made.array);
    data = made.data;
    exported = made.exported;
  } else {
    array = new_export(dtype, shape.data(), ndim, &data);
    exported = true;
  }
  call.slots[f.slot].p = data ? data : &numbers_[i];
  bool number = f.axes.empty() || f.kind == Kind::loss;
  results_.push_back({i, std::move(array), number && ndim == 0 && numpy && !recorder, exported});
}

void Binder::check_overlaps() const {
  const auto& fields = op_.fields;
  for (int w = 0; w < static_cast<int>(fields.size()); w++) {
    const View& written = views_[w];
    if (!written.object || !(fields[w].is_inout() || fields[w].is_result())) continue;
    for (int r = 0; r < static_cast<int>(fields.size()); r++) {
      const View& other = views_[r];
      bool both_written = fields[r].is_inout() || fields[r].is_result();
      if (!other.object || r == w || (both_written && r > w)) continue;
      auto [low, high] = written.extent();
      auto [other_low, other_high] = other.extent();
      if (high <= other_low || other_high <= low) continue;
      bool same = written.data == other.data && written.dtype == other.dtype &&
                  written.ndim == other.ndim &&
                  std::equal(written.shape, written.shape + written.ndim, other.shape) &&
                  std::equal(written.strides, written.strides + written.ndim, other.strides);
      bool in_place_pair = fields[w].name == "dlogits" && fields[r].name == "logits";
      in_place_pair |= fields[w].name == "dpred" && fields[r].name == "pred";
      in_place_pair |=
          op_.id == op_batch_norm_backward && fields[w].name == "dx" && fields[r].name == "dy";
      bool may = (op_.elementwise && fields[w].is_result()) || in_place_pair;
      if (same && may && !both_written) continue;
      if (!same && written.library == Library::numpy &&
          !py::module_::import("numpy")
               .attr("shares_memory")(py::handle(written.object), py::handle(other.object))
               .cast<bool>())
        continue;
      auto label = [&](int i) {
        return fields[i].is_result() ? "out (" + fields[i].name + ")" : fields[i].name;
      };
      throw py::value_error(op_.name + ": " + label(w) + " and " + label(r) +
                            " overlap in memory, and " + label(w) + " would be written");
    }
  }
}

py::object Binder::finish() {
  for (const Temporary& t : temporaries_)
    if (t.copy_back) copy(t, true);
  if (on_device() && !orders_memory(library_)) {
    wait_for(queue_, op_.name);
    look_for_bad_index(queue_, op_.name);
  }
  auto value = [this](Result& r) -> py::object {
    if (r.exported) return import_array(library_, like_, r.array, queue_.device);
    if (!r.scalar) return std::move(r.array);
    return py::reinterpret_steal<py::object>(PyObject_GetItem(r.array.ptr(), py::tuple().ptr()));
  };
  if (results_.empty()) return py::none();
  if (results_.size() == 1) return value(results_[0]);
  py::tuple all(results_.size());
  for (size_t i = 0; i < results_.size(); i++) all[i] = value(results_[i]);
  return all;
}

}  // namespace fnn
