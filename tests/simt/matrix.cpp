// ldmatrix and mma.sync: fragments as the PTX manual's tables of m16n8k16 and m16n8k8 lay them out.
// Sums are float; the order inside a tensor core is not documented.
#include <cuda_fp16.h>
#include <string.h>

#include "race.h"
#include "wrappers.h"

namespace simt {

using namespace emu;

namespace {

struct LoadArgument {
  const char* row;
  uint32_t* r;
  Thread* thread;
  Location where;
};

// Lane i's row; lanes 8 m .. 8 m + 7 name the rows of matrix m.
const char* row_of(void** lanes, int i) { return static_cast<LoadArgument*>(lanes[i])->row; }

void read_rows(void** lanes) {
  for (int i = 0; i < 32; i++) {
    const LoadArgument& a = *static_cast<LoadArgument*>(lanes[i]);
    if (uintptr_t(a.row) % 16) fail("misaligned ldmatrix", a.where, "row pointer of lane %d", i);
    check_bounds("ldmatrix", a.row, 16, a.where);
    race::access(a.thread, a.row, 16, false, a.where);
  }
}

void load(void** lanes) {
  read_rows(lanes);
  for (int m = 0; m < 4; m++) {
    for (int i = 0; i < 32; i++) {
      uint32_t& to = static_cast<LoadArgument*>(lanes[i])->r[m];
      memcpy(&to, row_of(lanes, m * 8 + i / 4) + 4 * (i % 4), 4);
    }
  }
}

void load_transposed(void** lanes) {
  read_rows(lanes);
  for (int m = 0; m < 4; m++) {
    for (int i = 0; i < 32; i++) {
      uint16_t pair[2];
      for (int half = 0; half < 2; half++) {
        memcpy(&pair[half], row_of(lanes, m * 8 + 2 * (i % 4) + half) + 2 * (i / 4), 2);
      }
      memcpy(&static_cast<LoadArgument*>(lanes[i])->r[m], pair, 4);
    }
  }
}

}  // namespace

void ldmatrix_x4(uint32_t (&r)[4], const void* row, Location where) {
  LoadArgument argument{static_cast<const char*>(row), r, current, where};
  warp_collective(~0u, "ldmatrix", &argument, load, where);
}
void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, Location where) {
  LoadArgument argument{static_cast<const char*>(row), r, current, where};
  warp_collective(~0u, "ldmatrix.trans", &argument, load_transposed, where);
}

// ---- mma.sync ------------------------------------------------------------------------------

namespace {

struct MmaArgument {
  float* d;
  const uint32_t *a, *b;
};

float bf16_half(uint32_t word, int half) {
  return __builtin_bit_cast(float, half ? word & 0xffff0000 : word << 16);
}
float fp16_half(uint32_t word, int half) {
  return float(__builtin_bit_cast(__half, uint16_t(half ? word >> 16 : word)));
}
float tf32(uint32_t word) { return __builtin_bit_cast(float, word & ~0x1fffu); }

// a: lane 4 g + t holds rows g, g + 8; b: column g; d: columns 2 t, 2 t + 1.
template <int k> void add_product(void** lanes, const float (&a)[16][k], const float (&b)[k][8]) {
  for (int lane = 0; lane < 32; lane++) {
    float* d = static_cast<MmaArgument*>(lanes[lane])->d;
    for (int i = 0; i < 4; i++) {
      const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
      float sum = 0;
      for (int j = 0; j < k; j++) sum += a[row][j] * b[j][column];
      d[i] += sum;
    }
  }
}

template <float (*half_of)(uint32_t, int)> void multiply_16(void** lanes) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const MmaArgument& from = *static_cast<MmaArgument*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; half++) {
      for (int i = 0; i < 4; i++) {
        a[g + 8 * (i % 2)][2 * t + 8 * (i / 2) + half] = half_of(from.a[i], half);
      }
      for (int i = 0; i < 2; i++) b[2 * t + 8 * i + half][g] = half_of(from.b[i], half);
    }
  }
  add_product(lanes, a, b);
}

void multiply_8(void** lanes) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < 32; lane++) {
    const MmaArgument& from = *static_cast<MmaArgument*>(lanes[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; i++) a[g + 8 * (i % 2)][t + 4 * (i / 2)] = tf32(from.a[i]);
    for (int i = 0; i < 2; i++) b[t + 4 * i][g] = tf32(from.b[i]);
  }
  add_product(lanes, a, b);
}

}  // namespace

void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                       Location where) {
  MmaArgument argument{d, a, b};
  warp_collective(~0u, "mma.m16n8k16.bf16", &argument, multiply_16<bf16_half>, where);
}
void mma_m16n8k16_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                       Location where) {
  MmaArgument argument{d, a, b};
  warp_collective(~0u, "mma.m16n8k16.fp16", &argument, multiply_16<fp16_half>, where);
}
void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                      Location where) {
  MmaArgument argument{d, a, b};
  warp_collective(~0u, "mma.m16n8k8.tf32", &argument, multiply_8, where);
}

// cvt.rna: to nearest, ties away from zero.
uint32_t to_tf32(float x) { return (__builtin_bit_cast(uint32_t, x) + 0x1000u) & ~0x1fffu; }

}  // namespace simt
