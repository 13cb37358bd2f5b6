// The extension module fastnn._core: ops, plans, threads, instruction sets.
#include <pybind11/pybind11.h>
#include <stdlib.h>

#include "../core/dispatch.h"
#include "../core/threads.h"
#include "../plan/api.h"
#include "arrays.h"
#include "device.h"
#include "ops.h"

namespace py = pybind11;

namespace {

void set_num_threads(py::handle n) {
  std::string message =
      "set_num_threads: n must be an integer from 1 to 1024, got " + std::string(py::repr(n));
  if (!PyIndex_Check(n.ptr()) || PyBool_Check(n.ptr())) throw py::value_error(message);
  int overflow;
  long value = PyLong_AsLongAndOverflow(
      py::reinterpret_steal<py::object>(PyNumber_Index(n.ptr())).ptr(), &overflow);
  if (overflow || value < 1 || value > fnn::kMaxThreads) throw py::value_error(message);
  fnn::set_num_threads(static_cast<int>(value));
}

void use_isa(const std::string& name) {
  if (const char* why = fnn::use_isa(name.c_str()))
    throw py::value_error("use_isa: '" + name + "': " + why);
}

py::dict isa_levels() {
  py::dict levels;
  for (int i = 0; const fnn::Isa* isa = fnn::isa_at(i); i++) levels[isa->name] = isa->supported();
  return levels;
}

uintptr_t kernel_address(const std::string& op, bool f64) {
  for (const fnn::OpInfo& info : fnn::all_ops())
    if (info.name == op) return reinterpret_cast<uintptr_t>(fnn::kernel(info.id, f64));
  throw py::key_error(op);
}

void read_environment() {
  if (const char* isa = getenv("FASTNN_ISA"); isa && *isa)
    if (const char* why = fnn::use_isa(isa)) {
      std::string levels;
      for (int i = 0; const fnn::Isa* level = fnn::isa_at(i); i++)
        if (level->supported()) levels += (levels.empty() ? "" : ", ") + std::string(level->name);
      throw py::value_error("FASTNN_ISA='" + std::string(isa) + "': " + why + "; use one of " +
                            levels);
    }
  if (const char* threads = getenv("FASTNN_NUM_THREADS"); threads && *threads) {
    char* end;
    long n = strtol(threads, &end, 10);
    if (*end || n < 1 || n > fnn::kMaxThreads)
      throw py::value_error("FASTNN_NUM_THREADS must be an integer from 1 to 1024, got '" +
                            std::string(threads) + "'");
    fnn::set_num_threads(static_cast<int>(n));
  }
}

}  // namespace

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "fastnn's native part: kernels, plans, threads.";
  fnn::add_ops(m);
  fnn::add_plan(m);
  fnn::add_device_plan(m);
  fnn::add_parameters(m);
  fnn::add_device(m);
  m.attr("_api") = py::capsule(&fnn::api(), "fastnn._core._api");  // for native adapters
  m.def("read_environment", read_environment, "Obey FASTNN_ISA and FASTNN_NUM_THREADS.");
  m.def("set_num_threads", set_num_threads, py::arg("n"),
        "Use n threads (1 to 1024) for large work.");
  m.def("get_num_threads", fnn::num_threads, "Number of threads used for large work.");
  m.def("available_cpus", fnn::available_cpus,
        "CPUs that affinity and the cgroup's quota grant this process.");
  m.def("use_isa", use_isa, py::arg("name"), "Run kernels of this instruction set from now on.");
  m.def("isa", [] { return fnn::active_isa().name; }, "Instruction set in use.");
  m.def("has_bf16", fnn::has_bf16,
        "Whether the level in use multiplies bfloat16 with instructions of their own.");
  m.def("kernel_address", kernel_address, py::arg("op"), py::arg("f64") = false,
        "Where the code that runs for an op begins.");
  m.def("isa_levels", isa_levels,
        "Every level that was built, and whether this CPU has it; best first.");
}
