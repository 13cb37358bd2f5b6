#include "dispatch.h"

#include <string.h>

#include <atomic>

#include "matmul_plan.h"

// FASTNN_SCALAR_ONLY: for programs with no other kernels.
#if defined(__x86_64__) && !defined(FASTNN_SCALAR_ONLY)
#define FNN_X86 1
#else
#define FNN_X86 0
#endif

#if FNN_X86
#define ISA_SYMBOLS(op, type) \
  KERNEL_OF(scalar, op, type) KERNEL_OF(avx2, op, type) KERNEL_OF(avx512, op, type)
#else
#define ISA_SYMBOLS(op, type) KERNEL_OF(scalar, op, type)
#endif
#define KERNEL_OF(isa, op, type) \
  extern "C" void fnn_##isa##_##op##_##type(const void*, const Team*);
#define OP(name, doc) ISA_SYMBOLS(name, f32) ISA_SYMBOLS(name, f64)
#include "each_op.h"
ISA_SYMBOLS(matmul_bf16, f32)
#if FNN_X86
KERNEL_OF(avx512bf16, matmul_bf16, f32)
#endif

namespace fnn {
namespace {

#define OP(name, doc) {fnn_scalar_##name##_f32, fnn_scalar_##name##_f64},
const Kernel scalar_kernels[][2] = {
#include "each_op.h"
};

#if FNN_X86
#define OP(name, doc) {fnn_avx2_##name##_f32, fnn_avx2_##name##_f64},
const Kernel avx2_kernels[][2] = {
#include "each_op.h"
};
#define OP(name, doc) {fnn_avx512_##name##_f32, fnn_avx512_##name##_f64},
const Kernel avx512_kernels[][2] = {
#include "each_op.h"
};
#endif

#if FNN_X86
bool has_avx512bf16() { return __builtin_cpu_supports("avx512bf16"); }
#endif

const Isa isas[] = {
#if FNN_X86
    {"avx512",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
              __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
              __builtin_cpu_supports("fma");
     },
     avx512_kernels,
     [] { return has_avx512bf16() ? fnn_avx512bf16_matmul_bf16_f32 : fnn_avx512_matmul_bf16_f32; }},
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); },
     avx2_kernels, [] { return Kernel{fnn_avx2_matmul_bf16_f32}; }},
#endif
    {"scalar", [] { return true; }, scalar_kernels,
     [] { return Kernel{fnn_scalar_matmul_bf16_f32}; }},
};

std::atomic<const Isa*> active{nullptr};

}  // namespace

const Isa& active_isa() {
  const Isa* now = active.load(std::memory_order_relaxed);
  if (now) return *now;
  for (const Isa& isa : isas)
    if (isa.supported()) {
      active.store(&isa, std::memory_order_relaxed);
      return isa;
    }
  __builtin_unreachable();
}

bool has_bf16() {
#if FNN_X86
  return active_isa().matmul_bf16() == fnn_avx512bf16_matmul_bf16_f32;
#else
  return false;
#endif
}

const char* use_isa(const char* name) {
  for (const Isa& isa : isas) {
    if (strcmp(isa.name, name)) continue;
    if (!isa.supported()) return "this CPU does not have it";
    active.store(&isa, std::memory_order_relaxed);
    return nullptr;
  }
  return "there is no such level";
}

const Isa* isa_at(int i) {
  return i < static_cast<int>(sizeof isas / sizeof *isas) ? &isas[i] : nullptr;
}

}  // namespace fnn

extern "C" void fnn_matmul_bf16(const void* args, const Team* team) {
  fnn::active_isa().matmul_bf16()(args, team);
}
