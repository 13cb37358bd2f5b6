// Plans and clocks as Python objects, for the CPU (plan.cpp) and for GPUs (device_plan.cpp).
#pragma once
#include <pybind11/stl.h>

#include <atomic>
#include <optional>

#include "../plan/device.h"
#include "../plan/plan.h"
#include "arrays.h"
#include "gil.h"
#include "ops.h"

namespace fnn {

bool check_signals();  // true: an exception is set

// A clock of which one thread at a time may make use.
struct PyClock : Clock {
  std::atomic<bool> busy{false};
};

// Marks a plan or a clock as in use. Another thread may want it, or a signal's handler.
class InUse {
 public:
  explicit InUse(std::atomic<bool>* busy) : busy_(busy) {
    if (busy_ && busy_->exchange(true))
      throw std::runtime_error(
          "this Trainer is busy, in another thread or in a call that a signal interrupted");
  }
  ~InUse() {
    if (busy_) *busy_ = false;
  }
  InUse(const InUse&) = delete;
  InUse& operator=(const InUse&) = delete;

 private:
  std::atomic<bool>* busy_;
};

struct PyArena {
  std::shared_ptr<Arena> memory = std::make_shared<Arena>();
  std::shared_ptr<Mirror> on_device;  // unless its plans run on the CPU
};

// What Python asks of a run besides the sources.
struct Asked {
  i64 count, first_row;
  bool shuffle, wrap;
  u64 seed, epoch;
  py::object lr;
  PyClock* clock;
  std::vector<std::pair<py::array, py::array>> records;
  bool update;
  std::optional<py::array> guard;
  std::optional<py::array_t<double>> seconds;
  py::array_t<double, py::array::c_style> rates = {};  // of `lr`

  Steps checked(const Plan& plan, i64 rows);  // all but the sources
};

struct PyPlan {
  Recorder state;
  std::vector<py::array> placeholders;  // of the plan's inputs
  std::atomic<bool> busy{false};

  explicit PyPlan(const PyArena& arena) : state{std::make_shared<Plan>(arena.memory), py::list()} {}

  PyPlan& enter();
  void exit(const py::args&);
  py::object input(const std::vector<i64>& shape, const std::string& dtype);
  void keep(const py::array& array);
  i64 run(const std::vector<py::array>& sources, Asked asked);
};

// run() of a class whose sources are of type Source.
template <class Source, class P> void def_run(py::class_<P>& type, const char* doc) {
  type.def(
      "run",
      [](P& p, const std::vector<Source>& sources, i64 count, i64 first_row, bool shuffle,
         bool wrap, u64 seed, u64 epoch, const py::object& lr, PyClock* clock,
         const std::vector<std::pair<py::array, py::array>>& records, bool update,
         const std::optional<py::array>& guard, const std::optional<py::array_t<double>>& seconds) {
        return p.run(sources, {count, first_row, shuffle, wrap, seed, epoch, lr, clock, records,
                               update, guard, seconds});
      },
      py::arg("sources"), py::arg("count") = 1, py::arg("first_row") = 0,
      py::arg("shuffle") = false, py::arg("wrap") = false, py::arg("seed") = 0,
      py::arg("epoch") = 0, py::arg("lr") = py::none(), py::arg("clock") = nullptr,
      py::arg("records") = std::vector<std::pair<py::array, py::array>>{}, py::arg("update") = true,
      py::arg("guard") = py::none(), py::arg("seconds") = py::none(), doc);
}

}  // namespace fnn
