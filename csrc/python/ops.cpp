#include "ops.h"

#include <algorithm>

#include "../core/threads.h"
#include "binder.h"
#include "gil.h"

namespace fnn {
namespace {

struct PyOp {
  const OpInfo* info;
  std::vector<int> parameters;   // fields that are arguments, in the order of the signature
  std::vector<PyObject*> names;  // their names, interned
  int positional;                // how many may be given by position
  bool has_out, has_dtype;
  std::string doc;
  PyMethodDef method;
};

PyObject* interned(const char* text) { return PyUnicode_InternFromString(text); }

struct Values {
  PyObject* by_field[kMaxFields] = {};
  PyObject *out = nullptr, *dtype = nullptr;
};

void set_keyword(const PyOp& op, PyObject* name, PyObject* value, Values& values) {
  for (size_t k = 0; k < op.names.size(); k++) {
    if (op.names[k] != name && PyUnicode_Compare(op.names[k], name) != 0) continue;
    PyObject*& slot = values.by_field[op.parameters[k]];
    if (slot)
      throw py::type_error(op.info->name + ": argument " + op.info->fields[op.parameters[k]].name +
                           " given twice");
    slot = value;
    return;
  }
  const char* text = PyUnicode_AsUTF8(name);
  if (op.has_out && !strcmp(text, "out"))
    values.out = value == Py_None ? nullptr : value;
  else if (op.has_dtype && !strcmp(text, "dtype"))
    values.dtype = value;
  else
    throw py::type_error(op.info->name + ": unexpected keyword argument '" + text + "'");
}

Values parse(const PyOp& op, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  Values values;
  if (count > op.positional)
    throw py::type_error(op.info->name + ": takes at most " + std::to_string(op.positional) +
                         " positional arguments, got " + std::to_string(count));
  for (Py_ssize_t i = 0; i < count; i++) values.by_field[op.parameters[i]] = args[i];
  Py_ssize_t named = keywords ? PyTuple_GET_SIZE(keywords) : 0;
  for (Py_ssize_t i = 0; i < named; i++)
    set_keyword(op, PyTuple_GET_ITEM(keywords, i), args[count + i], values);
  return values;
}

void run(std::vector<Call>& calls) {
  double cost = 0;
  for (const Call& call : calls) cost += call.op->cost(call.slots, call.f64);
  if (cost < 2000) return run_now(calls.data(), calls.size());
  Unlocked unlocked;
  run_now(calls.data(), calls.size());
}

void run(Call& call) {
  // Releasing the interpreter lock costs as much as the smallest kernels.
  if (call.op->cost(call.slots, call.f64) < 2000) return run_now(&call, 1);
  Unlocked unlocked;
  run_now(&call, 1);
}

py::object call_once(const PyOp& op, const Values& values) {
  Binder binder(*op.info);
  std::copy(std::begin(values.by_field), std::end(values.by_field), binder.values);
  binder.out = values.out;
  binder.dtype = values.dtype;
  binder.bind();
  if (recorder)
    recorder->plan->add(*op.info, binder.call.f64, binder.call.slots);
  else if (binder.on_device())
    binder.launch();
  else
    run(binder.call);
  return binder.finish();
}

bool is_list(PyObject* o) { return o && (PyList_Check(o) || PyTuple_Check(o)); }

// An array that one element of a list call updates must not share memory with another element's.
void refuse_shared(const OpInfo& op, const std::vector<std::unique_ptr<Binder>>& binders) {
  struct Piece {
    const char *low, *high;
    size_t element;
    bool written;
    std::string name;
  };
  std::vector<Piece> pieces;
  for (size_t b = 0; b < binders.size(); b++)
    for (size_t i = 0; i < op.fields.size(); i++) {
      const View& v = binders[b]->view(static_cast<int>(i));
      if (!v.object || v.size() == 0) continue;
      auto [low, high] = v.extent();
      pieces.push_back({low, high, b, op.fields[i].is_inout(),
                        op.fields[i].name + "[" + std::to_string(b) + "]"});
    }
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece& a, const Piece& b) { return a.low < b.low; });
  // The pieces reaching furthest so far: of all, and of those written.
  const Piece *any = nullptr, *written = nullptr;
  for (const Piece& p : pieces) {
    const Piece* other = p.written ? any : written;
    if (other && p.low < other->high && p.element != other->element)
      throw py::value_error(op.name + ": " + other->name + " and " + p.name + " overlap in memory");
    if (!any || p.high > any->high) any = &p;
    if (p.written && (!written || p.high > written->high)) written = &p;
  }
}

// The lists among the arguments as tuples of their own: another thread may change a list.
std::vector<py::object> own_lists(const PyOp& op, Values& values) {
  std::vector<py::object> owned;
  for (int p : op.parameters) {
    PyObject*& value = values.by_field[p];
    if (!op.info->fields[p].is_array() || !is_list(value)) continue;
    owned.push_back(py::reinterpret_steal<py::object>(PySequence_Tuple(value)));
    if (!owned.back()) throw py::error_already_set();
    value = owned.back().ptr();
  }
  return owned;
}

// What holds for the arrays of one element holds for all.
void require_alike(const OpInfo& op, const Binder& first, const Binder& other, Py_ssize_t j) {
  const std::string which = op.name + ": param[" + std::to_string(j) + "] ";
  if (other.library() != first.library())
    throw py::type_error(which + "is an array of " + name_of(other.library()) + " but [0] is of " +
                         name_of(first.library()) +
                         "; all arrays of one call come from one library");
  if (other.device() != first.device())
    throw py::value_error(which +
                          "is on another device than [0]; all arrays of one call are on one");
  if (other.type() != first.type())
    raise("DTypeError", which + "has another type than [0]; all arrays of one call have one type");
}

py::object call_lists(const PyOp& op, Values& values) {
  const OpInfo& info = *op.info;
  std::vector<py::object> owned = own_lists(op, values);
  Py_ssize_t length = PyTuple_GET_SIZE(values.by_field[op.parameters[0]]);
  for (int p : op.parameters) {
    PyObject* value = values.by_field[p];
    if (!info.fields[p].is_array() || !value || value == Py_None) continue;
    std::string where = info.name + ": " + info.fields[p].name;
    if (!is_list(value))
      throw py::type_error(where + " must be a list as " + info.fields[op.parameters[0]].name +
                           " is");
    if (PyTuple_GET_SIZE(value) != length)
      throw py::value_error(where + " must be a list of " + std::to_string(length) +
                            " arrays, got " + std::to_string(PyTuple_GET_SIZE(value)));
  }
  std::vector<std::unique_ptr<Binder>> binders;
  for (Py_ssize_t j = 0; j < length; j++) {
    auto binder = std::make_unique<Binder>(info);
    for (int p : op.parameters) {
      PyObject* value = values.by_field[p];
      bool list = info.fields[p].is_array() && is_list(value);
      binder->values[p] = list ? PyTuple_GET_ITEM(value, j) : value;
    }
    if (j) binder->numbers_of = binders[0].get();
    binder->bind();
    if (j) require_alike(info, *binders[0], *binder, j);
    binders.push_back(std::move(binder));
  }
  refuse_shared(info, binders);
  std::vector<Call> calls;
  for (auto& binder : binders) calls.push_back(binder->call);
  if (recorder)
    for (const Call& call : calls) recorder->plan->add(info, call.f64, call.slots);
  else if (!binders.empty() && binders[0]->on_device())
    Binder::launch(binders);
  else
    run(calls);
  for (auto& binder : binders) binder->finish();
  return py::none();
}

PyObject* call_op(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) {
  const auto& op = *static_cast<const PyOp*>(PyCapsule_GetPointer(self, nullptr));
  try {
    Values values = parse(op, args, count, keywords);
    bool lists = op.info->in_place && is_list(values.by_field[op.parameters[0]]);
    return (lists ? call_lists(op, values) : call_once(op, values)).release().ptr();
  } catch (py::error_already_set& e) { e.restore(); } catch (py::builtin_exception& e) {
    e.set_error();
  } catch (std::bad_alloc&) {
    PyErr_SetString(PyExc_MemoryError,
                    (op.info->name + ": not enough memory for the result or workspace").c_str());
  } catch (std::exception& e) {
    PyErr_SetString(PyExc_RuntimeError, (op.info->name + ": " + e.what()).c_str());
  }
  return nullptr;
}

// ---- documentation -------------------------------------------------------------------------

std::string default_text(const Field& f) {
  if (f.kind == Kind::opt || f.kind == Kind::optinout) return "None";
  if (f.kind == Kind::flag) return f.integer ? "True" : "False";
  if (f.kind == Kind::choice)
    return f.integer < 0 ? "None" : "'" + f.words[static_cast<size_t>(f.integer)] + "'";
  return f.standard;
}

// A text signature takes no required argument after one with a default, unless keyword-only.
std::string signature(const PyOp& op) {
  std::string text = op.info->name + "(";
  bool star = false;
  int last_required =
      -1;  // an argument before it by position has no default, though it may be None
  for (int p : op.parameters)
    if (!op.info->fields[p].keyword_only && !op.info->fields[p].optional()) last_required = p;
  auto add = [&](const std::string& piece) { text += (text.back() == '(' ? "" : ", ") + piece; };
  for (int p : op.parameters) {
    const Field& f = op.info->fields[p];
    if (f.keyword_only && !star) add("*"), star = true;
    add(f.name + (f.optional() && p > last_required ? "=" + default_text(f) : ""));
  }
  if ((op.has_out || op.has_dtype) && !star) add("*");
  if (op.has_dtype) add("dtype='float32'");
  if (op.has_out) add("out=None");
  return text + ")";
}

std::string kind_text(const Field& f) {
  const char* types[] = {"float32 or float64", "integer", "uint8", "bool"};
  std::string array = std::string(types[static_cast<int>(f.type)]) + " array " + f.shape;
  switch (f.kind) {
    case Kind::opt:
    case Kind::optinout: return array + " or None";
    case Kind::targets: return "integer array (n,) or float array (n, c)";
    case Kind::loss: return "number, or array " + f.shape + " with reduction='none'";
    case Kind::real:
    case Kind::scalar: return "float" + std::string(f.kind == Kind::scalar ? " or 0-d array" : "");
    case Kind::integer:
    case Kind::counter: return "int";
    case Kind::flag: return "bool";
    case Kind::choice: {
      std::string text = "{";
      for (const std::string& w : f.words) text += (text.size() > 1 ? ", '" : "'") + w + "'";
      return text + "}" + (f.integer < 0 ? " or None" : "");
    }
    default: return array;
  }
}

std::string documentation(const PyOp& op) {
  std::string text = signature(op) + "\n--\n\n" + op.info->doc + "\n\nParameters\n----------\n";
  auto describe_field = [&](const Field& f) {
    std::string standard = f.is_argument() && f.optional() ? ", default " + default_text(f) : "";
    bool in_place = f.is_inout();
    text += f.name + " : " + kind_text(f) + standard + (in_place ? ", updated in place" : "") +
            "\n    " + f.doc + "\n";
  };
  for (int p : op.parameters) describe_field(op.info->fields[p]);
  if (op.has_dtype) text += "dtype : {'float32', 'float64'}\n    Type of the result.\n";
  if (op.has_out)
    text +=
        "out : array or tuple of arrays, optional\n    Where the results go; None in a tuple means "
        "a new array.\n\nReturns\n-------\n";
  for (const Field& f : op.info->fields)
    if (f.is_result()) describe_field(f);
  text +=
      "\nRaises\n------\nfastnn.DTypeError, fastnn.ShapeError, ValueError, TypeError\n    Before "
      "anything is written.\n";
  if (op.info->find("ignore_index"))
    text +=
        "fastnn.LabelError\n    A class index outside 0 .. c - 1 that is not ignore_index. On a "
        "GPU, "
        "where nothing\n    waits, its row's loss is NaN, and a later call or fastnn.synchronize() "
        "raises.\n";
  return text;
}

PyOp make_op(const OpInfo& info) {
  PyOp op{&info, {}, {}, 0, false, false, {}, {}};
  bool decided = false, floating_result = false;
  for (size_t i = 0; i < info.fields.size(); i++) {
    const Field& f = info.fields[i];
    if (i >= kMaxFields) throw std::logic_error(info.name + ": more than kMaxFields fields");
    op.has_out |= f.is_result();
    floating_result |= f.is_result() && f.type == Type::T;
    decided |= (f.is_array()) && f.type == Type::T;
    if (!f.is_argument()) continue;
    op.parameters.push_back(static_cast<int>(i));
    op.names.push_back(interned(f.name.c_str()));
    op.positional += !f.keyword_only;
  }
  op.has_dtype = floating_result && !decided;
  op.doc = documentation(op);
  return op;
}

}  // namespace

void add_ops(py::module_& m) {
  static auto& ops = *new std::vector<PyOp>;  // never destroyed: daemon threads outlive main()
  ops.reserve(all_ops().size());
  py::list names;
  for (const OpInfo& info : all_ops()) {
    names.append(info.name);
    ops.push_back(make_op(info));
    PyOp& op = ops.back();
    op.method = {op.info->name.c_str(),
                 reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(call_op)),
                 METH_FASTCALL | METH_KEYWORDS, op.doc.c_str()};
    py::capsule self(&op);
    py::str module("fastnn.ops");
    m.add_object(op.info->name.c_str(), py::reinterpret_steal<py::object>(PyCFunction_NewEx(
                                            &op.method, self.ptr(), module.ptr())));
  }
  m.attr("op_names") = names;
}

}  // namespace fnn
