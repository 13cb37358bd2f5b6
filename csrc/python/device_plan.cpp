// Devices, arrays on them and plans for them: what a Trainer uses of a GPU.
#include "../plan/device_plan.h"

#include "device.h"
#include "plan.h"

namespace fnn {
namespace {

constexpr const char* kWhere = "Trainer";

// f() while nobody else uses the device. A run holds it and asks for the interpreter's lock.
template <class F> auto alone(Device& device, F f) {
  Unlocked unlocked;
  std::lock_guard lock(device.busy);
  return f();
}

// A device with the arrays of one Trainer.
struct PyDevice {
  std::shared_ptr<Device> device;
  std::shared_ptr<Mirror> state;
  py::list held;  // the arrays of `state`, which must not move

  PyDevice(int number, const py::object& clock) {
    if (const char* why = why_not_cuda(number))
      raise("DeviceError",
            std::string(kWhere) + ": device 'cuda:" + std::to_string(number) + "': " + why);
    device = std::make_shared<Device>(cuda(), number);
    state = std::make_shared<Mirror>(device);
    state->add(static_cast<Clock*>(&clock.cast<PyClock&>()), sizeof(Clock));
    held.append(clock);
  }

  void hold(const py::array& array) {
    state->add(array.data(), array.nbytes());
    held.append(array);
  }

  DeviceBlock& block(const py::array& array) const {
    DeviceBlock* found = state->block(array.data());
    if (!found) throw py::value_error("Device: an array that it does not hold");
    return *found;
  }

  void push(const py::array& array) const {
    DeviceBlock& to = block(array);
    const void* from = array.data();
    alone(*device, [&] { to.upload(from, to.size()); });
  }

  void pull(py::array array) const {
    const DeviceBlock& from = block(array);
    void* to = array.mutable_data();
    alone(*device, [&] { from.download(to, from.size()); });
  }
};

// Rows in device memory, C-contiguous.
struct PyDeviceArray {
  std::shared_ptr<Device> device;
  std::shared_ptr<void> memory;
  char* data;
  py::dtype dtype;
  std::vector<i64> shape;

  i64 row_bytes() const {
    i64 bytes = dtype.itemsize();
    for (size_t i = 1; i < shape.size(); i++) bytes *= shape[i];
    return bytes;
  }
  i64 bytes() const { return shape[0] * row_bytes(); }

  PyDeviceArray rows(const py::slice& chosen) const {
    py::ssize_t first, end, step, count;
    if (!chosen.compute(shape[0], &first, &end, &step, &count)) throw py::error_already_set();
    if (step != 1) throw py::index_error("DeviceArray: rows must be consecutive");
    PyDeviceArray part = *this;
    part.data += first * row_bytes();
    part.shape[0] = count;
    return part;
  }

  py::array numpy() const {
    py::array array(dtype, std::vector<py::ssize_t>(shape.begin(), shape.end()));
    void* to = array.mutable_data();
    alone(*device, [&] {
      if (bytes()) device->check(device->steps().download(device->queue, to, data, bytes()));
    });
    return array;
  }
};

PyDeviceArray upload(const PyDevice& d, const py::array& array) {
  if (!(array.flags() & py::array::c_style) || array.ndim() == 0)
    throw py::value_error("Device.upload: the array must be C-contiguous rows");
  const i64 bytes = array.nbytes();
  const void* from = array.data();
  auto memory = alone(*d.device, [&] {
    auto block = std::make_shared<DeviceBlock>(d.device, bytes);
    block->upload(from, bytes);
    return block;
  });
  return {d.device,
          memory,
          memory->data(),
          array.dtype(),
          {array.shape(), array.shape() + array.ndim()}};
}

// A copy in C order of what is laid out in another.
std::shared_ptr<DeviceBlock> contiguous_copy(const std::shared_ptr<Device>& device, const View& v) {
  const i64 item = static_cast<i64>(item_size(v.dtype));
  auto memory = std::make_shared<DeviceBlock>(device, v.size() * item);
  CudaCopy copy{};
  copy.to = memory->data();
  copy.from = v.data;
  copy.ndim = v.ndim;
  copy.item = static_cast<int>(item);
  std::copy(v.shape, v.shape + v.ndim, copy.shape);
  std::copy(v.strides, v.strides + v.ndim, copy.from_strides);
  c_strides(v.shape, v.ndim, static_cast<size_t>(item), copy.to_strides);
  device->check(device->api.copy(device->queue, copy));
  device->check(device->api.wait(device->queue));
  return memory;
}

// An array of another library where it lies, once all that its library has queued is done.
PyDeviceArray borrow(const PyDevice& d, const py::object& given, const std::string& where,
                     const std::string& name) {
  auto view = std::make_unique<View>();
  view_array(given.ptr(), *view, where.c_str(), name.c_str());
  if (view->device != d.device->queue.device)
    raise("DeviceError", where + ": " + name + " is on cuda:" + std::to_string(view->device) +
                             ", the Trainer on cuda:" + std::to_string(d.device->queue.device));
  if (view->dtype == DType::other || view->dtype == DType::bf16)
    raise("DTypeError",
          where + ": " + name + " has a type that NumPy lacks: " + describe(given.ptr()));
  if (view->ndim == 0)
    raise("ShapeError", where + ": " + name + " must have at least one row, got ()");
  wait_for(current_queue(view->library, view->device), where);
  const i64* shape = view->shape;
  PyDeviceArray rows{d.device,
                     nullptr,
                     view->data,
                     py::dtype::from_args(py::str(name_of(view->dtype))),
                     {shape, shape + view->ndim}};
  if (!view->contiguous() || !view->aligned()) {
    auto copied = alone(*d.device, [&] { return contiguous_copy(d.device, *view); });
    rows.data = copied->data();
    rows.memory = std::move(copied);
    return rows;
  }
  struct Borrowed {
    std::unique_ptr<View> view;
    py::object array;
    ~Borrowed() {
      py::gil_scoped_acquire lock;
      view.reset();
      array = py::object();
    }
  };
  rows.memory = std::make_shared<Borrowed>(std::move(view), given);
  return rows;
}

struct PyDevicePlan {
  std::shared_ptr<Device> device;
  py::object recorded;  // the Plan
  std::unique_ptr<DevicePlan> plan;
  std::vector<i64> row_bytes;

  PyDevicePlan(const PyDevice& d, PyArena& arena, const py::object& plan_object,
               const std::vector<py::array>& numbers, const PyClock& clock)
      : device(d.device), recorded(plan_object) {
    const auto& source = plan_object.cast<PyPlan&>();
    if (!arena.on_device) arena.on_device = std::make_shared<Mirror>(device);
    std::vector<HostMemory> constants, noted;
    for (py::handle object : source.state.keep_alive) {
      View v;
      view_array(object.ptr(), v, kWhere, "a constant");
      auto [begin, end] = v.extent();
      constants.push_back({begin, end - begin});
    }
    for (const py::array& number : numbers) noted.push_back({number.data(), number.nbytes()});
    for (const Input& input : source.state.plan->inputs) row_bytes.push_back(input.row_bytes);
    plan = alone(*device, [&] {
      return std::make_unique<DevicePlan>(device, *source.state.plan, d.state, arena.on_device,
                                          constants, noted, clock);
    });
  }

  i64 run(const std::vector<PyDeviceArray>& sources, Asked asked) {
    auto& source = recorded.cast<PyPlan&>();
    InUse plan_in_use(&source.busy), clock_in_use(asked.clock ? &asked.clock->busy : nullptr);
    if (sources.size() != row_bytes.size() || (asked.seconds && asked.seconds->size() != 1))
      throw py::value_error("DevicePlan.run: one source per input, one element of seconds");
    Steps s = asked.checked(*source.state.plan, sources[0].shape[0]);
    std::vector<Source> checked;
    for (size_t i = 0; i < sources.size(); i++) {
      if (sources[i].shape[0] != s.rows || sources[i].row_bytes() != row_bytes[i])
        throw py::value_error(
            "DevicePlan.run: sources must have the inputs' row size, equal length");
      checked.push_back({sources[i].data, true});
    }
    s.sources = checked.data();
    if (asked.seconds) s.seconds = asked.seconds->mutable_data();
    const i64 done = alone(*device, [&] { return plan->run(s); });
    if (PyErr_Occurred()) throw py::error_already_set();
    return done;
  }

  py::array read(const py::array& result) const {
    py::array value(result.dtype(),
                    std::vector<py::ssize_t>(result.shape(), result.shape() + result.ndim()));
    const void* from = result.data();
    void* to = value.mutable_data();
    const i64 bytes = value.nbytes();
    alone(*device, [&] { plan->read(from, to, bytes); });
    return value;
  }
};

void raise_failure(const DeviceFailure& failure) {
  if (failure.error.kind == CudaError::memory && failure.wanted)
    out_of_memory(kWhere, failure.device, failure.wanted);
  raise_cuda(failure.error, kWhere, failure.device);
}

}  // namespace

void add_device_plan(py::module_& m) {
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const DeviceFailure& failure) {
      try {
        raise_failure(failure);
      } catch (py::error_already_set& error) { error.restore(); }
    }
  });
  py::class_<PyDeviceArray>(m, "DeviceArray", "Rows in the memory of a GPU.")
      .def("__len__", [](const PyDeviceArray& a) { return a.shape[0]; })
      .def_property_readonly("shape",
                             [](const PyDeviceArray& a) { return py::tuple(py::cast(a.shape)); })
      .def_property_readonly("dtype", [](const PyDeviceArray& a) { return a.dtype; })
      .def_property_readonly("ndim", [](const PyDeviceArray& a) { return a.shape.size(); })
      .def("__getitem__", &PyDeviceArray::rows, py::arg("rows"),
           "Some consecutive rows, where they lie.")
      .def("numpy", &PyDeviceArray::numpy, "A copy on the CPU.");
  py::class_<PyDevice>(m, "Device", "A GPU with the arrays of one Trainer.")
      .def(py::init<int, py::object>(), py::arg("number"), py::arg("clock"))
      .def("hold", &PyDevice::hold, py::arg("array"),
           "Keep memory for a NumPy array on the device. Nothing is copied yet.")
      .def("push", &PyDevice::push, py::arg("array"), "Copy an array that is held to the device.")
      .def("pull", &PyDevice::pull, py::arg("array"), "Copy it back.")
      .def("upload", upload, py::arg("array"), "A copy of NumPy rows on the device.")
      .def("borrow", borrow, py::arg("array"), py::arg("where"), py::arg("name"),
           "An array of another library in the device's memory; copied only if its rows do not "
           "lie one behind the other.");
  py::class_<PyDevicePlan> plan(m, "DevicePlan", "A recorded Plan, run on a device.");
  plan.def(py::init<const PyDevice&, PyArena&, const py::object&, const std::vector<py::array>&,
                    const PyClock&>(),
           py::arg("device"), py::arg("arena"), py::arg("plan"), py::arg("numbers"),
           py::arg("clock"), "`numbers`: the 0-d results that run() may record.");
  def_run<PyDeviceArray>(plan,
                         "As Plan.run, on sources in the device's memory. To the element of "
                         "`seconds` the device's time is added.");
  plan.def("read", &PyDevicePlan::read, py::arg("result"), "Value of a result of the last step.");
}

}  // namespace fnn
