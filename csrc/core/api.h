// How native code of other frameworks runs kernels on memory of its own: a table of functions, in
// the capsule fastnn._core._api. They know nothing of Python, and any thread may call them at any
// time. The arguments are the structs of ops.h:
//     relu_args<float> args = {n, x, y};
//     if (const char* wrong = api->run(op_relu, false, &args, 1)) ...
#pragma once
#include "dispatch.h"

namespace fnn {

// Kinds and names of all fields in order: two builds whose texts are equal fit together.
// clang-format off: a table
inline constexpr char kContract[] =
#define OP(name, doc)                       "\n" #name
#define DIM(name, doc)                      " n:" #name
#define LAST(name, doc)                     " n:" #name
#define IN(name, type, shape, doc)          " " #type "*:" #name
#define OPT(name, type, shape, doc)         " " #type "?:" #name
#define MAT(name, shape, doc)               " mat:" #name
#define INOUT(name, type, shape, doc)       " " #type "&:" #name
#define OPTINOUT(name, type, shape, doc)    " " #type "&?:" #name
#define TARGETS(name, n, c, doc)            " targets:" #name
#define OUT(name, type, shape, doc)         " " #type "=:" #name
#define OPTOUT(name, type, shape, flag, doc) " " #type "=?:" #name
#define LOSS(name, shape, doc)              " loss:" #name
#define FUSED(type, name, doc)              " fused:" #name
#define REAL(name, dflt, doc)               " d:" #name
#define INT(name, dflt, doc)                " i:" #name
#define FLAG(name, dflt, doc)               " flag:" #name
#define CHOICE(name, words, dflt, doc)      " " words ":" #name
#define SCALAR(name, dflt, doc)             " d*:" #name
#define COUNTER(name, dflt, doc)            " i*:" #name
#define SCRATCH(bytes)                      " scratch"
#include "each_op.h"
    ;
// clang-format on

// Integers as another library keeps them, at any address.
struct Integers {
  const char* data;
  i64 n, stride;  // bytes from one to the next
  int size;       // bytes of each: 1, 2, 4 or 8
  bool is_signed;
};

struct Api {
  const char* contract;  // compare with kContract before anything else

  // Runs `count` calls of an op, on as many threads as pay. `args` is an array of its structs, for
  // float or (f64) for double, `scratch` left out. Memory is as ops.def says: C-contiguous but for
  // matrices, aligned, of the shapes that the DIMs tell; what is written overlaps nothing else but
  // where the op allows it; labels are in range. Returns null, or the violated requirement with
  // nothing written: a text that lasts until the thread's next call.
  const char* (*run)(int op, bool f64, const void* args, i64 count);

  // Class indices as int64, of which 0 .. classes - 1 and `ignored` are allowed. Null, or a text.
  const char* (*copy_labels)(int op, const Integers& labels, i64 classes, i64 ignored, i64* to);
};

}  // namespace fnn
