// What csrc/cuda/simt.cuh includes when the compiler is not nvcc: the GPU emulated on one CPU
// thread. machine.h says how.
#pragma once
#include "builtins.h"
#include "wrappers.h"
