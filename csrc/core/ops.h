// Expands ops.def into one argument struct per op, and declares what a kernel sees.
//
// A worked expansion. The stanza
//     OP(relu, "...")  DIM(n, "...")  IN(x, T, (n...), "...")  OUT(y, T, (n...), "...")
//       COST(0.1 * n)
//     END(relu)
// becomes
//     template <class T> struct relu_args {
//       i64 n;  const T* x;  T* y;
//       double cost() const { return 0.1 * n; }
//     };
// Every field is 8 bytes (pointer, int64 or double), so a struct is a plain array of slots and one
// generic binder fills any op's arguments. MAT takes three slots (pointer, row stride, column
// stride), TARGETS two (labels, probabilities; one of them null).
//
// A kernel file says KERNEL(relu) { ... a.n, a.x, team ... } and is compiled once per ISA, for
// float (fnn_avx2_relu_f32) and for double (fnn_avx2_relu_f64).
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>

typedef int64_t i64;
typedef uint64_t u64;
typedef uint32_t u32;
typedef uint8_t u8;

// Sums over many elements are cut into chunks of this many elements, whatever the threads; each
// chunk leaves one partial sum (at most 64 bytes) in the workspace.
enum : i64 { kChunk = 1 << 15 };

constexpr i64 reduction_scratch(i64 elements) { return 64 * (elements / kChunk + 2); }

i64 matmul_scratch(i64 m, i64 n, i64 k, i64 itemsize, int threads);  // core/matmul_plan.cpp

// clang-format off: a table
#define OP(name, doc)                       template <class T> struct name##_args {
#define DIM(name, doc)                      i64 name;
#define LAST(name, doc)                     i64 name;
#define IN(name, type, shape, doc)          const type* name;
#define OPT(name, type, shape, doc)         const type* name;
#define MAT(name, shape, doc)               const T* name; i64 name##_rs, name##_cs;
#define INOUT(name, type, shape, doc)       type* name;
#define OPTINOUT(name, type, shape, doc)    type* name;
#define TARGETS(name, n, c, doc)            const i64* labels; const T* probabilities;
#define OUT(name, type, shape, doc)         type* name;
#define OPTOUT(name, type, shape, flag, doc) type* name;
#define LOSS(name, shape, doc)              T* name;
#define HALVES                              i64 halves;
#define FUSED(type, name, doc)              type* name;
#define REAL(name, dflt, doc)               double name;
#define INT(name, dflt, doc)                i64 name;
#define FLAG(name, dflt, doc)               i64 name;
#define CHOICE(name, words, dflt, doc)      i64 name;
#define SCALAR(name, dflt, doc)             const double* name;
#define COUNTER(name, dflt, doc)            const i64* name;
#define COST(ns)                            double cost() const { return ns; }
#define SCRATCH(bytes)                      char* scratch; i64 scratch_bytes([[maybe_unused]] int threads) const { return bytes; }
#define CHECKS(...)                         const char* check() const { __VA_ARGS__ return nullptr; }
#define REQUIRE(condition, text)            if (!(condition)) return text;
#define END(name)                           };
// clang-format on
#include "each_op.h"

// The threads that run one kernel together: each calls the kernel with the same arguments and its
// own rank. Work is cut into tasks by shape, never by the number of threads.
struct Team {
  int rank, size;
  void* barrier;
};

extern "C" void fnn_team_barrier(const Team* team);

static inline void barrier(const Team& team) {
  if (team.size > 1) fnn_team_barrier(&team);
}

// f(task) for each task of 0..tasks-1, consecutive tasks on the same thread; no barrier.
template <class F> static inline void share(const Team& team, i64 tasks, F&& f) {
  i64 begin = tasks * team.rank / team.size, end = tasks * (team.rank + 1) / team.size;
  for (i64 task = begin; task < end; task++) f(task);
}

// f(begin, end) for pieces of 0..n, cut at multiples of grain; no barrier.
template <class F> static inline void share_range(const Team& team, i64 n, i64 grain, F&& f) {
  i64 tasks = (n + grain - 1) / grain;
  i64 begin = tasks * team.rank / team.size * grain,
      end = tasks * (team.rank + 1) / team.size * grain;
  if (end > n) end = n;
  if (begin < end) f(begin, end);
}

typedef void (*Kernel)(const void* args, const Team* team);

#ifdef FNN_ISA
#define FNN_CAT_(isa, op, type) fnn_##isa##_##op##_##type
#define FNN_CAT(isa, op, type) FNN_CAT_(isa, op, type)
#define KERNEL(op)                                                                     \
  template <class T> static void op##_kernel(const op##_args<T>& a, const Team& team); \
  extern "C" void FNN_CAT(FNN_ISA, op, f32)(const void* a, const Team* team) {         \
    op##_kernel(*static_cast<const op##_args<float>*>(a), *team);                      \
  }                                                                                    \
  extern "C" void FNN_CAT(FNN_ISA, op, f64)(const void* a, const Team* team) {         \
    op##_kernel(*static_cast<const op##_args<double>*>(a), *team);                     \
  }                                                                                    \
  template <class T>                                                                   \
  static void op##_kernel([[maybe_unused]] const op##_args<T>& a,                      \
                          [[maybe_unused]] const Team& team)
#endif
