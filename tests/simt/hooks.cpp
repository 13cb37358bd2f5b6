// What -fsanitize=thread calls at every load and store of a kernel. The program is not linked to
// libtsan: these are the functions it would have brought.
#include <stddef.h>

namespace emu::race {
void access_at(const void* p, size_t bytes, bool write, bool atomic, const void* pc);
}

#define PC __builtin_return_address(0)
#define HOOKS(bytes)                                       \
  extern "C" void __tsan_read##bytes(void* p) {            \
    emu::race::access_at(p, bytes, false, false, PC);      \
  }                                                        \
  extern "C" void __tsan_write##bytes(void* p) {           \
    emu::race::access_at(p, bytes, true, false, PC);       \
  }                                                        \
  extern "C" void __tsan_unaligned_read##bytes(void* p) {  \
    emu::race::access_at(p, bytes, false, false, PC);      \
  }                                                        \
  extern "C" void __tsan_unaligned_write##bytes(void* p) { \
    emu::race::access_at(p, bytes, true, false, PC);       \
  }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

extern "C" {
void __tsan_read_range(void* p, size_t bytes) { emu::race::access_at(p, bytes, false, false, PC); }
void __tsan_write_range(void* p, size_t bytes) { emu::race::access_at(p, bytes, true, false, PC); }
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
}

namespace emu {
void atomic_access(const void* p, size_t bytes, const void* pc) {
  race::access_at(p, bytes, true, true, pc);
}
}  // namespace emu
