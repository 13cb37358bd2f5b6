// Turns Python arguments into one recorded call: matches names, views arrays, checks types and
// shapes against the contract, makes results. Nothing is written before everything is checked. On
// a CUDA device all is queued in the caller's stream and nothing waits; numbers that kernels read
// through pointers, indices and arrays of other layouts are brought over by kernels, too.
#pragma once
#include <vector>

#include "arrays.h"
#include "device.h"
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

  const Binder* numbers_of = nullptr;  // another call with the same numbers, already bound

  void bind();    // checks everything, allocates everything
  void launch();  // queues a call that on_device()
  static void launch(const std::vector<std::unique_ptr<Binder>>& list);  // of a _step op
  py::object finish();                          // after the run: copies back, returns the results
  int device() const { return queue_.device; }  // -1: the CPU
  bool on_device() const { return device() >= 0; }
  Library library() const { return library_; }
  DType type() const { return type_; }
  const View& view(int field) const { return views_[field]; }  // object null: not given

  Call call;

 private:
  const OpInfo& op_;
  View views_[kMaxFields];
  Library library_ = Library::none;
  PyObject* like_ = nullptr;
  CudaQueue queue_ = {-1, nullptr};  // device -1: the CPU
  bool numbers_on_device_ = false;   // some of them
  int type_field_ = -1;              // the array that decided
  DType type_ = DType::f32;          // the floating-point type
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
    Memory memory;
    int field;
    bool copy_back;
  };
  std::vector<Temporary> temporaries_;
  std::vector<Temporary> indices_;
  Memory device_numbers_;
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
  bool bind_device_number(int i);
  void store_numbers();
  void bind_choice(int i);
  void bind_array(int i);
  void bind_matrix(int i);
  void bind_targets(int i);
  void bind_indices(int i);
  std::optional<LabelRange> label_range(const Field& f) const;
  [[noreturn]] void wrong_label(const Field& f, const View& v, i64 r, i64 classes) const;
  void bind_results();
  void take_library(const Field& f, const View& v);
  bool takes(DType dtype) const;
  void set_type(int field, DType dtype);
  void take_type(int i);
  void match_shape(const Field& f, const View& v);
  void settle_dim(int slot, const i64* shape, int count, const Field& f, const View& v);
  void require_writeable(const Field& f, const View& v);
  void keep_alive(const View& v);
  Memory take_memory(size_t bytes);
  void use_memory(int i, bool copy_back);
  void copy(const Temporary& t, bool back);
  void copy_indices(const Temporary& t);
  void check_overlaps() const;
  std::vector<i64> result_shape(const Field& f) const;
  bool wanted(const Field& f) const;
  void bind_out(int i, PyObject* given);
  void make_out(int i);
};

}  // namespace fnn
