#include "ops.h"

i64 matmul_scratch(i64, i64, i64, i64, int) { return 0; }
