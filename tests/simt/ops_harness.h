// Runs an op's CUDA launcher and the CPU's kernel on the same numbers. Float results must be within
// a bound of the CPU's in double precision; where both use the same arithmetic, they must have the
// bits of the CPU's float ones.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "core/ops.h"
#include "harness.h"
#include "op.cuh"

#define DECLARE_OP(op)                                                      \
  extern "C" void fnn_scalar_##op##_f32(const void*, const Team*);          \
  extern "C" void fnn_scalar_##op##_f64(const void*, const Team*);          \
  extern "C" cudaError_t fnn_cuda_##op##_f32(const void*, const CudaCall*); \
  extern "C" cudaError_t fnn_cuda_##op##_f64(const void*, const CudaCall*); \
  extern "C" i64 fnn_cuda_##op##_f32_workspace(const void*);                \
  extern "C" i64 fnn_cuda_##op##_f64_workspace(const void*);

struct Result {
  std::string name;
  std::vector<double> values;
};

// The arrays of one call, on the device or the host. The same requests give the same numbers, all
// of which floats can hold.
class Arrays {
 public:
  bool on_device;
  size_t shift = 0;  // elements between an aligned address and a device array's first

  explicit Arrays(bool device) : on_device(device) {}

  template <class T> T* values(const std::vector<double>& v, const char* name = nullptr) {
    std::vector<T> typed(shift_here() + v.size());
    for (size_t i = 0; i < v.size(); i++) typed[shift_here() + i] = T(v[i]);
    return keep(typed, name);
  }
  template <class T> T* normal(size_t n, unsigned seed, double scale = 1) {
    return values<T>(normal_values(n, seed, scale));
  }
  // Read and written; a result.
  template <class T> T* updated(const char* name, size_t n, unsigned seed, bool positive = false) {
    std::vector<double> v = normal_values(n, seed, 1);
    for (double& x : v) x = positive ? double(float(x * x)) : x;
    return values<T>(v, name);
  }
  template <class T> T* output(const char* name, size_t n) {
    return values<T>(std::vector<double>(n, -77), name);
  }
  // 0, 1, ... below `most`, in an order of their own; a result if it has a name.
  u8* bytes(size_t n, const char* name, int most = 1) {
    std::vector<double> v(n);
    for (size_t i = 0; i < n; i++) v[i] = double(i * i * 7 % 257 % size_t(most));
    return values<u8>(v, name);
  }

  std::vector<Result> results() const {
    std::vector<Result> all;
    for (const auto& read : readers_) all.push_back(read());
    return all;
  }

  static std::vector<double> normal_values(size_t n, unsigned seed, double scale) {
    std::vector<double> v(n);
    const std::vector<float> normal = random_normal(n, seed);
    for (size_t i = 0; i < n; i++) v[i] = double(float(scale * double(normal[i])));
    return v;
  }

 private:
  std::vector<std::shared_ptr<void>> kept_;
  std::vector<std::function<Result()>> readers_;

  size_t shift_here() const { return on_device ? shift : 0; }

  template <class T> T* keep(const std::vector<T>& typed, const char* name) {
    const size_t first = shift_here();
    std::function<std::vector<T>()> copy;
    T* p;
    if (on_device) {
      auto array = std::make_shared<Device<T>>(typed);
      copy = [array] { return array->copy(); };
      p = array->get();
      kept_.push_back(array);
    } else {
      auto array = std::make_shared<std::vector<T>>(typed);
      copy = [array] { return *array; };
      p = array->data();
      kept_.push_back(array);
    }
    if (name) {
      readers_.push_back([copy, first, name] {
        const std::vector<T> v = copy();
        return Result{name, std::vector<double>(v.begin() + long(first), v.end())};
      });
    }
    return p + first;
  }
};

struct Entries {
  cudaError_t (*cuda)(const void*, const CudaCall*);
  i64 (*workspace)(const void*);
  void (*cpu)(const void*, const Team*);
};

template <class T, class Make>
std::vector<Result> run_cuda(const Entries& entries, Make make, size_t shift) {
  Arrays arrays(true);
  arrays.shift = shift;
  const auto a = make(arrays, T());
  Device<char> workspace(size_t(entries.workspace(&a)));
  const CudaCall call{nullptr, workspace.get()};
  OK(entries.cuda(&a, &call));
  OK(cudaDeviceSynchronize());
  return arrays.results();
}

template <class T, class Make> std::vector<Result> run_cpu(const Entries& entries, Make make) {
  Arrays arrays(false);
  auto a = make(arrays, T());
  std::vector<double> scratch;
  if constexpr (requires { a.scratch; }) {
    scratch.resize(size_t(a.scratch_bytes(1)) / 8 + 16);
    a.scratch =
        reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(scratch.data()) + 63) / 64 * 64);
  }
  const Team team{0, 1, nullptr};
  entries.cpu(&a, &team);
  return arrays.results();
}

// |expected| plus the mean of all finite ones: what an error is compared with.
inline std::vector<double> sizes(const std::vector<double>& expected) {
  double sum = 0, count = 0;
  for (double x : expected) {
    if (!(fabs(x) < 1e30)) continue;
    sum += fabs(x);
    count++;
  }
  std::vector<double> size;
  for (double x : expected) size.push_back((fabs(x) < 1e30 ? fabs(x) : 0) + sum / (count + 1e-9));
  return size;
}

struct Accuracy {
  double units;    // 2^-24 and 2^-53 of sizes()
  bool same_bits;  // as the CPU's
};

constexpr Accuracy kElementwise{16, true};
constexpr Accuracy kExact{0, true};

// "name 3x4" for sizes 3 and 4.
inline std::string label(const char* name, std::initializer_list<i64> sizes) {
  std::string text = name;
  for (i64 size : sizes) text += (text == name ? " " : "x") + std::to_string(size);
  return text;
}

// Rows or channels whose means are far from 0 and whose spread is small; the first is constant.
inline std::vector<double> far_from_0(i64 outer, i64 inner, unsigned seed, bool by_inner = false) {
  std::vector<double> v = Arrays::normal_values(outer * inner, seed, 1);
  for (i64 i = 0; i < outer * inner; i++) {
    const i64 group = by_inner ? i % inner : i / inner;
    v[i] = double(float(group == 0 ? 7 : v[i] + 1e5 * double(group % 3)));
  }
  return v;
}

template <class Make>
void compare(const std::string& what, const Entries& f32, const Entries& f64, Accuracy accuracy,
             size_t shift, Make make) {
  const std::vector<Result> exact = run_cpu<double>(f64, make);
  const std::vector<Result> narrow = run_cpu<float>(f32, make);
  const std::vector<Result> single = run_cuda<float>(f32, make, shift);
  const std::vector<Result> wide = run_cuda<double>(f64, make, shift);
  for (size_t r = 0; r < exact.size(); r++) {
    const std::string name = what + " " + exact[r].name;
    const std::vector<double> size = sizes(exact[r].values);
    check((name + " f32").c_str(), single[r].values, exact[r].values, size,
          accuracy.units * 0x1p-24);
    check((name + " f64").c_str(), wide[r].values, exact[r].values, size, accuracy.units * 0x1p-53);
    if (!accuracy.same_bits) continue;
    check((name + " f32 as the CPU's").c_str(), single[r].values, narrow[r].values, {1}, 0);
    check((name + " f64 as the CPU's").c_str(), wide[r].values, exact[r].values, {1}, 0);
  }
}

#define OP(name, doc) DECLARE_OP(name)
#include "core/each_op.h"

#define ENTRIES(op, type) \
  Entries { fnn_cuda_##op##_##type, fnn_cuda_##op##_##type##_workspace, fnn_scalar_##op##_##type }
// make(arrays, T()) fills op_args<T>.
#define COMPARE(op, what, accuracy, shift, ...) \
  compare(what, ENTRIES(op, f32), ENTRIES(op, f64), accuracy, shift, __VA_ARGS__)
