// CUDA's built-in variables and device functions for g++. Warp functions and atomics come to the
// emulator; arithmetic is the host's.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <string.h>
#include <vector_functions.h>

#include <cmath>
#include <type_traits>

#include "machine.h"

#undef __shared__
#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __launch_bounds__
#undef __grid_constant__
#if EMU_ASAN
#define __shared__ static
#else
#define __shared__ static thread_local
#endif
#define __global__
#define __device__
#define __host__
#define __constant__
#define __launch_bounds__(...)
#define __grid_constant__
#ifndef __forceinline__
#define __forceinline__ inline __attribute__((always_inline))
#endif

#define threadIdx (::emu::current->index)
#define blockIdx (::emu::current->block->index)
#define blockDim (::emu::block_size)
#define gridDim (::emu::grid_size)
#define warpSize 32

// The emulator's own loads and stores are not the kernel's.
#define EMU_UNSEEN __attribute__((no_sanitize("thread")))
#define HERE emu::Location where = emu::Location::current()

// ---- barriers, fences ----------------------------------------------------------------------

inline void __syncthreads(HERE) { emu::barrier(0, 0, where); }
inline void __syncwarp(uint32_t mask = ~0u, HERE) { emu::syncwarp(mask, where); }
inline void __threadfence_block() { emu::fence(); }
inline void __threadfence() { emu::fence(); }
inline void __nanosleep(unsigned) { emu::yield(); }

// ---- shuffles, votes -----------------------------------------------------------------------

namespace emu {

template <class T> struct Shuffle {
  T value, result;
  int source;
};

template <class T> EMU_UNSEEN void exchange(void** lanes) {
  for (int i = 0; i < 32; i++) {
    auto* lane = static_cast<Shuffle<T>*>(lanes[i]);
    if (!lane) continue;
    auto* source = static_cast<Shuffle<T>*>(lanes[lane->source]);
    if (!source) {
      fail("shuffle from an inactive lane", Location::current(), "lane %d reads lane %d", i,
           lane->source);
    }
    lane->result = source->value;
  }
}

template <class T>
EMU_UNSEEN T shuffle(uint32_t mask, T value, int source, const char* name, Location where) {
  static_assert(std::is_trivially_copyable_v<T>);
  Shuffle<T> argument{value, value, source};
  warp_collective(mask, name, &argument, exchange<T>, where);
  return argument.result;
}

struct Vote {
  uint32_t predicate, result;
};

EMU_UNSEEN inline void count_votes(void** lanes) {
  uint32_t result = 0;
  for (int i = 0; i < 32; i++) {
    if (lanes[i] && static_cast<Vote*>(lanes[i])->predicate) result |= 1u << i;
  }
  for (int i = 0; i < 32; i++) {
    if (lanes[i]) static_cast<Vote*>(lanes[i])->result = result;
  }
}

inline int lane() { return int(current->lane); }

}  // namespace emu

template <class T> T __shfl_sync(uint32_t mask, T value, int from, int width = 32, HERE) {
  const int first = emu::lane() & ~(width - 1);
  return emu::shuffle(mask, value, first + (from & (width - 1)), "shfl.idx", where);
}
template <class T> T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32, HERE) {
  const int lane = emu::lane(), from = lane ^ bits, group = ~(width - 1);
  return emu::shuffle(mask, value, (from & group) <= (lane & group) ? from : lane, "shfl.bfly",
                      where);
}
template <class T> T __shfl_down_sync(uint32_t mask, T value, unsigned by, int width = 32, HERE) {
  const int lane = emu::lane(), from = lane + int(by);
  const bool inside = (lane & (width - 1)) + int(by) < width;
  return emu::shuffle(mask, value, inside ? from : lane, "shfl.down", where);
}
template <class T> T __shfl_up_sync(uint32_t mask, T value, unsigned by, int width = 32, HERE) {
  const int lane = emu::lane(), from = lane - int(by);
  return emu::shuffle(mask, value, (lane & (width - 1)) >= int(by) ? from : lane, "shfl.up", where);
}
EMU_UNSEEN inline uint32_t __ballot_sync(uint32_t mask, int predicate, HERE) {
  emu::Vote vote{predicate != 0, 0};
  emu::warp_collective(mask, "vote", &vote, emu::count_votes, where);
  return vote.result;
}
inline int __any_sync(uint32_t mask, int predicate, HERE) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, HERE) {
  return __ballot_sync(mask, predicate, where) == mask;
}
#undef HERE

// ---- atomics -------------------------------------------------------------------------------

namespace emu {

void atomic_access(const void* p, size_t bytes, const void* pc);  // hooks.cpp; else nothing
#if !EMU_RACE
inline void atomic_access(const void*, size_t, const void*) {}
#endif

// Threads take turns, so reading and writing is atomic.
template <class T, class F> EMU_UNSEEN __attribute__((noinline)) T read_modify_write(T* p, F next) {
  count_spin();
  atomic_access(p, sizeof(T), __builtin_return_address(0));
  const T old = *p;
  *p = next(old);
  return old;
}

}  // namespace emu

template <class T> using Same = std::type_identity_t<T>;
template <class T> T atomicAdd(T* p, Same<T> x) {
  return emu::read_modify_write(p, [=](T old) EMU_UNSEEN { return T(old + x); });
}
template <class T> T atomicMax(T* p, Same<T> x) {
  return emu::read_modify_write(p, [=](T old) EMU_UNSEEN { return old > x ? old : x; });
}
template <class T> T atomicMin(T* p, Same<T> x) {
  return emu::read_modify_write(p, [=](T old) EMU_UNSEEN { return old < x ? old : x; });
}
template <class T> T atomicExch(T* p, Same<T> x) {
  return emu::read_modify_write(p, [=](T) EMU_UNSEEN { return x; });
}
template <class T> T atomicCAS(T* p, Same<T> expected, Same<T> x) {
  return emu::read_modify_write(p, [=](T old) EMU_UNSEEN { return old == expected ? x : old; });
}
inline unsigned atomicInc(unsigned* p, unsigned most) {
  return emu::read_modify_write(
      p, [=](unsigned old) EMU_UNSEEN { return old >= most ? 0u : old + 1; });
}

// ---- memory and arithmetic -----------------------------------------------------------------

template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> void __stcs(T* p, std::type_identity_t<T> x) { *p = x; }
template <class T> void __stcg(T* p, std::type_identity_t<T> x) { *p = x; }

inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline double __longlong_as_double(long long x) { return __builtin_bit_cast(double, x); }
inline long long __double_as_longlong(double x) { return __builtin_bit_cast(long long, x); }

template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr auto min(A a, B b) {
  using C = std::common_type_t<A, B>;
  return C(a) < C(b) ? C(a) : C(b);
}
template <class A, class B>
  requires(std::is_arithmetic_v<A> && std::is_arithmetic_v<B>)
constexpr auto max(A a, B b) {
  using C = std::common_type_t<A, B>;
  return C(a) > C(b) ? C(a) : C(b);
}
template <class T> cudaError_t cudaMalloc(T** p, size_t bytes) {
  return ::cudaMalloc(reinterpret_cast<void**>(p), bytes);
}
