// Arrays of any library, seen as pointer, type, shape and strides; and results made as arrays of
// the caller's library. NumPy is read straight from its object, everything else through DLPack, or
// through __cuda_array_interface__ where there is no DLPack.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <functional>
#include <string>

#include "../core/contract.h"
#include "../core/dlpack.h"
#include "../plan/plan.h"

namespace fnn {

namespace py = pybind11;

enum class DType : u8 {
  f32,
  f64,
  f16,
  bf16,
  i8,
  i16,
  i32,
  i64_,
  u8_,
  u16,
  u32,
  u64_,
  boolean,
  other
};
enum class Library : u8 { none, numpy, torch, jax, cupy, numba, dlpack, interface };

const char* name_of(Library library);
const char* name_of(DType dtype);  // NumPy's
size_t item_size(DType dtype);
bool is_integer(DType dtype);
DType dtype_of(Type type, DType floating);

struct View {
  char* data = nullptr;
  DType dtype = DType::other;
  Library library = Library::none;
  bool writeable = true;
  int device = -1;         // number of the CUDA device; -1: the CPU
  void* stream = nullptr;  // after whose work the contents are there, if they may not be yet
  int ndim = 0;
  i64 shape[kMaxAxes];
  i64 strides[kMaxAxes];       // bytes
  PyObject* object = nullptr;  // borrowed
  DLManagedTensor* managed = nullptr;

  View() = default;
  View(const View&) = delete;
  View& operator=(const View&) = delete;
  View(View&& other) noexcept { take(other); }
  View& operator=(View&& other) noexcept {
    release();
    take(other);
    return *this;
  }
  ~View() { release(); }

  i64 size() const;
  bool contiguous() const;  // C order
  bool aligned() const;
  // First and one-past-last byte that the array touches.
  std::pair<const char*, const char*> extent() const;
  bool overlaps_itself() const;

 private:
  void release() {
    if (managed && managed->deleter) managed->deleter(managed);
    managed = nullptr;
  }
  void take(View& other) {
    memcpy(static_cast<void*>(this), static_cast<const void*>(&other), sizeof *this);
    other.managed = nullptr;
  }
};

// CUDA's default stream, as DLPack and CUDA name it.
enum : uintptr_t { kDefaultStream = 1 };

// Fills `view`; throws TypeError or DTypeError beginning with "op: name ..." for what is no array.
void view_array(PyObject* object, View& view, const char* op, const char* name);

// "float32 (2, 3)" for an array, the type's name for anything else.
std::string describe(PyObject* object);
std::string shape_text(const i64* shape, int ndim);

// A new C-contiguous NumPy array; its memory is in *data.
py::object new_numpy(DType dtype, const i64* shape, int ndim, void** data);
// New C-contiguous memory on its way into another library: a DLPack capsule. Hand it over with
// import_array only when it is filled: a library may copy at once.
py::object new_export(DType dtype, const i64* shape, int ndim, void** data);
// Likewise, of given memory, which the last owner gives to `release`.
py::object export_memory(DType dtype, const i64* shape, int ndim, DLDevice device, void* data,
                         std::function<void(void*)> release);
// device: its number, -1 for the CPU.
py::object import_array(Library library, PyObject* like, const py::object& capsule, int device);
// A NumPy array over memory that `base` keeps alive.
py::object wrap_memory(DType dtype, const i64* shape, int ndim, void* data, py::handle base);

// A NumPy array in a plan's arena; its block goes back to the arena with the last reference to it.
py::object placeholder(const std::shared_ptr<Plan>& plan, DType dtype, const i64* shape, int ndim,
                       void** data);

// Copies element-wise between layouts of the same shape and item size.
void copy_strided(char* to, const i64* to_strides, const char* from, const i64* from_strides,
                  const i64* shape, int ndim, size_t item);
void c_strides(const i64* shape, int ndim, size_t item, i64* strides);

[[noreturn]] void raise(const char* class_name, const std::string& message);  // from fastnn.errors

}  // namespace fnn
