// What the operators for PyTorch share: tensors as memory for kernels, checks, errors.
#pragma once
#include <string.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../../core/api.h"

namespace fnn_torch {

struct Word {
  std::string text;
};

}  // namespace fnn_torch

// The conversion to std::string that comes with PyTorch 2.10 to 2.13 loses the memory of every one.
template <> struct torch::stable::detail::ToImpl<fnn_torch::Word> {
  static fnn_torch::Word call(StableIValue value, uint64_t, bool) {
    const StringHandle handle = to<StringHandle>(value);
    size_t length;
    const char* text;
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &text));
    fnn_torch::Word word{std::string(text, length)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return word;
  }
};

namespace fnn_torch {

using fnn::Api;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
typedef std::optional<Tensor> Maybe;
typedef torch::headeronly::IntHeaderOnlyArrayRef Sizes;
typedef std::tuple<Tensor, Tensor> Two;
typedef std::tuple<Tensor, Tensor, Tensor> Three;

typedef torch::stable::detail::StableLibrary Library;

extern const Api* api;  // of fastnn._core

[[noreturn]] inline void refuse(const std::string& text) { throw std::runtime_error(text); }

inline std::string text_of(const i64* sizes, size_t n) {
  std::string text = "(";
  for (size_t i = 0; i < n; i++) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + (n == 1 ? ",)" : ")");
}

inline std::string text_of(std::initializer_list<i64> sizes) {
  return text_of(sizes.begin(), sizes.size());
}

inline const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Bool: return "bool";
    case ScalarType::Long: return "int64";
    case ScalarType::Int: return "int32";
    default: return "another type";
  }
}

inline i64 product(Sizes sizes, size_t first = 0) {
  i64 n = 1;
  for (size_t i = first; i < sizes.size(); i++) n *= sizes[i];
  return n;
}

// One call of an operator: the tensors it was given, as memory of one type in C order.
class Call {
 public:
  Call(const char* op, const char* name, const Tensor& first) : op_(op), first_name_(name) {
    const ScalarType type = first.scalar_type();
    f64_ = type == ScalarType::Double;
    if (!f64_ && type != ScalarType::Float)
      refuse(where(name) + " must be float32 or float64, got " + name_of(type));
  }

  bool f64() const { return f64_; }

  char* in(const Tensor& t, const char* name) {
    check_type(t, name);
    if (t.is_contiguous()) return data(t);
    kept_.push_back(torch::stable::contiguous(t));
    return data(kept_.back());
  }
  char* in(const Tensor& t, const char* name, std::initializer_list<i64> shape) {
    check_shape(t, name, shape.begin(), shape.size());
    return in(t, name);
  }
  char* like(const Tensor& t, const char* name, Sizes sizes) {
    check_shape(t, name, sizes.data(), sizes.size());
    return in(t, name);
  }
  char* maybe(const Maybe& t, const char* name, std::initializer_list<i64> shape) {
    return t ? in(*t, name, shape) : nullptr;
  }

  // Updated in place; a tensor of another layout by way of a copy that run() brings back.
  char* inout(const Tensor& t, const char* name, const i64* shape, size_t axes) {
    check_shape(t, name, shape, axes);
    check_type(t, name);
    if (t.is_contiguous()) return data(t);
    copies_.push_back({t, torch::stable::contiguous(t)});
    return data(copies_.back().second);
  }

  Tensor out(Sizes sizes) const {
    i64 strides[64];
    i64 stride = 1;
    if (sizes.size() > 64) refuse(std::string(op_) + ": more than 64 axes");
    for (size_t i = sizes.size(); i-- > 0; stride *= sizes[i] > 1 ? sizes[i] : 1)
      strides[i] = stride;
    AtenTensorHandle made;
    STABLE_TORCH_ERROR_CODE_CHECK(
        aoti_torch_empty_strided(static_cast<i64>(sizes.size()), sizes.data(), strides,
                                 f64_ ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(),
                                 aoti_torch_device_type_cpu(), 0, &made));
    return Tensor(made);
  }
  Tensor out(std::initializer_list<i64> sizes) const {
    return out(Sizes(sizes.begin(), sizes.size()));
  }

  // No empty tensor has a null pointer: that says "not given".
  static char* data(const Tensor& t) {
    static char nothing[8];
    char* p = static_cast<char*>(t.data_ptr());
    return p ? p : nothing;
  }

  void run(int op, const void* args, i64 count = 1) {
    if (const char* wrong = api->run(op, f64_, args, count)) refuse(wrong);
    for (auto& [tensor, copy] : copies_) torch::stable::copy_(tensor, copy);
  }

  void check_type(const Tensor& t, const char* name) const {
    const ScalarType type = t.scalar_type();
    if (type != (f64_ ? ScalarType::Double : ScalarType::Float))
      refuse(where(name) + " must be " + (f64_ ? "float64" : "float32") + " as " + first_name_ +
             " is, got " + name_of(type));
  }

  [[noreturn]] void refuse_sizes(const char* name, const std::string& expected,
                                 const Tensor& t) const {
    refuse(where(name) + " must have shape " + expected + ", got " +
           text_of(t.sizes().data(), t.sizes().size()));
  }

 private:
  const char *op_, *first_name_;
  bool f64_;
  std::vector<Tensor> kept_;
  std::vector<std::pair<Tensor, Tensor>> copies_;

  std::string where(const char* name) const { return std::string(op_) + ": " + name; }

  void check_shape(const Tensor& t, const char* name, const i64* shape, size_t axes) const {
    const Sizes sizes = t.sizes();
    if (sizes.size() == axes && (!axes || !memcmp(sizes.data(), shape, axes * sizeof(i64)))) return;
    refuse_sizes(name, text_of(shape, axes), t);
  }
};

// The last axis; a tensor without axes is one row of one element.
inline i64 last(const Tensor& x) { return x.dim() ? x.size(x.dim() - 1) : 1; }
inline i64 rows(const Tensor& x) {
  return x.dim() ? product(Sizes(x.sizes().data(), x.sizes().size() - 1)) : 1;
}

// Place of a word in the op's list, as in ops.def.
inline i64 choice(const char* what, const Word& word, std::initializer_list<const char*> words) {
  i64 at = 0;
  std::string all;
  for (const char* one : words) {
    if (word.text == one) return at;
    all += (at++ ? ", '" : "'") + std::string(one) + "'";
  }
  refuse(std::string(what) + " must be " + all + ", got '" + word.text + "'");
}

// Each file registers its operators.
void add_layers(Library& m);
void add_linear(Library& m);
void add_cross_entropy(Library& m);
void add_optimizers(Library& m);
#define REGISTER(name)             \
  m.impl(#name, TORCH_BOX(&name)); \
  m.impl(#name ".plain", TORCH_BOX(&name));
#define REGISTER_BOTH(name) REGISTER(name) REGISTER(name##_backward)

}  // namespace fnn_torch
