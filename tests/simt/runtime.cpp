// The few functions of the CUDA runtime that kernels' callers use. Device memory is ordinary
// memory, filled with NaN; for the race detector it comes from one arena.
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "race.h"
#include "wrappers.h"

namespace emu {
namespace {

#if EMU_RACE
constexpr size_t kArenaBytes = 1ull << 30;
char* arena_end = nullptr;  // of what was handed out
std::map<void*, size_t> allocated;

void* allocate(size_t bytes) {
  const Range arena = global_arena();
  if (!arena_end) arena_end = arena.begin;
  void* p = arena_end;
  arena_end += (bytes + 256 + 255) & ~255ull;  // at least 256 bytes that belong to nobody
  if (arena_end > arena.begin + arena.bytes) return nullptr;
  allocated[p] = bytes;
  race::allocated(p, bytes, true);
  return p;
}
void release(void* p) {
  if (!p) return;
  race::allocated(p, allocated.at(p), false);
  allocated.erase(p);
  if (allocated.empty()) arena_end = nullptr;
}
#else
void* allocate(size_t bytes) {
  void* p = nullptr;
  return posix_memalign(&p, 256, bytes ? bytes : 1) ? nullptr : p;
}
void release(void* p) { free(p); }
#endif

cudaError_t last_error = cudaSuccess;

}  // namespace

Range global_arena() {
#if EMU_RACE
  static char* arena = static_cast<char*>(mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  return {arena, kArenaBytes};
#else
  return {nullptr, 0};
#endif
}

// Static shared variables are thread_local: the thread-local segment of the program.
Range static_shared() {
#if EMU_ASAN
  return {nullptr, 0};
#else
  static const Range range = [] {
    Range found{nullptr, 0};
    auto look = [](dl_phdr_info* info, size_t, void* found) {
      for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type == PT_TLS) {
          *static_cast<Range*>(found) = {static_cast<char*>(info->dlpi_tls_data),
                                         info->dlpi_phdr[i].p_memsz};
        }
      }
      return 1;  // the first object is the program
    };
    dl_iterate_phdr(look, &found);
    return found;
  }();
  return range;
#endif
}

}  // namespace emu

int emu::launches = 0;

cudaError_t simt::launch_emulated(const emu::Launch& launch) {
  if (emu::is_capturing()) {
    const std::shared_ptr<void> kept = launch.copy(launch.context);
    emu::Launch again = launch;
    again.context = kept.get();
    emu::record([again, kept] { launch_emulated(again); });
    return cudaSuccess;
  }
  emu::launches++;
  const char* problem = emu::launch(launch);
  if (!problem) return cudaSuccess;
  return emu::last_error = cudaErrorInvalidConfiguration;
}

extern "C" {
cudaError_t cudaMalloc(void** p, size_t bytes) {
  *p = emu::allocate(bytes);
  if (!*p) return cudaErrorMemoryAllocation;
  if (bytes) memset(*p, 0xFF, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* p) {
  emu::release(p);
  return cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes) memcpy(to, from, bytes);  // not of null pointers
  emu::race::initialised(to, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) {
  memset(p, value, bytes);
  emu::race::initialised(p, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t) {
  if (!emu::is_capturing()) return cudaMemset(p, value, bytes);
  emu::record([=] { cudaMemset(p, value, bytes); });
  return cudaSuccess;
}
// Of those below module.cpp has others.
__attribute__((weak)) cudaError_t cudaSetDevice(int) { return cudaSuccess; }
__attribute__((weak)) const char* cudaGetErrorName(cudaError_t) { return "cudaErrorOther"; }
__attribute__((weak)) cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
// A Hopper GPU: compute capability 9.0.
__attribute__((weak)) cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute,
                                                         int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? 9 : 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaGetLastError() { return std::exchange(emu::last_error, cudaSuccess); }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid configuration or argument";
}
}
