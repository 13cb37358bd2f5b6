#include "fiber.h"

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#if EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Saves what the x86-64 ABI lets a callee keep, swaps the stacks, and returns on the other one.
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch,.-emu_switch
)");
extern "C" void emu_switch(void** save, void* to);

namespace emu {
namespace {

constexpr size_t kStackBytes = EMU_ASAN ? 256 << 10 : 64 << 10;  // sanitised frames are larger

char* stacks() {
  static char* all = [] {
    void* p = mmap(nullptr, kStackBytes * kMaxFibers, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
      perror("stacks of the fibers");
      abort();
    }
    return static_cast<char*>(p);
  }();
  return all;
}

#if EMU_ASAN
struct MainStack {
  void* bottom;
  size_t bytes;
  MainStack() {
    pthread_attr_t attributes;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &bottom, &bytes);
    pthread_attr_destroy(&attributes);
  }
};
#endif

void* main_sp = nullptr;

}  // namespace

void make_fiber(Fiber& fiber, size_t index, void (*entry)()) {
  fiber.stack = stacks() + index * kStackBytes;
#if EMU_ASAN
  __asan_unpoison_memory_region(fiber.stack + kStackBytes - 4096, 4096);
#endif
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes);
  *--top = nullptr;                         // keeps the stack aligned as after a call
  *--top = reinterpret_cast<void*>(entry);  // emu_switch returns to it
  for (int saved = 0; saved < 6; saved++) *--top = nullptr;
  fiber.sp = top;
}

void switch_fiber(Fiber* from, Fiber* to, [[maybe_unused]] bool dying) {
#if EMU_ASAN
  static MainStack main_stack;
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(dying ? nullptr : &fake, to ? to->stack : main_stack.bottom,
                                 to ? kStackBytes : main_stack.bytes);
#endif
  emu_switch(from ? &from->sp : &main_sp, to ? to->sp : main_sp);
#if EMU_ASAN
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

void fiber_entered() {
#if EMU_ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

bool on_fiber_stack(const void* address) {
  return uintptr_t(address) - uintptr_t(stacks()) < kStackBytes * kMaxFibers;
}

}  // namespace emu
