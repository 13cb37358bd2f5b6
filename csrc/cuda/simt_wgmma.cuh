// Matrix products of a warpgroup from shared memory (sm_90a). Part of simt.cuh.
//
// wgmma_fence() before a batch, then the products, wgmma_commit(), and wgmma_wait() and wgmma_pin()
// before the accumulators are touched. Thread t's d[i] is
//   row 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (t % 4) + i % 2.
#pragma once

namespace simt {

SIMT_DEVICE void wgmma_fence() {
  SIMT_ON_SM90A(asm volatile("wgmma.fence.sync.aligned;" :: : "memory"));
}
SIMT_DEVICE void wgmma_commit() {
  SIMT_ON_SM90A(asm volatile("wgmma.commit_group.sync.aligned;" :: : "memory"));
}
template <int groups_left> SIMT_DEVICE void wgmma_wait() {
  SIMT_ON_SM90A(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups_left) : "memory"));
}

// What touches d stays on its side: the statements above don't name it, so the compiler might move
// that across them. After the wait, and before the fence where d has been written.
template <int count> SIMT_DEVICE void wgmma_pin(float (&d)[count]) {
#pragma unroll
  for (int i = 0; i < count; i++) asm volatile("" : "+f"(d[i])::"memory");
}

// clang-format off: tables
// Operands 32 k .. 32 k + 31, in the text and as arguments.
#define SIMT_R0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define SIMT_R1 SIMT_R0 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SIMT_R2 SIMT_R1 ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define SIMT_R3 SIMT_R2 ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define SIMT_D8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SIMT_D32(i) SIMT_D8(i), SIMT_D8(i + 8), SIMT_D8(i + 16), SIMT_D8(i + 24)
#define SIMT_D0 SIMT_D32(0)
#define SIMT_D1 SIMT_D0, SIMT_D32(32)
#define SIMT_D2 SIMT_D1, SIMT_D32(64)
#define SIMT_D3 SIMT_D2, SIMT_D32(96)

// One statement; descriptors, predicate and what follows are the operands after the accumulators.
#define SIMT_WGMMA(shape, registers, outputs, a, b, p, rest, ...)                             \
  asm volatile("{\n.reg .pred keep;\nsetp.ne.b32 keep, " p ", 0;\n"                           \
               "wgmma.mma_async.sync.aligned." shape " {" registers "}, " a ", " b            \
               ", keep, 1, 1" rest ";\n}" : outputs : __VA_ARGS__)
// clang-format on

// d = a b, added to d if accumulate: 64 x n = (64 x 16) (16 x n) in bf16 or fp16, n = 64, 128, 192,
// 256. Descriptors as in the PTX manual; transposed operands are MN-major.
#define SIMT_INPUTS "l"(a), "l"(b), "r"(accumulate), "n"(transpose_a), "n"(transpose_b)
#define SIMT_WGMMA_16(name, type)                                                                 \
  template <int n, int transpose_a = 0, int transpose_b = 0>                                      \
  SIMT_DEVICE void name(float (&d)[n / 2], uint64_t a, uint64_t b, int accumulate = 1) {          \
    static_assert(n == 64 || n == 128 || n == 192 || n == 256, "no such wrapper");                \
    if constexpr (n == 64)                                                                        \
      SIMT_ON_SM90A(SIMT_WGMMA("m64n64k16.f32." type "." type, SIMT_R0, SIMT_D0, "%32", "%33",    \
                               "%34", ", %35, %36", SIMT_INPUTS));                                \
    else if constexpr (n == 128)                                                                  \
      SIMT_ON_SM90A(SIMT_WGMMA("m64n128k16.f32." type "." type, SIMT_R1, SIMT_D1, "%64", "%65",   \
                               "%66", ", %67, %68", SIMT_INPUTS));                                \
    else if constexpr (n == 192)                                                                  \
      SIMT_ON_SM90A(SIMT_WGMMA("m64n192k16.f32." type "." type, SIMT_R2, SIMT_D2, "%96", "%97",   \
                               "%98", ", %99, %100", SIMT_INPUTS));                               \
    else                                                                                          \
      SIMT_ON_SM90A(SIMT_WGMMA("m64n256k16.f32." type "." type, SIMT_R3, SIMT_D3, "%128", "%129", \
                               "%130", ", %131, %132", SIMT_INPUTS));                             \
  }
SIMT_WGMMA_16(wgmma_bf16, "bf16")
SIMT_WGMMA_16(wgmma_fp16, "f16")
#undef SIMT_WGMMA_16
#undef SIMT_INPUTS

// The same of (64 x 8) (8 x n) in tf32, both operands K-major: there is no transposed form.
template <int n>
SIMT_DEVICE void wgmma_tf32(float (&d)[n / 2], uint64_t a, uint64_t b, int accumulate = 1) {
  static_assert(n == 64 || n == 128 || n == 192 || n == 256, "no such wrapper");
#define SIMT_INPUTS "l"(a), "l"(b), "r"(accumulate)
  if constexpr (n == 64)
    SIMT_ON_SM90A(SIMT_WGMMA("m64n64k8.f32.tf32.tf32", SIMT_R0, SIMT_D0, "%32", "%33", "%34", "",
                             SIMT_INPUTS));
  else if constexpr (n == 128)
    SIMT_ON_SM90A(SIMT_WGMMA("m64n128k8.f32.tf32.tf32", SIMT_R1, SIMT_D1, "%64", "%65", "%66", "",
                             SIMT_INPUTS));
  else if constexpr (n == 192)
    SIMT_ON_SM90A(SIMT_WGMMA("m64n192k8.f32.tf32.tf32", SIMT_R2, SIMT_D2, "%96", "%97", "%98", "",
                             SIMT_INPUTS));
  else
    SIMT_ON_SM90A(SIMT_WGMMA("m64n256k8.f32.tf32.tf32", SIMT_R3, SIMT_D3, "%128", "%129", "%130",
                             "", SIMT_INPUTS));
#undef SIMT_INPUTS
}

#undef SIMT_R0
#undef SIMT_R1
#undef SIMT_R2
#undef SIMT_R3
#undef SIMT_D8
#undef SIMT_D32
#undef SIMT_D0
#undef SIMT_D1
#undef SIMT_D2
#undef SIMT_D3
#undef SIMT_WGMMA

}  // namespace simt
