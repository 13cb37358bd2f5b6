// Devices, streams, device memory and errors, behind the table that _core calls (core/cuda.h).
// Workspaces and copies of arguments come from a pool of each device's own, in the order of the
// caller's stream: nothing waits, and the caller's library keeps its memory to itself.
#include "device.h"

#include <pthread.h>
#include <string.h>

#include <atomic>
#include <mutex>
#include <string>

#include "current.h"
#include "steps.h"
#include "table.h"
#include "transfer.h"

namespace fnn {
namespace {

enum { kMaxDevices = 64 };
constexpr u64 kKeptBytes = u64{64} << 20;  // of freed memory that a pool keeps

// ---- what there is -------------------------------------------------------------------------

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  cudaDeviceGetAttribute(&value, which, device);
  return value;
}

int driver() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

struct Machine {
  int devices = 0;
  std::string why_not;
};

std::atomic<bool> used{false}, forked{false};

Machine find_devices() {
  used = true;
  pthread_atfork(nullptr, nullptr, [] { forked = true; });
  Machine machine;
  const cudaError_t error = cudaGetDeviceCount(&machine.devices);
  if (error == cudaSuccess && machine.devices > 0) return machine;
  cudaGetLastError();
  machine.devices = 0;
  const int newest = driver();
  const char* visible = getenv("CUDA_VISIBLE_DEVICES");
  if (newest == 0) {
    machine.why_not = "there is no NVIDIA driver";
  } else if (error == cudaErrorInsufficientDriver) {
    machine.why_not = "the NVIDIA driver runs CUDA " + version_text(newest) +
                      " and older, these kernels were built with " + version_text(CUDART_VERSION);
  } else if (visible && (error == cudaErrorNoDevice || error == cudaErrorInvalidDevice)) {
    machine.why_not = std::string("CUDA_VISIBLE_DEVICES='") + visible + "' leaves no GPU to use";
  } else {
    machine.why_not = std::string(cudaGetErrorString(error)) + " (" + cudaGetErrorName(error) + ")";
  }
  return machine;
}

const Machine& machine() {
  static const auto& found = *new Machine(find_devices());
  return found;
}

const char* why_not() {
  if (used && forked) {
    return "CUDA does not work in a forked child of a process that used it; use the start method "
           "'spawn'";
  }
  return machine().why_not.empty() ? nullptr : machine().why_not.c_str();
}

int device_count() { return machine().devices; }

CudaDevice device(int i) {
  CudaDevice result{};
  cudaDeviceProp properties{};
  if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) cudaGetLastError();
  snprintf(result.name, sizeof result.name, "%s", properties.name);
  result.major = properties.major;
  result.minor = properties.minor;
  result.bytes = static_cast<i64>(properties.totalGlobalMem);
  return result;
}

const char* why_not_device(int i) {
  if (const char* why = why_not()) return why;
  static thread_local std::string text;
  if (i < 0 || i >= device_count() || i >= kMaxDevices) {
    text = "there is no GPU " + std::to_string(i) + ", only " + std::to_string(device_count());
    return text.c_str();
  }
  static std::atomic<bool> fits[kMaxDevices];
  if (fits[i]) return nullptr;
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, i);
  fits[i] = major >= 8;
  if (fits[i]) return nullptr;
  text = "GPU " + std::to_string(i) + " is sm_" + std::to_string(major) +
         std::to_string(attribute(cudaDevAttrComputeCapabilityMinor, i)) +
         ", the kernels were built for " + cuda_api.architectures;
  return text.c_str();
}

// ---- memory --------------------------------------------------------------------------------

// What a device has of its own here, made at its first use.
struct State {
  std::mutex making;
  cudaMemPool_t pool = nullptr;
  volatile int* there = nullptr;          // in the host's memory: whether `note` says anything
  std::atomic<IndexNote*> note{nullptr};  // the last to be made
};

State states[kMaxDevices];

cudaError_t clear(IndexNote* note) { return cudaMemset(note, 0xFF, sizeof *note); }

cudaError_t make_pool(State& state, int device) {
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location = {cudaMemLocationTypeDevice, device};
  const cudaError_t error = cudaMemPoolCreate(&state.pool, &properties);
  u64 kept = kKeptBytes;
  if (error != cudaSuccess) return error;
  return cudaMemPoolSetAttribute(state.pool, cudaMemPoolAttrReleaseThreshold, &kept);
}

cudaError_t make_flag(State& state) {
  void* p = nullptr;
  const cudaError_t error =
      cudaHostAlloc(&p, sizeof *state.there, cudaHostAllocMapped | cudaHostAllocPortable);
  if (error != cudaSuccess) return error;
  state.there = static_cast<volatile int*>(p);
  *state.there = 0;
  return cudaSuccess;
}

cudaError_t make_note(State& state) {
  IndexNote* note = nullptr;
  cudaError_t error = cudaMalloc(reinterpret_cast<void**>(&note), sizeof *note);
  if (error != cudaSuccess) return error;
  error = clear(note);
  if (error == cudaSuccess)
    state.note = note;
  else
    cudaFree(note);
  return error;
}

// With the device current. What fails for want of memory is tried again with the next call.
cudaError_t require_state(int device) {
  State& state = states[device];
  if (state.note) return cudaSuccess;
  std::lock_guard lock(state.making);
  if (state.note) return cudaSuccess;
  cudaError_t error = state.pool ? cudaSuccess : make_pool(state, device);
  if (error == cudaSuccess && !state.there) error = make_flag(state);
  return error == cudaSuccess ? make_note(state) : error;
}

CudaError allocate(CudaQueue queue, i64 bytes, void** p) {
  CudaError error = on_device(queue.device, [&] {
    const cudaError_t ready = require_state(queue.device);
    if (ready != cudaSuccess) return ready;
    return cudaMallocFromPoolAsync(p, static_cast<size_t>(bytes > 0 ? bytes : 1),
                                   states[queue.device].pool, stream_of(queue));
  });
  if (error.kind == CudaError::unsupported) error.kind = CudaError::other;  // no pools: no kernel's
  return error;
}

void release(CudaQueue queue, void* p) {
  on_device(queue.device, [&] { return cudaFreeAsync(p, stream_of(queue)); });
}

void release_after_all(int device, void* p) {
  on_device(device, [&] { return cudaFree(p); });
}

i64 free_bytes(int device) {
  size_t free = 0, total = 0;
  on_device(device, [&] { return cudaMemGetInfo(&free, &total); });
  return static_cast<i64>(free);
}

int device_of(const void* p) {
  cudaPointerAttributes attributes{};
  const cudaError_t error = cudaPointerGetAttributes(&attributes, p);
  if (error != cudaSuccess) cudaGetLastError();
  const bool known =
      attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  return error == cudaSuccess && known ? attributes.device : -1;
}

// ---- work ----------------------------------------------------------------------------------

bool has_kernel(int op, bool f64) { return cuda_kernels[op][f64].launch; }

i64 workspace(int op, bool f64, const void* args) { return cuda_kernels[op][f64].workspace(args); }

CudaError launch(CudaQueue queue, int op, bool f64, const void* args, void* workspace) {
  return on_device(queue.device, [&] {
    const CudaCall call{stream_of(queue), static_cast<char*>(workspace)};
    return cuda_kernels[op][f64].launch(args, &call);
  });
}

CudaError launch_list(CudaQueue queue, int op, bool f64, const void* const* args, int count) {
  return on_device(queue.device, [&] {
    const CudaCall call{stream_of(queue), nullptr};
    return cuda_kernels[op][f64].launch_list(args, count, &call);
  });
}

CudaError copy(CudaQueue queue, const CudaCopy& copy) {
  return on_device(queue.device, [&] { return launch_copy(copy, stream_of(queue)); });
}

CudaError copy_indices(CudaQueue queue, const CudaIndices& indices) {
  return on_device(queue.device, [&] {
    const cudaError_t ready = require_state(queue.device);
    if (ready != cudaSuccess) return ready;
    State& state = states[queue.device];
    return launch_indices(indices, {state.note, state.there}, stream_of(queue));
  });
}

CudaError store_numbers(CudaQueue queue, const CudaNumbers& numbers) {
  return on_device(queue.device, [&] { return launch_numbers(numbers, stream_of(queue)); });
}

CudaError wait_for_stream(CudaQueue queue, void* stream) {
  return on_device(queue.device, [&] {
    cudaEvent_t event;
    cudaError_t error = cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    if (error != cudaSuccess) return error;
    error = cudaEventRecord(event, static_cast<cudaStream_t>(stream));
    if (error == cudaSuccess) error = cudaStreamWaitEvent(stream_of(queue), event, 0);
    cudaEventDestroy(event);  // once nobody waits for it
    return error;
  });
}

CudaError wait(CudaQueue queue) {
  return on_device(queue.device, [&] { return cudaStreamSynchronize(stream_of(queue)); });
}

// Waits, and takes the device's note: false in *good if there was one.
cudaError_t read_note(State& state, CudaBadIndex* bad, bool* good) {
  IndexNote found;
  cudaError_t error = cudaDeviceSynchronize();
  if (error == cudaSuccess) {
    error = cudaMemcpy(&found, state.note, sizeof found, cudaMemcpyDeviceToHost);
  }
  if (error != cudaSuccess || found.first == ~0ull) return error;
  *good = false;
  bad->row = static_cast<i64>(found.first >> 32);
  bad->index = static_cast<i64>(found.first & 0xFFFFFFFF) + INT32_MIN;
  bad->limit = found.limit;
  bad->op = found.op;
  error = clear(state.note);
  *state.there = 0;
  return error;
}

// While a graph is captured nobody may wait; then a later call is told.
bool is_capturing(CudaQueue queue) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(stream_of(queue), &status) == cudaSuccess)
    return status != cudaStreamCaptureStatusNone;
  cudaGetLastError();
  return true;  // of the default stream, while another one is captured
}

CudaError look(CudaQueue queue, CudaBadIndex* bad, bool* good) {
  *good = true;
  State& state = states[queue.device];
  if (!state.note || !*state.there) return {CudaError::none, "", ""};
  return on_device(queue.device,
                   [&] { return is_capturing(queue) ? cudaSuccess : read_note(state, bad, good); });
}

CudaError synchronize(CudaBadIndex* bad, bool* good) {
  *good = true;
  for (int device = 0; device < kMaxDevices; device++) {
    if (!states[device].note) continue;
    const CudaError error = on_device(device, [&] { return read_note(states[device], bad, good); });
    if (error || !*good) return error;
  }
  return {CudaError::none, "", ""};
}

}  // namespace

const CudaApi cuda_api = {
    kCudaVersion,
    op_count,
    FASTNN_CUDA_ARCHITECTURES,
    CUDART_VERSION,
    why_not,
    driver,
    device_count,
    device,
    why_not_device,
    has_kernel,
    workspace,
    launch,
    launch_list,
    allocate,
    release,
    release_after_all,
    free_bytes,
    device_of,
    copy,
    copy_indices,
    store_numbers,
    wait_for_stream,
    wait,
    look,
    synchronize,
    &cuda_steps,
};

}  // namespace fnn
