// Plans and clocks for the Trainer: recording ops, replaying whole epochs.
#include "../plan/plan.h"

#include <pybind11/stl.h>

#include <atomic>
#include <optional>

#include "arrays.h"
#include "gil.h"
#include "labels.h"
#include "ops.h"

namespace fnn {
namespace {

DType parse_dtype(const std::string& name) {
  if (name == "float32") return DType::f32;
  if (name == "float64") return DType::f64;
  if (name == "int64") return DType::i64_;
  if (name == "uint8") return DType::u8_;
  throw py::type_error("Plan.input: dtype must be float32, float64, int64 or uint8, got " + name);
}

bool check_signals() {
  Locked locked;
  return PyErr_CheckSignals() != 0;
}

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

struct PyPlan {
  Recorder state{std::make_shared<Plan>(), py::list()};
  std::atomic<bool> busy{false};

  PyPlan& enter() {
    if (recorder) throw std::runtime_error("Plan: another plan is being recorded on this thread");
    recorder = &state;
    return *this;
  }

  void exit(const py::args&) {
    recorder = nullptr;
    state.plan->finish();
  }

  py::object input(const std::vector<i64>& shape, const std::string& dtype) {
    Plan& plan = *state.plan;
    DType type = parse_dtype(dtype);
    if (shape.empty()) throw py::value_error("Plan.input: shape must have at least one axis");
    i64 row = static_cast<i64>(item_size(type));
    for (size_t i = 1; i < shape.size(); i++) row *= shape[i];
    void* data;
    py::object array =
        placeholder(state.plan, type, shape.data(), static_cast<int>(shape.size()), &data);
    plan.inputs.push_back({static_cast<char*>(data), shape[0], row, {}});
    return array;
  }

  void keep(const py::array& array) {
    state.keep_alive.append(array);
    state.plan->keep(static_cast<char*>(const_cast<void*>(array.data())),
                     static_cast<size_t>(array.nbytes()));
  }

  i64 run(const std::vector<py::array>& sources, i64 count, i64 first_row, bool shuffle, bool wrap,
          u64 seed, u64 epoch, const py::object& lr, PyClock* clock,
          const std::vector<std::pair<py::array, py::array>>& records, bool update,
          const std::optional<py::array>& guard, const std::optional<py::array_t<double>>& seconds);
};

Source checked_source(const py::array& a, const Input& input, i64 rows, bool shuffle) {
  i64 row_bytes = a.nbytes() / std::max<i64>(a.shape(0), 1);
  if (!(a.flags() & py::array::c_style) || a.shape(0) != rows ||
      (rows && row_bytes != input.row_bytes))
    throw py::value_error(
        "Plan.run: sources must be C-contiguous, of the inputs' row size and of equal length");
  return {static_cast<const char*>(a.data()), shuffle};
}

i64 PyPlan::run(const std::vector<py::array>& sources, i64 count, i64 first_row, bool shuffle,
                bool wrap, u64 seed, u64 epoch, const py::object& lr, PyClock* clock,
                const std::vector<std::pair<py::array, py::array>>& records, bool update,
                const std::optional<py::array>& guard,
                const std::optional<py::array_t<double>>& seconds) {
  InUse plan_in_use(&busy), clock_in_use(clock ? &clock->busy : nullptr);
  Plan& plan = *state.plan;
  if (sources.size() != plan.inputs.size()) throw py::value_error("Plan.run: one source per input");
  Steps s{};
  s.rows = sources.empty() ? 0 : sources[0].shape(0);
  i64 batch = sources.empty() ? 0 : plan.inputs[0].rows;
  if (first_row < 0 || count < 0 ||
      (wrap ? s.rows - first_row < batch : first_row + count * batch > s.rows))
    throw py::value_error("Plan.run: more rows asked for than there are");
  std::vector<Source> checked;
  for (size_t i = 0; i < sources.size(); i++)
    checked.push_back(checked_source(sources[i], plan.inputs[i], s.rows, shuffle));
  s.sources = checked.data();
  s.first_row = first_row;
  s.count = count;
  s.shuffle = shuffle;
  s.wrap = wrap;
  s.seed = seed;
  s.epoch = epoch;
  py::array_t<double, py::array::c_style> rates;
  if (!lr.is_none()) {
    rates = lr;
    if (rates.size() < count)
      throw py::value_error("Plan.run: lr has fewer values than there are steps");
    s.lr = rates.data();
  }
  s.clock = clock;
  for (auto& [from, to] : records) {
    auto target = to;
    if (target.itemsize() != from.itemsize() || target.size() < count ||
        !(target.flags() & py::array::c_style))
      throw py::value_error(
          "Plan.run: a record needs an array of its type with one element per step");
    s.records.push_back({from.data(), static_cast<char*>(target.mutable_data()),
                         static_cast<size_t>(from.itemsize())});
  }
  s.update = update;
  if (guard) s.guard = static_cast<const i64*>(guard->data());
  s.interrupted = check_signals;
  if (seconds) {
    auto target = *seconds;
    if (static_cast<size_t>(target.size()) != plan.stages(update).size())
      throw py::value_error("Plan.run: seconds needs one element per stage");
    s.seconds = target.mutable_data();
  }
  i64 done;
  {
    Unlocked unlocked;
    done = plan.run(s);
  }
  if (PyErr_Occurred()) throw py::error_already_set();
  return done;
}

py::array scalar_view(const char* dtype, void* data, const py::object& base) {
  return py::array(py::dtype(dtype), std::vector<py::ssize_t>{}, std::vector<py::ssize_t>{}, data,
                   base);
}

template <class Member> auto view_of(const char* dtype, Member member) {
  return [=](const py::object& self) {
    return scalar_view(dtype, &(self.cast<PyClock&>().*member), self);
  };
}

}  // namespace

void add_plan(py::module_& m) {
  py::class_<PyClock>(
      m, "Clock", "Numbers that change from step to step, as 0-d arrays that recorded ops read.")
      .def(py::init<>())
      .def("set", &PyClock::set, py::arg("updates"), "Make `updates` the number of updates done.")
      .def_property_readonly("updates", view_of("int64", &PyClock::updates),
                             "Updates done, int64; the counter of random bits.")
      .def_property_readonly("step", view_of("float64", &PyClock::step),
                             "Number of the update at hand, float64.")
      .def_property_readonly("lr", view_of("float64", &PyClock::lr), "Learning rate, float64.");
  py::class_<PyPlan>(m, "Plan",
                     "A list of op calls: recorded inside `with plan:`, replayed by run().")
      .def(py::init<>())
      .def("__enter__", &PyPlan::enter, py::return_value_policy::reference_internal)
      .def("__exit__", &PyPlan::exit)
      .def("input", &PyPlan::input, py::arg("shape"), py::arg("dtype"),
           "Placeholder for rows that run() supplies.")
      .def(
          "mark_commit", [](PyPlan& p) { p.state.plan->commit = p.state.plan->calls.size(); },
          "Calls recorded from here on change the model; run(update=False) leaves them out.")
      .def("keep", &PyPlan::keep, py::arg("array"),
           "An array that the calls before the commit change: put back where there is no commit.")
      .def("run", &PyPlan::run, py::arg("sources"), py::arg("count") = 1, py::arg("first_row") = 0,
           py::arg("shuffle") = false, py::arg("wrap") = false, py::arg("seed") = 0,
           py::arg("epoch") = 0, py::arg("lr") = py::none(), py::arg("clock") = nullptr,
           py::arg("records") = std::vector<std::pair<py::array, py::array>>{},
           py::arg("update") = true, py::arg("guard") = py::none(), py::arg("seconds") = py::none(),
           "Replay `count` steps over consecutive batches of the sources' rows; number of steps "
           "done. "
           "Where the 0-d array `guard` is >= 0 before the commit, that step is undone and the run "
           "ends. "
           "To the float64 array `seconds` each call's time is added.")
      .def_property_readonly(
          "bytes", [](PyPlan& p) { return p.state.plan->arena.bytes(); }, "Size of the arena.")
      .def_property_readonly(
          "calls",
          [](PyPlan& p) {
            std::vector<std::string> names;
            for (const Call& call : p.state.plan->calls) names.push_back(call.op->name);
            return names;
          },
          "Names of the recorded ops, in order.")
      .def_property_readonly(
          "stages",
          [](PyPlan& p) {
            std::vector<std::string> names;
            for (const Stage& stage : p.state.plan->stages(true))
              names.push_back(describe(stage, p.state.plan->calls));
            return names;
          },
          "What a step with an update does, in order.");
  m.def(
      "permutation",
      [](i64 n, u64 seed, u64 epoch) {
        py::array_t<i64> order(n);
        for (i64 i = 0; i < n; i++) order.mutable_data()[i] = permuted(i, n, seed, epoch);
        return order;
      },
      py::arg("n"), py::arg("seed"), py::arg("epoch"),
      "The order in which an epoch visits n rows.");
  m.def(
      "check_labels", check_labels, py::arg("labels"), py::arg("classes"), py::arg("ignore_index"),
      py::arg("where"),
      "Class indices as a contiguous int64 array of their own; LabelError if one is out of range.");
}

}  // namespace fnn
