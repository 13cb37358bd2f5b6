// fastnn._cuda for the emulator, as a library for ctypes: all that lies between Python and the
// kernels, run on a CPU. Device memory may be touched while a kernel or a copy runs, and at no
// other time: each block has pages of its own, which are unmapped with it. A test chooses how much
// memory there is and how many devices.
#include <string.h>
#include <sys/mman.h>

#include <map>

#include "device/device.h"
#include "device/steps.h"
#include "wrappers.h"

namespace {

constexpr size_t kPage = 4096;

std::map<char*, size_t> blocks;  // whole pages
size_t used = 0, limit = size_t(1) << 30;
int devices = 1, current_device = 0, driver = CUDART_VERSION, capability = 90;
cudaError_t error = cudaSuccess;

void protect(int how) {
  for (auto [block, bytes] : blocks) mprotect(block, bytes, how);
}

// f() with device memory open.
template <class F> auto opened(F f) {
  protect(PROT_READ | PROT_WRITE);
  auto result = f();
  protect(PROT_NONE);
  return result;
}

// The last byte asked for is followed by the end of the pages, but for alignment.
char* allocate(size_t bytes) {
  const size_t aligned = (bytes + 255) & ~size_t(255), pages = (aligned + kPage - 1) & ~(kPage - 1);
  if (used + pages > limit) return nullptr;
  void* p = mmap(nullptr, pages + kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  char* block = static_cast<char*>(p);
  blocks[block] = pages;
  used += pages;
  mprotect(block, pages, PROT_READ | PROT_WRITE);
  memset(block, 0xFF, pages);
  mprotect(block, pages, PROT_NONE);
  return block + pages - aligned;
}

void release(char* p) {
  auto block = blocks.upper_bound(p);
  if (block == blocks.begin()) return;
  --block;
  used -= block->second;
  munmap(block->first, block->second + kPage);
  blocks.erase(block);
}

void* last_stream = nullptr;
int replays = 0;

fnn::CudaError launch(fnn::CudaQueue queue, int op, bool f64, const void* args, void* workspace) {
  last_stream = queue.stream;
  return opened([&] { return fnn::cuda_api.launch(queue, op, f64, args, workspace); });
}
fnn::CudaError launch_list(fnn::CudaQueue queue, int op, bool f64, const void* const* args,
                           int count) {
  last_stream = queue.stream;
  return opened([&] { return fnn::cuda_api.launch_list(queue, op, f64, args, count); });
}
fnn::CudaError copy(fnn::CudaQueue queue, const fnn::CudaCopy& copy) {
  return opened([&] { return fnn::cuda_api.copy(queue, copy); });
}
fnn::CudaError copy_indices(fnn::CudaQueue queue, const fnn::CudaIndices& indices) {
  return opened([&] { return fnn::cuda_api.copy_indices(queue, indices); });
}
fnn::CudaError store_numbers(fnn::CudaQueue queue, const fnn::CudaNumbers& numbers) {
  return opened([&] { return fnn::cuda_api.store_numbers(queue, numbers); });
}

fnn::CudaError upload(fnn::CudaQueue queue, void* to, const void* from, i64 bytes) {
  return opened([&] { return fnn::cuda_steps.upload(queue, to, from, bytes); });
}
fnn::CudaError download(fnn::CudaQueue queue, void* to, const void* from, i64 bytes) {
  return opened([&] { return fnn::cuda_steps.download(queue, to, from, bytes); });
}
fnn::CudaError replay(fnn::CudaQueue queue, void* graph) {
  replays++;
  return opened([&] { return fnn::cuda_steps.replay(queue, graph); });
}

}  // namespace

extern "C" {
#define EXPORTED __attribute__((visibility("default")))

EXPORTED const void* emu_api() {
  static fnn::CudaApi api = fnn::cuda_api;
  static fnn::CudaSteps steps = fnn::cuda_steps;
  steps.upload = upload;
  steps.download = download;
  steps.replay = replay;
  api.steps = &steps;
  api.launch = launch;
  api.launch_list = launch_list;
  api.copy = copy;
  api.copy_indices = copy_indices;
  api.store_numbers = store_numbers;
  api.release_after_all = [](int, void* p) { release(static_cast<char*>(p)); };
  return &api;
}
EXPORTED void* emu_allocate(size_t bytes) { return allocate(bytes); }
EXPORTED void emu_release(void* p) { release(static_cast<char*>(p)); }
EXPORTED void emu_copy(void* to, const void* from, size_t bytes) {
  opened([&] { return memcpy(to, from, bytes); });
}
EXPORTED size_t emu_used() { return used; }
EXPORTED void emu_set_limit(size_t bytes) { limit = bytes; }
// Of the machine: what its driver says when asked for its devices, which are of sm_<generation>.
EXPORTED void emu_set_machine(int count, int newest, int generation) {
  devices = count;
  driver = newest;
  capability = generation;
}
// What every call gets from now on.
EXPORTED void emu_set_error(int code) { error = cudaError_t(code); }
EXPORTED void* emu_last_stream() { return last_stream; }
EXPORTED int emu_replays() { return replays; }
// The stream that another one was last told to wait for.
EXPORTED void* emu_awaited_stream() { return emu::awaited_stream; }
EXPORTED void emu_set_capturing(int on) { emu::captured_by_another = on != 0; }
EXPORTED int emu_launches() { return emu::launches; }  // of kernels, so far
EXPORTED int emu_current_device() { return current_device; }

// ---- what csrc/cuda/device calls of CUDA's runtime besides runtime.cpp ----

cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices;
  if (driver < CUDART_VERSION) return cudaErrorInsufficientDriver;
  return devices ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = driver;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return error;
}
cudaError_t cudaSetDevice(int device) {
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  memset(properties, 0, sizeof *properties);
  strcpy(properties->name, "emulated");
  properties->major = capability / 10;
  properties->minor = capability % 10;
  properties->totalGlobalMem = limit;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrComputeCapabilityMajor   ? capability / 10
           : which == cudaDevAttrComputeCapabilityMinor ? capability % 10
                                                        : 0;
  return cudaSuccess;
}
cudaError_t cudaMemPoolCreate(cudaMemPool_t*, const cudaMemPoolProps*) { return cudaSuccess; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMallocFromPoolAsync(void** p, size_t bytes, cudaMemPool_t, cudaStream_t) {
  if (emu::is_capturing()) return cudaErrorStreamCaptureUnsupported;
  *p = allocate(bytes);
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t) {
  release(static_cast<char*>(p));
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = limit - used;
  *total = limit;
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
  *p = malloc(bytes);
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  char* address = static_cast<char*>(const_cast<void*>(p));
  auto block = blocks.upper_bound(address);
  const bool known = block != blocks.begin() && address < (--block)->first + block->second;
  attributes->type = known ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  attributes->device = 0;
  return cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorIllegalAddress ? "cudaErrorIllegalAddress" : "cudaErrorOther";
}
}
