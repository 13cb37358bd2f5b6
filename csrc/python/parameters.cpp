// What every call of a Trainer does once for each of the model's parameters.
#include "arrays.h"
#include "ops.h"

namespace fnn {
namespace {

using py::detail::npy_api;
using py::detail::PyArray_Proxy;

PyObject* checked(PyObject* object) {
  if (!object) throw py::error_already_set();
  return object;
}

bool all_held(const py::list& places) {
  static PyObject* const params = PyUnicode_InternFromString("params");
  for (py::handle place : places) {
    PyObject* layer = PyTuple_GET_ITEM(place.ptr(), 0);
    PyObject* name = PyTuple_GET_ITEM(place.ptr(), 1);
    auto held = py::reinterpret_steal<py::object>(checked(PyObject_GetAttr(layer, params)));
    PyObject* array =
        PyDict_Check(held.ptr()) ? PyDict_GetItemWithError(held.ptr(), name) : nullptr;
    if (PyErr_Occurred()) throw py::error_already_set();
    if (array != PyTuple_GET_ITEM(place.ptr(), 2)) return false;
  }
  return true;
}

// A view in C order of elements of a flat array, from `first` on.
py::object part(const py::array& flat, i64 first, py::handle shape) {
  const npy_api& api = npy_api::get();
  Py_intptr_t lengths[64];  // as many as NumPy has
  const auto ndim = static_cast<int>(PyTuple_GET_SIZE(shape.ptr()));
  for (int i = 0; i < ndim; i++) lengths[i] = PyLong_AsSsize_t(PyTuple_GET_ITEM(shape.ptr(), i));
  char* data = reinterpret_cast<PyArray_Proxy*>(flat.ptr())->data + first * flat.itemsize();
  auto view = py::reinterpret_steal<py::object>(checked(
      api.PyArray_NewFromDescr_(api.PyArray_Type_, flat.dtype().release().ptr(), ndim, lengths,
                                nullptr, data, npy_api::NPY_ARRAY_WRITEABLE_, nullptr)));
  if (api.PyArray_SetBaseObject_(view.ptr(), flat.inc_ref().ptr())) throw py::error_already_set();
  return view;
}

py::dict split(const py::array& flat, const py::list& parts) {
  py::dict views;
  for (py::handle p : parts) {
    PyObject* name = PyTuple_GET_ITEM(p.ptr(), 0);
    const i64 first = PyLong_AsSsize_t(PyTuple_GET_ITEM(p.ptr(), 1));
    py::object view = part(flat, first, PyTuple_GET_ITEM(p.ptr(), 2));
    if (PyDict_SetItem(views.ptr(), name, view.ptr())) throw py::error_already_set();
  }
  return views;
}

}  // namespace

void add_parameters(py::module_& m) {
  m.def("all_held", all_held, py::arg("places"),
        "Whether each layer has that very array in its params: [(layer, name, array), ...].");
  m.def("split", split, py::arg("flat"), py::arg("parts"),
        "Views by name of a flat array: [(name, first element, shape), ...].");
}

}  // namespace fnn
