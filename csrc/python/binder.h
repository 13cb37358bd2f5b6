// Turns Python arguments into one recorded call: matches names, views arrays, checks types and
// shapes against the contract, makes results. Nothing is written before everything is checked.
#pragma once
#include <vector>

#include "arrays.h"
#include "labels.h"
#include "ops.h"

namespace fnn {

enum { kMaxFields = 28 };

class Binder {
 public:
  explicit Binder(const OpInfo& op) : op_(op) {
    call.op = &op;
    call.f64 = false;
  }

  // Python values by field, in the contract's order; null where not given.
  PyObject* values[kMaxFields] = {};
  PyObject* out = nullptr;
  PyObject* dtype = nullptr;  // of results no array decides (rescale)

  void bind();          // checks everything, allocates everything
  py::object finish();  // after the run: copies back, returns the results
  const View& view(int field) const { return views_[field]; }  // object null: not given

  Call call;

 private:
  const OpInfo& op_;
  View views_[kMaxFields];
  Library library_ = Library::none;
  PyObject* like_ = nullptr;
  int type_field_ = -1;  // the array that decided the floating-point type
  struct Axes {
    const i64* shape = nullptr;
    int count = -1;
  } axes_[kMaxSlots];  // by DIM slot: the axes that it stands for
  struct Result {
    int field;
    py::object array;  // or the capsule of an export
    bool scalar, exported;
  };
  std::vector<Result> results_;
  struct Temporary {
    Buffer memory;
    int field;
    bool copy_back;
  };
  std::vector<Temporary> temporaries_;
  std::vector<Buffer> indices_;
  double numbers_[kMaxFields];
  i64 counters_[kMaxFields];

  std::string where(const Field& f) const {
    return op_.name + ": " + (f.is_result() ? "out (" + f.name + ")" : f.name);
  }
  [[noreturn]] void wrong_shape(const Field& f, const View& v) const;
  [[noreturn]] void wrong_dtype(const Field& f, PyObject* object) const;
  std::string expected(const Field& f) const;

  [[noreturn]] void wrong_inner(int b) const;

  i64 last_axis() const;
  i64 product(const i64* shape, int count, const Field& f) const;
  void bind_number(int i);
  void bind_choice(int i);
  void bind_array(int i);
  void bind_matrix(int i);
  void bind_targets(int i);
  void bind_indices(int i);
  std::optional<LabelRange> label_range(const Field& f) const;
  [[noreturn]] void wrong_label(const Field& f, const View& v, i64 r, i64 classes) const;
  void bind_results();
  void take_library(const Field& f, const View& v);
  void take_type(int i);
  void match_shape(const Field& f, const View& v);
  void settle_dim(int slot, const i64* shape, int count, const Field& f, const View& v);
  void require_writeable(const Field& f, const View& v);
  void keep_alive(const View& v);
  void use_memory(int i, bool copy_back);
  void check_overlaps() const;
  std::vector<i64> result_shape(const Field& f) const;
  bool wanted(const Field& f) const;
  void bind_out(int i, PyObject* given);
  void make_out(int i);
};

}  // namespace fnn
