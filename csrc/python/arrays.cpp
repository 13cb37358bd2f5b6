#include "arrays.h"

#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <memory>

#include "device.h"

namespace fnn {
namespace {

using py::detail::npy_api;
using py::detail::PyArray_Proxy;
using py::detail::PyArrayDescr_Proxy;

struct DTypeRow {
  const char* name;
  size_t size;
  u8 code;  // DLPack
};
// In DType's order.
const DTypeRow kDTypes[] = {
    {"float32", 4, kDLFloat},   {"float64", 8, kDLFloat}, {"float16", 2, kDLFloat},
    {"bfloat16", 2, kDLBfloat}, {"int8", 1, kDLInt},      {"int16", 2, kDLInt},
    {"int32", 4, kDLInt},       {"int64", 8, kDLInt},     {"uint8", 1, kDLUInt},
    {"uint16", 2, kDLUInt},     {"uint32", 4, kDLUInt},   {"uint64", 8, kDLUInt},
    {"bool", 1, kDLBool},
};
constexpr int kKnownDTypes = sizeof kDTypes / sizeof *kDTypes;

const DTypeRow& row(DType dtype) { return kDTypes[static_cast<int>(dtype)]; }

DType find_dtype(u8 code, size_t size) {
  for (int i = 0; i < kKnownDTypes; i++)
    if (kDTypes[i].code == code && kDTypes[i].size == size) return static_cast<DType>(i);
  return DType::other;
}

// NumPy's one-letter kind and item size; native byte order only.
DType numpy_dtype(const PyArrayDescr_Proxy* descr, size_t size) {
  if (descr->byteorder == (std::endian::native == std::endian::little ? '>' : '<'))
    return DType::other;
  switch (descr->kind) {
    case 'f': return find_dtype(kDLFloat, size);
    case 'i': return find_dtype(kDLInt, size);
    case 'u': return find_dtype(kDLUInt, size);
    case 'b': return DType::boolean;
    default: return DType::other;
  }
}

const char* type_module(PyObject* object) {
  // A heap type's full name is in __module__; tp_name holds it for static types only.
  PyObject* module =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(Py_TYPE(object)), "__module__");
  static thread_local std::string text;
  text = module && PyUnicode_Check(module) ? PyUnicode_AsUTF8(module) : "";
  Py_XDECREF(module);
  PyErr_Clear();
  return text.c_str();
}

Library library_of(PyObject* object) {
  std::string module = type_module(object);
  std::string root = module.substr(0, module.find('.'));
  if (root == "torch") return Library::torch;
  if (root == "jaxlib" || root == "jax") return Library::jax;
  if (root == "cupy") return Library::cupy;
  if (root == "numba") return Library::numba;
  return Library::dlpack;
}

bool is_masked(PyObject* object) { return PyObject_HasAttrString(object, "mask"); }

void view_numpy(PyObject* object, View& view, const char* op, const char* name) {
  auto* array = reinterpret_cast<PyArray_Proxy*>(object);
  auto* descr = reinterpret_cast<PyArrayDescr_Proxy*>(array->descr);
  const npy_api& api = npy_api::get();
  if (Py_TYPE(object) != api.PyArray_Type_ && is_masked(object))
    raise("DTypeError", std::string(op) + ": " + name +
                            " is a masked array, its mask would be lost; use .filled() or .data");
  view.data = array->data;
  view.library = Library::numpy;
  view.ndim = array->nd;
  view.writeable = array->flags & npy_api::NPY_ARRAY_WRITEABLE_;
  view.object = object;
  if (view.ndim > kMaxAxes)
    raise("ShapeError", std::string(op) + ": " + name + " has more than 32 dimensions");
  for (int i = 0; i < view.ndim; i++) {
    view.shape[i] = array->dimensions[i];
    view.strides[i] = array->strides[i];
  }
  size_t item =
      descr->type_num == npy_api::NPY_FLOAT_ ? 4
      : descr->type_num == npy_api::NPY_DOUBLE_
          ? 8
          : py::dtype::from_args(py::reinterpret_borrow<py::object>(array->descr)).itemsize();
  view.dtype = numpy_dtype(descr, item);
  if (view.dtype == DType::other) {
    std::string text = describe(object);
    if (descr->kind == 'V' && item == 2 && text.starts_with("bfloat16")) view.dtype = DType::bf16;
  }
}

[[noreturn]] void refuse(const char* op, const char* name, PyObject* object, const char* hint) {
  throw py::type_error(std::string(op) + ": " + name + " must be an array, got " +
                       Py_TYPE(object)->tp_name + hint);
}

void check_torch(PyObject* object, const char* op, const char* name) {
  py::object requires_grad = py::getattr(object, "requires_grad", py::bool_(false));
  if (requires_grad.ptr() == Py_True)
    throw py::type_error(
        std::string(op) + ": " + name +
        " requires grad, which these functions don't record; use fastnn.torch, or .detach()");
}

[[noreturn]] void unreadable(const char* op, const char* name, const std::exception& why,
                             const char* protocol = "DLPack") {
  const auto* raised = dynamic_cast<const py::error_already_set*>(&why);
  if (raised && !raised->matches(PyExc_Exception))
    throw;  // a KeyboardInterrupt, which came meanwhile
  throw py::type_error(std::string(op) + ": " + name + " can't be read through " + protocol + ": " +
                       why.what());
}

[[noreturn]] void not_usable(const char* op, const char* name, PyObject* object,
                             const std::string& where, const char* why) {
  raise("DeviceError", std::string(op) + ": " + name + " (" + describe(object) + ") is on " +
                           where + ", but " + why);
}

// The number of the CUDA device that an array lies on; -1: the CPU.
int find_device(PyObject* object, const char* op, const char* name) {
  int type, number;
  try {
    py::tuple device(py::getattr(object, "__dlpack_device__")());
    type = device[0].cast<int>();
    number = device[1].cast<int>();
  } catch (py::error_already_set& e) { unreadable(op, name, e); }
  if (type == kDLCPU || type == kDLCUDAHost) return -1;
  const bool cuda = type == kDLCUDA || type == kDLCUDAManaged;
  const char* why_not = cuda ? why_not_cuda(number) : "there are kernels for CPUs and CUDA";
  if (!why_not) return number;
  not_usable(op, name, object,
             cuda ? "cuda:" + std::to_string(number)
                  : "device type " + std::to_string(type) + " of DLPack",
             why_not);
}

// What is queued for the array comes before what its library's current stream does next: with
// those whose stream is not known, before what the default stream does.
py::object capsule_of(PyObject* object, const View& view) {
  if (view.device < 0) return py::getattr(object, "__dlpack__")();
  if (view.library == Library::torch)  // __dlpack__ would insist on the current device
    return py::module_::import("torch.utils.dlpack").attr("to_dlpack")(py::handle(object));
  const bool known = view.library == Library::cupy;
  return py::getattr(
      object, "__dlpack__")(py::arg("stream") = known ? -1 : static_cast<int>(kDefaultStream));
}

// NumPy's text for a type, as "<f4".
DType find_dtype(const std::string& typestr) {
  if (typestr.size() < 3 || typestr[0] == '>') return DType::other;
  const size_t size = static_cast<size_t>(atoi(typestr.c_str() + 2));
  switch (typestr[1]) {
    case 'f': return find_dtype(kDLFloat, size);
    case 'i': return find_dtype(kDLInt, size);
    case 'u': return find_dtype(kDLUInt, size);
    case 'b': return find_dtype(kDLBool, size);
    default: return DType::other;
  }
}

// The CUDA array interface, version 3: a dict of what there is.
void read_interface(const py::dict& facts, View& view) {
  const py::tuple shape = facts["shape"], data = facts["data"];
  view.ndim = static_cast<int>(std::min(shape.size(), size_t{kMaxAxes + 1}));
  view.data = reinterpret_cast<char*>(data[0].cast<uintptr_t>());
  view.writeable = !data[1].cast<bool>();
  view.dtype = find_dtype(facts["typestr"].cast<std::string>());
  const auto given = [&](const char* key) { return facts.contains(key) && !facts[key].is_none(); };
  if (view.ndim > kMaxAxes) return;
  for (int i = 0; i < view.ndim; i++) view.shape[i] = shape[static_cast<size_t>(i)].cast<i64>();
  if (given("strides")) {
    const py::tuple strides = facts["strides"];
    for (int i = 0; i < view.ndim; i++)
      view.strides[i] = strides[static_cast<size_t>(i)].cast<i64>();
  } else if (view.dtype != DType::other) {
    c_strides(view.shape, view.ndim, item_size(view.dtype), view.strides);
  }
  if (given("stream")) view.stream = reinterpret_cast<void*>(facts["stream"].cast<uintptr_t>());
  if (given("mask")) throw py::value_error("it has a mask, which would be lost");
}

void view_interface(PyObject* object, View& view, const char* op, const char* name) {
  view.library = library_of(object);
  if (view.library == Library::dlpack) view.library = Library::interface;
  view.object = object;
  try {
    read_interface(py::getattr(object, "__cuda_array_interface__"), view);
  } catch (std::exception& e) { unreadable(op, name, e, "__cuda_array_interface__"); }
  if (view.ndim > kMaxAxes)
    raise("ShapeError", std::string(op) + ": " + name + " has more than 32 dimensions");
  if (const char* why_not = why_not_cuda(0)) not_usable(op, name, object, "a GPU", why_not);
  view.device = view.data ? cuda().device_of(view.data) : 0;
  if (view.device < 0)
    throw py::value_error(std::string(op) + ": " + name + " is not in the memory of a GPU");
}

void view_dlpack(PyObject* object, View& view, const char* op, const char* name) {
  if (!PyObject_HasAttrString(object, "__dlpack__")) {
    if (PyObject_HasAttrString(object, "__cuda_array_interface__"))
      return view_interface(object, view, op, name);
    refuse(op, name, object, PySequence_Check(object) ? "; use numpy.asarray" : "");
  }
  view.library = library_of(object);
  if (view.library == Library::torch) check_torch(object, op, name);
  view.device = find_device(object, op, name);
  py::object capsule;
  try {
    capsule = capsule_of(object, view);
  } catch (py::error_already_set& e) { unreadable(op, name, e); }
  auto* managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  if (!managed) throw py::error_already_set();
  PyCapsule_SetName(capsule.ptr(), "used_dltensor");
  view.managed = managed;
  const DLTensor& t = managed->dl_tensor;
  if (t.ndim > kMaxAxes)
    raise("ShapeError", std::string(op) + ": " + name + " has more than 32 dimensions");
  view.object = object;
  view.data = static_cast<char*>(t.data) + t.byte_offset;
  view.dtype = t.dtype.lanes == 1 ? find_dtype(t.dtype.code, t.dtype.bits / 8) : DType::other;
  view.ndim = t.ndim;
  size_t item = t.dtype.bits / 8;
  std::copy(t.shape, t.shape + t.ndim, view.shape);
  if (t.strides)
    for (int i = 0; i < t.ndim; i++) view.strides[i] = t.strides[i] * static_cast<i64>(item);
  else
    c_strides(view.shape, view.ndim, item, view.strides);
}

// Memory of our own on its way into another library.
struct Export {
  DLManagedTensor managed;
  i64 shape[kMaxAxes];
  std::function<void(void*)> release;
};

PyObject* numpy_descr(DType dtype) {
  const npy_api& api = npy_api::get();
  int number = npy_api::NPY_FLOAT_;
  switch (dtype) {
    case DType::f32: number = npy_api::NPY_FLOAT_; break;
    case DType::f64: number = npy_api::NPY_DOUBLE_; break;
    case DType::i64_: number = npy_api::NPY_INT64_; break;
    case DType::boolean: number = npy_api::NPY_BOOL_; break;
    case DType::u8_: number = npy_api::NPY_UINT8_; break;
    default: throw py::type_error("no NumPy array of that type");
  }
  return api.PyArray_DescrFromType_(number);
}

}  // namespace

const char* name_of(Library library) {
  const char* names[] = {"none", "NumPy", "PyTorch", "JAX",
                         "CuPy", "Numba", "DLPack",  "__cuda_array_interface__"};
  return names[static_cast<int>(library)];
}

const char* name_of(DType dtype) { return row(dtype).name; }

size_t item_size(DType dtype) { return row(dtype).size; }

bool is_integer(DType dtype) { return dtype >= DType::i8 && dtype <= DType::u64_; }

DType dtype_of(Type type, DType floating) {
  switch (type) {
    case Type::T: return floating;
    case Type::i64: return DType::i64_;
    case Type::u8: return DType::u8_;
    default: return DType::boolean;
  }
}

i64 View::size() const {
  i64 n = 1;
  for (int i = 0; i < ndim; i++) n *= shape[i];
  return n;
}

bool View::contiguous() const {
  i64 expected = static_cast<i64>(item_size(dtype));
  for (int i = ndim - 1; i >= 0; i--) {
    if (shape[i] == 0) return true;
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

bool View::aligned() const { return reinterpret_cast<uintptr_t>(data) % item_size(dtype) == 0; }

std::pair<const char*, const char*> View::extent() const {
  const char *low = data, *high = data;
  if (size() == 0) return {data, data};
  for (int i = 0; i < ndim; i++) (strides[i] < 0 ? low : high) += (shape[i] - 1) * strides[i];
  return {low, high + item_size(dtype)};
}

bool View::overlaps_itself() const {
  // Sorted by stride, each axis must step over everything the smaller ones reach.
  if (size() <= 1) return false;
  int order[kMaxAxes], count = 0;
  for (int i = 0; i < ndim; i++)
    if (shape[i] > 1) order[count++] = i;
  std::sort(order, order + count,
            [&](int a, int b) { return std::abs(strides[a]) < std::abs(strides[b]); });
  i64 reach = static_cast<i64>(item_size(dtype));
  for (int i = 0; i < count; i++) {
    i64 stride = std::abs(strides[order[i]]);
    if (stride < reach) return true;
    reach = stride * (shape[order[i]] - 1) + reach;
  }
  return false;
}

void view_array(PyObject* object, View& view, const char* op, const char* name) {
  const npy_api& api = npy_api::get();
  if (Py_TYPE(object) == api.PyArray_Type_ || PyType_IsSubtype(Py_TYPE(object), api.PyArray_Type_))
    view_numpy(object, view, op, name);
  else
    view_dlpack(object, view, op, name);
}

std::string shape_text(const i64* shape, int ndim) {
  std::string text = "(";
  for (int i = 0; i < ndim; i++) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (ndim == 1 ? ",)" : ")");
}

std::string describe(PyObject* object) {
  try {
    if (!PyObject_HasAttrString(object, "dtype") || !PyObject_HasAttrString(object, "shape"))
      return Py_TYPE(object)->tp_name;
    std::string dtype = py::str(py::getattr(object, "dtype"));
    if (dtype.starts_with("torch.")) dtype = dtype.substr(6);
    py::object shape = py::getattr(object, "shape");  // PyTorch's is a class derived from tuple
    shape = py::reinterpret_steal<py::object>(PySequence_Tuple(shape.ptr()));
    if (!shape) throw py::error_already_set();
    return dtype + " " + std::string(py::str(shape));
  } catch (py::error_already_set& e) {
    if (!e.matches(PyExc_Exception)) throw;
    return Py_TYPE(object)->tp_name;
  }
}

py::object new_numpy(DType dtype, const i64* shape, int ndim, void** data) {
  const npy_api& api = npy_api::get();
  static_assert(sizeof(i64) == sizeof(Py_intptr_t));
  PyObject* array = api.PyArray_NewFromDescr_(api.PyArray_Type_, numpy_descr(dtype), ndim,
                                              reinterpret_cast<const Py_intptr_t*>(shape), nullptr,
                                              nullptr, 0, nullptr);
  if (!array) throw py::error_already_set();
  *data = reinterpret_cast<PyArray_Proxy*>(array)->data;
  return py::reinterpret_steal<py::object>(array);
}

py::object export_memory(DType dtype, const i64* shape, int ndim, DLDevice device, void* data,
                         std::function<void(void*)> release) {
  auto owned = std::make_unique<Export>();
  std::copy(shape, shape + ndim, owned->shape);
  owned->release = std::move(release);
  owned->managed = {{data,
                     device,
                     ndim,
                     {row(dtype).code, static_cast<u8>(item_size(dtype) * 8), 1},
                     owned->shape,
                     nullptr,
                     0},
                    owned.get(),
                    [](DLManagedTensor* self) {
                      auto* all = static_cast<Export*>(self->manager_ctx);
                      all->release(self->dl_tensor.data);
                      delete all;
                    }};
  PyObject* capsule = PyCapsule_New(&owned->managed, "dltensor", [](PyObject* c) {
    if (!PyCapsule_IsValid(c, "dltensor")) return;
    auto* m = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(c, "dltensor"));
    m->deleter(m);
  });
  if (!capsule) throw py::error_already_set();
  owned.release();
  return py::reinterpret_steal<py::object>(capsule);
}

py::object new_export(DType dtype, const i64* shape, int ndim, void** data) {
  i64 count = 1;
  for (int i = 0; i < ndim; i++) count *= shape[i];
  Buffer memory = allocate(static_cast<size_t>(count) * item_size(dtype));
  *data = memory.get();
  py::object capsule = export_memory(dtype, shape, ndim, {kDLCPU, 0}, *data,
                                     [](void* p) { FreeDeleter()(static_cast<char*>(p)); });
  memory.release();
  return capsule;
}

// Memory with the CUDA array interface alone.
static py::object cuda_array(const py::object& capsule) {
  const DLTensor& t =
      static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"))->dl_tensor;
  py::tuple shape(t.ndim);
  for (int i = 0; i < t.ndim; i++) shape[static_cast<size_t>(i)] = t.shape[i];
  const char kinds[] = "iuf.V.b";  // by DLPack's code
  const int item = t.dtype.bits / 8;
  const std::string typestr =
      std::string(item == 1 ? "|" : "<") + kinds[t.dtype.code] + std::to_string(item);
  return py::module_::import("fastnn._dlpack")
      .attr("CudaArray")(capsule, shape, typestr, reinterpret_cast<uintptr_t>(t.data));
}

py::object import_array(Library library, PyObject* like, const py::object& capsule, int device) {
  py::object holder =
      py::module_::import("fastnn._dlpack")
          .attr("Holder")(capsule, device < 0 ? int{kDLCPU} : int{kDLCUDA}, std::max(device, 0));
  switch (library) {
    case Library::torch: return py::module_::import("torch").attr("from_dlpack")(holder);
    case Library::jax: return py::module_::import("jax.dlpack").attr("from_dlpack")(holder);
    case Library::numba:
      return py::module_::import("numba.cuda").attr("as_cuda_array")(cuda_array(capsule));
    case Library::interface: return cuda_array(capsule);
    default: return py::getattr(like, "__array_namespace__")().attr("from_dlpack")(holder);
  }
}

py::object wrap_memory(DType dtype, const i64* shape, int ndim, void* data, py::handle base) {
  i64 strides[kMaxAxes];
  c_strides(shape, ndim, item_size(dtype), strides);
  return py::array(py::dtype::from_args(py::reinterpret_steal<py::object>(numpy_descr(dtype))),
                   std::vector<py::ssize_t>(shape, shape + ndim),
                   std::vector<py::ssize_t>(strides, strides + ndim), data, base);
}

py::object placeholder(const std::shared_ptr<Plan>& plan, DType dtype, const i64* shape, int ndim,
                       void** data) {
  size_t bytes = item_size(dtype);
  for (int i = 0; i < ndim; i++) bytes *= static_cast<size_t>(shape[i]);
  struct Owner {
    std::shared_ptr<Plan> plan;
    char* block;
  };
  auto* owner = new Owner{plan, plan->arena->take(bytes)};
  *data = owner->block;
  py::capsule base(owner, [](void* p) {
    auto* o = static_cast<Owner*>(p);
    o->plan->arena->give_back(o->block);
    delete o;
  });
  return wrap_memory(dtype, shape, ndim, owner->block, base);
}

void c_strides(const i64* shape, int ndim, size_t item, i64* strides) {
  i64 stride = static_cast<i64>(item);
  for (int i = ndim - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= std::max<i64>(shape[i], 1);
  }
}

void copy_strided(char* to, const i64* to_strides, const char* from, const i64* from_strides,
                  const i64* shape, int ndim, size_t item) {
  if (ndim == 0) {
    memcpy(to, from, item);
    return;
  }
  bool flat =
      ndim == 1 && to_strides[0] == static_cast<i64>(item) && from_strides[0] == to_strides[0];
  if (flat) {
    if (shape[0] > 0) memcpy(to, from, static_cast<size_t>(shape[0]) * item);
    return;
  }
  for (i64 i = 0; i < shape[0]; i++, to += to_strides[0], from += from_strides[0])
    copy_strided(to, to_strides + 1, from, from_strides + 1, shape + 1, ndim - 1, item);
}

void raise(const char* class_name, const std::string& message) {
  py::object type = py::module_::import("fastnn.errors").attr(class_name);
  PyErr_SetString(type.ptr(), message.c_str());
  throw py::error_already_set();
}

}  // namespace fnn
