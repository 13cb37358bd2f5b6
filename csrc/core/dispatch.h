// Which kernels run: one table of kernels per instruction set, the best one that this CPU has.
#pragma once
#include "ops.h"

namespace fnn {

enum Op : int {
#define OP(name, doc) op_##name,
#include "each_op.h"
  op_count
};

struct Isa {
  const char* name;
  bool (*supported)();
  const Kernel (*kernels)[2];  // [op][0: float, 1: double]
  Kernel (*matmul_bf16)();     // the best that this CPU has
};

const Isa& active_isa();
bool has_bf16();  // whether the active level multiplies bfloat16 with instructions of their own
// Null, or the reason why that level can't be used here.
const char* use_isa(const char* name);
// Levels in order, best first; null past the last.
const Isa* isa_at(int i);

inline Kernel kernel(int op, bool f64) { return active_isa().kernels[op][f64]; }

}  // namespace fnn
