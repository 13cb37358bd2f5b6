// each_array(a, f): f(pointer&) for every array of an op's arguments, in the contract's order; made
// from ops.def like the arguments themselves.
#pragma once
#include "op.cuh"

namespace {

// clang-format off: a table
#define OP(name, doc) \
  template <class T, class F> constexpr __host__ __device__ __forceinline__ void each_array([[maybe_unused]] name##_args<T>& a, F&& f) {
#define IN(name, type, shape, doc)          f(a.name);
#define OPT(name, type, shape, doc)         f(a.name);
#define MAT(name, shape, doc)               f(a.name);
#define INOUT(name, type, shape, doc)       f(a.name);
#define OPTINOUT(name, type, shape, doc)    f(a.name);
#define TARGETS(name, n, c, doc)            f(a.labels); f(a.probabilities);
#define OUT(name, type, shape, doc)         f(a.name);
#define OPTOUT(name, type, shape, flag, doc) f(a.name);
#define LOSS(name, shape, doc)              f(a.name);
#define END(name)                           }
// clang-format on
#include "core/each_op.h"

template <class Args> constexpr int count_arrays() {
  Args a{};
  int count = 0;
  each_array(a, [&](auto*&) { count++; });
  return count;
}

template <class Args> bool all_aligned(Args a) {
  bool aligned = true;
  each_array(a, [&](auto*& p) { aligned = aligned && is_aligned(p); });
  return aligned;
}

}  // namespace
