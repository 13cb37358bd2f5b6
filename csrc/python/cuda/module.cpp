// The extension module fastnn._cuda: CUDA kernels, for fastnn._core to call.
#include <pybind11/pybind11.h>

#include "../../cuda/device/device.h"

namespace py = pybind11;

PYBIND11_MODULE(_cuda, m, py::mod_gil_not_used()) {
  m.doc() = "fastnn's CUDA kernels.";
  m.attr("api") = py::capsule(&fnn::cuda_api, "fastnn._cuda.api");
}
