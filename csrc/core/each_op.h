// Includes ops.def: the includer defines the macros it cares about, the others expand to nothing,
// and all are forgotten afterwards.
#ifndef OP
#define OP(...)
#endif
#ifndef LAST
#define LAST(...)
#endif
#ifndef DIM
#define DIM(...)
#endif
#ifndef IN
#define IN(...)
#endif
#ifndef OPT
#define OPT(...)
#endif
#ifndef MAT
#define MAT(...)
#endif
#ifndef INOUT
#define INOUT(...)
#endif
#ifndef OPTINOUT
#define OPTINOUT(...)
#endif
#ifndef TARGETS
#define TARGETS(...)
#endif
#ifndef OUT
#define OUT(...)
#endif
#ifndef OPTOUT
#define OPTOUT(...)
#endif
#ifndef LOSS
#define LOSS(...)
#endif
#ifndef FUSED
#define FUSED(...)
#endif
#ifndef REAL
#define REAL(...)
#endif
#ifndef INT
#define INT(...)
#endif
#ifndef FLAG
#define FLAG(...)
#endif
#ifndef CHOICE
#define CHOICE(...)
#endif
#ifndef SCALAR
#define SCALAR(...)
#endif
#ifndef COUNTER
#define COUNTER(...)
#endif
#ifndef HALVES
#define HALVES
#endif
#ifndef KW
#define KW
#endif
#ifndef COST
#define COST(...)
#endif
#ifndef SCRATCH
#define SCRATCH(...)
#endif
#ifndef CHECKS
#define CHECKS(...)
#endif
#ifndef REQUIRE
#define REQUIRE(...)
#endif
#ifndef END
#define END(...)
#endif
#include "../ops.def"
#undef OP
#undef DIM
#undef LAST
#undef IN
#undef OPT
#undef MAT
#undef INOUT
#undef OPTINOUT
#undef TARGETS
#undef OUT
#undef OPTOUT
#undef LOSS
#undef FUSED
#undef REAL
#undef INT
#undef FLAG
#undef CHOICE
#undef SCALAR
#undef COUNTER
#undef HALVES
#undef KW
#undef COST
#undef SCRATCH
#undef CHECKS
#undef REQUIRE
#undef END
