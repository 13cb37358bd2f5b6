// Fibers: one stack per CUDA thread, switched by hand. ucontext would cost a system call a switch.
#pragma once
#include <stddef.h>

#ifndef EMU_ASAN
#define EMU_ASAN 0
#endif
#ifndef EMU_RACE
#define EMU_RACE 0
#endif

namespace emu {

struct Fiber {
  void* sp = nullptr;     // saved stack pointer while it does not run
  char* stack = nullptr;  // lowest address
};

constexpr size_t kMaxFibers = 64 << 10;

void make_fiber(Fiber& fiber, size_t index, void (*entry)());
// Leaves `from` (null: the main program) for `to` (null: the main program); a dying fiber is never
// resumed.
void switch_fiber(Fiber* from, Fiber* to, bool dying = false);
// First thing a new fiber does.
void fiber_entered();
bool on_fiber_stack(const void* address);

}  // namespace emu
