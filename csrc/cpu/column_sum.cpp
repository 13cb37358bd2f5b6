// Column sums of a matrix in one pass, in simd/column_sum.h.
#include "simd/column_sum.h"

KERNEL(column_sum) { sum_columns(a.x, a.n, a.c, a.y, team); }
