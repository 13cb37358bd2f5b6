// Plans and clocks for the Trainer: recording ops, replaying whole epochs.
#include "plan.h"

#include <algorithm>
#include <bit>

#include "../core/permutation.h"
#include "labels.h"

namespace fnn {
namespace {

DType parse_dtype(const std::string& name) {
  if (name == "float32") return DType::f32;
  if (name == "float64") return DType::f64;
  if (name == "int64") return DType::i64_;
  if (name == "uint8") return DType::u8_;
  throw py::type_error("Plan.input: dtype must be float32, float64, int64 or uint8, got " + name);
}

Source checked_source(const py::array& a, const Input& input, i64 rows, bool shuffle) {
  i64 row_bytes = a.nbytes() / std::max<i64>(a.shape(0), 1);
  if (!(a.flags() & py::array::c_style) || a.shape(0) != rows ||
      (rows && row_bytes != input.row_bytes))
    throw py::value_error(
        "Plan.run: sources must be C-contiguous, of the inputs' row size and of equal length");
  return {static_cast<const char*>(a.data()), shuffle};
}

// Whether an array can be read where it lies: aligned native numbers in C order.
bool is_plain(const py::array& a) {
  constexpr int kPlain =
      py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  constexpr char kSwapped = std::endian::native == std::endian::little ? '>' : '<';
  return (a.flags() & kPlain) == kPlain && a.dtype().byteorder() != kSwapped;
}

bool same_shape(const py::array& a, const py::array& b) {
  return a.ndim() == b.ndim() && std::equal(a.shape(), a.shape() + a.ndim(), b.shape());
}

// One step on whole batches, again and again. Only the arrays and the rate change between calls;
// all else is looked up once.
class PySingle {
 public:
  PySingle(PyPlan& plan, PyClock& clock, const py::array& loss,
           std::optional<std::pair<i64, i64>> labels, std::optional<py::array> guard)
      : plan_(plan), clock_(clock), loss_(loss), guard_(std::move(guard)) {
    if (labels) labels_ = LabelRange{labels->first, labels->second};
    sources_.resize(plan_.placeholders.size());
    steps_.sources = sources_.data();
    steps_.rows = plan_.state.plan->inputs.at(0).rows;
    steps_.count = 1;
    steps_.clock = &clock_;
    steps_.interrupted = check_signals;
  }

  // The loss, or None with nothing changed: an array is not as the plan's input, a label is out of
  // range, or the guard ended the step. Without `lr` there is no update.
  py::object run(py::handle x, py::handle y, py::handle sample_weight, std::optional<double> lr) {
    InUse plan_in_use(&plan_.busy), clock_in_use(&clock_.busy);
    if (!take({x, y, sample_weight})) return py::none();
    steps_.update = lr.has_value();
    steps_.lr = lr ? &*lr : nullptr;
    steps_.guard = lr && guard_ ? static_cast<const i64*>(guard_->data()) : nullptr;
    i64 done;
    {
      Unlocked unlocked;
      done = plan_.state.plan->run(steps_);
    }
    if (PyErr_Occurred()) throw py::error_already_set();
    if (!done) return py::none();
    return py::float_(loss_.itemsize() == 8 ? *static_cast<const double*>(loss_.data())
                                            : *static_cast<const float*>(loss_.data()));
  }

 private:
  // Makes these the sources, if there is one that does for each input.
  bool take(std::initializer_list<py::handle> given) {
    size_t count = 0;
    for (py::handle array : given) {
      if (array.is_none()) break;
      if (count == sources_.size() || !(sources_[count].data = find(count, array))) return false;
      count++;
    }
    return count == sources_.size();
  }

  // Where to read an input from: the array's memory, or a checked copy of labels; else null.
  const char* find(size_t i, py::handle given) {
    const py::array& placeholder = plan_.placeholders[i];
    if (Py_TYPE(given.ptr()) != Py_TYPE(placeholder.ptr())) return nullptr;
    auto array = py::reinterpret_borrow<py::array>(given);
    if (!is_plain(array) || !same_shape(array, placeholder)) return nullptr;
    if (i == 1 && labels_) return copy_of_labels(array, plan_.state.plan->inputs[i].data);
    if (array.dtype().num() != placeholder.dtype().num()) return nullptr;
    return static_cast<const char*>(array.data());
  }

  const char* copy_of_labels(const py::array& labels, char* to) {
    View view;
    view_array(labels.ptr(), view, "step", "y");
    if (!is_integer(view.dtype)) return nullptr;
    i64 row = copy_labels(integers(view), &*labels_, reinterpret_cast<i64*>(to));
    return row == view.shape[0] ? to : nullptr;
  }

  PyPlan& plan_;
  PyClock& clock_;
  py::array loss_;
  std::optional<py::array> guard_;
  std::optional<LabelRange> labels_;
  std::vector<Source> sources_;
  Steps steps_{};
};

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

bool check_signals() {
  Locked locked;
  return PyErr_CheckSignals() != 0;
}

PyPlan& PyPlan::enter() {
  if (recorder) throw std::runtime_error("Plan: another plan is being recorded on this thread");
  recorder = &state;
  return *this;
}

void PyPlan::exit(const py::args&) {
  recorder = nullptr;
  state.plan->finish();
}

py::object PyPlan::input(const std::vector<i64>& shape, const std::string& dtype) {
  Plan& plan = *state.plan;
  DType type = parse_dtype(dtype);
  if (shape.empty()) throw py::value_error("Plan.input: shape must have at least one axis");
  i64 row = static_cast<i64>(item_size(type));
  for (size_t i = 1; i < shape.size(); i++) row *= shape[i];
  void* data;
  py::object array =
      placeholder(state.plan, type, shape.data(), static_cast<int>(shape.size()), &data);
  plan.inputs.push_back({static_cast<char*>(data), shape[0], row, {}});
  placeholders.push_back(array);
  return array;
}

void PyPlan::keep(const py::array& array) {
  state.keep_alive.append(array);
  state.plan->keep(static_cast<char*>(const_cast<void*>(array.data())),
                   static_cast<size_t>(array.nbytes()));
}

Steps Asked::checked(const Plan& plan, i64 rows) {
  Steps s{};
  s.rows = rows;
  i64 batch = plan.inputs.empty() ? 0 : plan.inputs[0].rows;
  if (first_row < 0 || count < 0 ||
      (wrap ? s.rows - first_row < batch : first_row + count * batch > s.rows))
    throw py::value_error("Plan.run: more rows asked for than there are");
  s.first_row = first_row;
  s.count = count;
  s.shuffle = shuffle;
  s.wrap = wrap;
  s.seed = seed;
  s.epoch = epoch;
  if (!lr.is_none()) {
    rates = lr;
    if (rates.size() < count)
      throw py::value_error("Plan.run: lr has fewer values than there are steps");
    s.lr = rates.data();
  }
  s.clock = clock;
  for (auto& [from, to] : records) {
    if (to.itemsize() != from.itemsize() || to.size() < count || !(to.flags() & py::array::c_style))
      throw py::value_error(
          "Plan.run: a record needs an array of its type with one element per step");
    s.records.push_back(
        {from.data(), static_cast<char*>(to.mutable_data()), static_cast<size_t>(from.itemsize())});
  }
  s.update = update;
  if (guard) s.guard = static_cast<const i64*>(guard->data());
  s.interrupted = check_signals;
  return s;
}

i64 PyPlan::run(const std::vector<py::array>& sources, Asked asked) {
  InUse plan_in_use(&busy), clock_in_use(asked.clock ? &asked.clock->busy : nullptr);
  Plan& plan = *state.plan;
  if (sources.size() != plan.inputs.size()) throw py::value_error("Plan.run: one source per input");
  Steps s = asked.checked(plan, sources.empty() ? 0 : sources[0].shape(0));
  std::vector<Source> checked;
  for (size_t i = 0; i < sources.size(); i++)
    checked.push_back(checked_source(sources[i], plan.inputs[i], s.rows, s.shuffle));
  s.sources = checked.data();
  if (asked.seconds) {
    if (static_cast<size_t>(asked.seconds->size()) != plan.stages(s.update).size())
      throw py::value_error("Plan.run: seconds needs one element per stage");
    s.seconds = asked.seconds->mutable_data();
  }
  i64 done;
  {
    Unlocked unlocked;
    done = plan.run(s);
  }
  if (PyErr_Occurred()) throw py::error_already_set();
  return done;
}

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
  py::class_<PyArena>(m, "Arena", "Memory of plans that never run at the same time.")
      .def(py::init<>())
      .def_property_readonly(
          "bytes", [](const PyArena& a) { return a.memory->bytes(); }, "Its size.");
  py::class_<PyPlan> plan(m, "Plan",
                          "A list of op calls: recorded inside `with plan:`, replayed by run().");
  def_run<py::array>(
      plan,
      "Replay `count` steps over consecutive batches of the sources' rows; number of steps done. "
      "Where the 0-d array `guard` is >= 0 before the commit, that step is undone and the run "
      "ends. "
      "To the float64 array `seconds` each call's time is added.");
  plan.def(py::init<const PyArena&>(), py::arg("arena"))
      .def("__enter__", &PyPlan::enter, py::return_value_policy::reference_internal)
      .def("__exit__", &PyPlan::exit)
      .def("input", &PyPlan::input, py::arg("shape"), py::arg("dtype"),
           "Placeholder for rows that run() supplies.")
      .def(
          "mark_commit", [](PyPlan& p) { p.state.plan->commit = p.state.plan->calls.size(); },
          "Calls recorded from here on change the model; run(update=False) leaves them out.")
      .def("keep", &PyPlan::keep, py::arg("array"),
           "An array that the calls before the commit change: put back where there is no commit.")
      .def_property_readonly(
          "stages",
          [](PyPlan& p) {
            std::vector<std::string> names;
            for (const Stage& stage : p.state.plan->stages(true))
              names.push_back(describe(stage, p.state.plan->calls));
            return names;
          },
          "What a step with an update does, in order.")
      .def_property_readonly(
          "work",
          [](PyPlan& p) {
            std::vector<std::tuple<std::string, i64, i64>> rows;
            for (const Stage& stage : p.state.plan->stages(true)) {
              Work stage_work = work(stage, p.state.plan->calls);
              rows.emplace_back(stage_work.name, stage_work.flops, stage_work.bytes);
            }
            return rows;
          },
          "Each stage's (name with its shape, FLOPs of its products, bytes read and written).");
  py::class_<PySingle>(m, "Single", "One step of a plan on whole batches, again and again.")
      .def(py::init<PyPlan&, PyClock&, const py::array&, std::optional<std::pair<i64, i64>>,
                    std::optional<py::array>>(),
           py::keep_alive<1, 2>(), py::keep_alive<1, 3>(), py::arg("plan"), py::arg("clock"),
           py::arg("loss"), py::arg("labels") = py::none(), py::arg("guard") = py::none(),
           "`loss` and `guard` are results of the plan; `labels`, for targets that are class "
           "indices, is their number and the one that is ignored.")
      .def(
          "run", &PySingle::run, py::arg("x"), py::arg("y"), py::arg("sample_weight"),
          py::arg("lr"),
          "The loss; without `lr` there is no update. None, with nothing changed, for arrays that "
          "are not just as the plan's inputs, a label out of range, or a step that `guard` ended.");
  m.def(
      "is_recording", [] { return recorder != nullptr; },
      "Whether ops called on this thread are recorded instead of run.");
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
