#include "device.h"

#include <atomic>

#include "../core/dispatch.h"
#include "gil.h"

namespace fnn {
namespace {

struct Found {
  const CudaApi* api;
  std::string why_not;
};

Found find_cuda() {
  try {
    py::object capsule = py::module_::import("fastnn._cuda").attr("api");
    auto* api =
        static_cast<const CudaApi*>(PyCapsule_GetPointer(capsule.ptr(), "fastnn._cuda.api"));
    if (!api) throw py::error_already_set();
    if (api->version == kCudaVersion && api->op_count == op_count) return {api, ""};
    return {nullptr, "fastnn._cuda and fastnn._core are not of one build"};
  } catch (py::error_already_set& e) {
    if (!e.matches(PyExc_Exception)) throw;
    if (e.matches(PyExc_ModuleNotFoundError))
      return {nullptr, "fastnn was built without CUDA kernels"};
    return {nullptr, std::string("fastnn._cuda can't be loaded: ") + e.what()};
  }
}

// Never freed: other threads may still look at the one that use_cuda() replaced.
std::atomic<const Found*> found{nullptr};

const Found& cuda_found() {
  if (!found.load()) found = new Found(find_cuda());
  return *found.load();
}

// Another build of fastnn._cuda from now on, for tests; None: the installed one.
void use_cuda(const py::object& capsule) {
  if (capsule.is_none()) {
    found = nullptr;
    return;
  }
  auto* api = static_cast<const CudaApi*>(PyCapsule_GetPointer(capsule.ptr(), "fastnn._cuda.api"));
  if (!api) throw py::error_already_set();
  found = new Found{api, ""};
}

std::string device_name(int device) { return "cuda:" + std::to_string(device); }

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string device_text(const CudaDevice& device) {
  char text[320];
  snprintf(text, sizeof text, "%s (sm_%d%d, %.1f GiB)", device.name, device.major, device.minor,
           static_cast<double>(device.bytes) / (1 << 30));
  return text;
}

py::dict cuda_facts() {
  py::dict facts;
  const CudaApi* api = cuda_found().api;
  const char* why = api ? api->why_not() : cuda_found().why_not.c_str();
  py::list devices, architectures;
  for (int i = 0; api && !why && i < api->device_count(); i++)
    devices.append(device_text(api->device(i)));
  if (api) architectures = py::str(api->architectures).attr("split")(", ");
  if (!why && !devices.empty()) why = api->why_not_device(0);
  facts["built"] = api != nullptr;
  facts["available"] = why == nullptr;
  facts["devices"] = devices;
  facts["architectures"] = architectures;
  facts["toolkit"] = api ? py::object(py::str(version_text(api->toolkit))) : py::none();
  const int driver = api ? api->driver() : 0;
  facts["driver"] = driver ? py::object(py::str(version_text(driver))) : py::none();
  facts["why_not"] = why ? py::object(py::str(why)) : py::none();
  return facts;
}

[[noreturn]] void raise_bad_index(const CudaBadIndex& bad) {
  const OpInfo& op = all_ops()[static_cast<size_t>(bad.op)];
  const std::string index = std::to_string(bad.index), row = std::to_string(bad.row);
  const std::string valid = "; valid 0.." + std::to_string(bad.limit - 1);
  for (const Field& f : op.fields)
    if (f.kind == Kind::in && f.type == Type::i64)
      throw py::index_error(op.name + ": " + f.name + ": " + index + " at position " + row + valid);
  raise("LabelError", op.name + ": label " + index + " at row " + row + valid);
}

void synchronize() {
  const Found* now = found.load();
  if (!now || !now->api) return;
  CudaBadIndex bad;
  bool good = true;
  CudaError error;
  {
    Unlocked unlocked;
    error = now->api->synchronize(&bad, &good);
  }
  check_cuda(error, "synchronize", 0);
  if (!good) raise_bad_index(bad);
}

bool is_out_of_memory(const py::error_already_set& e) {
  return py::str(e.type().attr("__name__")).cast<std::string>() == "OutOfMemoryError";
}

py::tuple shape_tuple(const i64* shape, int ndim) {
  py::tuple result(ndim);
  for (int i = 0; i < ndim; i++) result[static_cast<size_t>(i)] = shape[i];
  return result;
}

void* address(const py::object& number) {
  return reinterpret_cast<void*>(number.cast<uintptr_t>());
}

DeviceArray new_torch(PyObject* like, DType dtype, const py::tuple& shape) {
  py::object torch = py::module_::import("torch");
  py::object array =
      py::handle(like).attr("new_empty")(shape, py::arg("dtype") = torch.attr(name_of(dtype)));
  return {array, false, address(array.attr("data_ptr")())};
}

DeviceArray new_cupy(PyObject* like, DType dtype, const py::tuple& shape, bool several_devices) {
  py::object cupy = py::module_::import("cupy");
  if (!several_devices) {
    py::object array = cupy.attr("empty")(shape, name_of(dtype));
    return {array, false, address(array.attr("data").attr("ptr"))};
  }
  py::object device =
      py::handle(like).attr("device");  // cupy.empty makes arrays on the current one
  device.attr("__enter__")();
  try {
    DeviceArray made = new_cupy(like, dtype, shape, false);
    device.attr("__exit__")(py::none(), py::none(), py::none());
    return made;
  } catch (py::error_already_set&) {
    device.attr("__exit__")(py::none(), py::none(), py::none());
    throw;
  }
}

}  // namespace

const char* why_not_cuda(int device) {
  const Found& now = cuda_found();
  return now.api ? now.api->why_not_device(device) : now.why_not.c_str();
}

const CudaApi& cuda() { return *cuda_found().api; }

CudaQueue current_queue(Library library, int device) {
  switch (library) {
    case Library::torch:
      return {device, address(py::module_::import("torch.cuda")
                                  .attr("current_stream")(device)
                                  .attr("cuda_stream"))};
    case Library::cupy:
      return {device,
              address(py::module_::import("cupy.cuda").attr("get_current_stream")().attr("ptr"))};
    default: return {device, reinterpret_cast<void*>(kDefaultStream)};
  }
}

bool orders_memory(Library library) {
  return library == Library::torch || library == Library::cupy;
}

void wait_for(CudaQueue queue, const std::string& op) {
  const CudaApi& api = cuda();
  CudaError error;
  {
    Unlocked unlocked;
    error = api.wait(queue);
  }
  check_cuda(error, op, queue.device);
}

void out_of_memory(const std::string& op, int device, i64 bytes) {
  raise("OutOfMemoryError", op + ": not enough memory on " + device_name(device) + ": " +
                                std::to_string(bytes) + " bytes wanted, " +
                                std::to_string(cuda().free_bytes(device)) + " free");
}

void look_for_bad_index(CudaQueue queue, const std::string& op) {
  CudaBadIndex bad;
  bool good = true;
  check_cuda(cuda().look(queue, &bad, &good), op, queue.device);
  if (!good) raise_bad_index(bad);
}

void raise_cuda(const CudaError& error, const std::string& op, int device) {
  const std::string reason = std::string(error.text) + " (" + error.name + ")";
  switch (error.kind) {
    case CudaError::memory:
      raise("OutOfMemoryError", op + ": not enough memory on " + device_name(device));
    case CudaError::unsupported:
      raise("DeviceError", op + ": there is no CUDA kernel for these arguments");
    case CudaError::lost:
      raise("DeviceError", op + ": " + reason +
                               ": the CUDA context is lost; restart the process. Arrays on the CPU "
                               "are not concerned");
    default: raise("DeviceError", op + ": " + reason + " on " + device_name(device));
  }
}

Memory allocate_on(CudaQueue queue, i64 bytes, const std::string& op) {
  void* p = nullptr;
  const CudaError error = cuda().allocate(queue, bytes, &p);
  if (error.kind == CudaError::memory) out_of_memory(op, queue.device, bytes);
  check_cuda(error, op, queue.device);
  return Memory(static_cast<char*>(p), {&cuda(), queue});
}

DeviceArray new_on_device(Library library, PyObject* like, DType dtype, const i64* shape, int ndim,
                          CudaQueue queue, const std::string& op) {
  i64 bytes = static_cast<i64>(item_size(dtype));
  for (int i = 0; i < ndim; i++) bytes *= shape[i];
  try {
    if (library == Library::torch) return new_torch(like, dtype, shape_tuple(shape, ndim));
    if (library == Library::cupy)
      return new_cupy(like, dtype, shape_tuple(shape, ndim), cuda().device_count() > 1);
  } catch (py::error_already_set& e) {
    if (!is_out_of_memory(e)) throw;
    out_of_memory(op, queue.device, bytes);
  }
  Memory memory = allocate_on(queue, bytes, op);
  void* data = memory.get();
  const CudaApi* api = &cuda();
  const int device = queue.device;
  // Nobody tells on which streams the other library has used the memory: all must be done.
  py::object capsule = export_memory(dtype, shape, ndim, {kDLCUDA, device}, data,
                                     [api, device](void* p) { api->release_after_all(device, p); });
  memory.release();
  return {capsule, true, data};
}

void add_device(py::module_& m) {
  m.def("cuda_facts", cuda_facts, "What is built and found of CUDA.");
  m.def("use_cuda", use_cuda, py::arg("api"),
        "Use this build of the CUDA kernels; None: the usual.");
  m.def("synchronize", synchronize,
        "Wait until all GPUs have done the work of fastnn's calls.\n\nRaises\n------\n"
        "fastnn.LabelError\n    If a class index in device memory was out of range and no call has "
        "told so yet.\nIndexError\n    If a row number was.\nfastnn.DeviceError\n    If a GPU "
        "failed.");
}

}  // namespace fnn
