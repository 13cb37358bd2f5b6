// What _core asks of _cuda: a table of functions, in the capsule fastnn._cuda.api. They are two
// modules so that a machine without CUDA needs nothing of it; no CUDA header is included here.
// Every function leaves the calling thread's current device as it was.
#pragma once
#include "cuda_steps.h"
#include "ops.h"

namespace fnn {

enum { kCudaVersion = 2, kCudaAxes = 33, kCudaNumbers = 4 };

// Where work waits its turn: a device, and one of its streams (a cudaStream_t).
struct CudaQueue {
  int device;
  void* stream;
};

struct CudaError {
  enum Kind { none, memory, unsupported, lost, other };
  Kind kind;
  const char *name, *text;
  explicit operator bool() const { return kind != none; }
};

struct CudaDevice {
  char name[256];
  int major, minor;  // compute capability
  i64 bytes;         // of memory
};

// What an array's elements are: a kind as NumPy's ('f', 'i', 'u') and their size.
struct CudaElement {
  char kind;
  int size;
};

// Between layouts of the same shape, strides in bytes. An element of 1, 2, 4 or 8 bytes.
struct CudaCopy {
  char* to;
  const char* from;
  int ndim, item;
  i64 shape[kCudaAxes], to_strides[kCudaAxes], from_strides[kCudaAxes];
};

// Indices of any integer type to int64. Where `checked`, those outside 0 .. limit - 1 are noted for
// synchronize() to find, but for `ignored` where the op `ignores` one.
struct CudaIndices {
  i64* to;
  const char* from;
  CudaElement element;
  i64 n, stride, limit, ignored;
  bool checked, ignores;
  int op;
};

// The first index out of range since the last look.
struct CudaBadIndex {
  i64 row, index, limit;
  int op;
};

// Numbers for kernels that read them from device memory: from here, or from a 0-d device array.
struct CudaNumbers {
  u64* to;
  int count;
  struct {
    bool real;         // a double, else an int64
    u64 bits;          // the number, unless `from` has it
    const void* from;  // of type `element`
    CudaElement element;
  } each[kCudaNumbers];
};

struct CudaApi {
  int version, op_count;
  const char* architectures;  // "sm_80, sm_90a, ..."
  int toolkit;                // version that it was built with: 13000 is 13.0

  // Null, or why no device can be used.
  const char* (*why_not)();
  int (*driver)();  // the newest toolkit version that the driver runs; 0 without a driver
  int (*device_count)();
  CudaDevice (*device)(int i);
  // Null, or why this one can't be used.
  const char* (*why_not_device)(int i);

  bool (*has_kernel)(int op, bool f64);
  i64 (*workspace)(int op, bool f64, const void* args);
  CudaError (*launch)(CudaQueue queue, int op, bool f64, const void* args, void* workspace);
  // Of a _step op, whose numbers are the same in all of `args`: as few launches as possible.
  CudaError (*launch_list)(CudaQueue queue, int op, bool f64, const void* const* args, int count);

  CudaError (*allocate)(CudaQueue queue, i64 bytes, void** p);
  void (*release)(CudaQueue queue, void* p);       // once what is queued by now is done
  void (*release_after_all)(int device, void* p);  // once all the device's work is done
  i64 (*free_bytes)(int device);
  int (*device_of)(const void* p);  // -1: no device's memory
  CudaError (*copy)(CudaQueue queue, const CudaCopy& copy);
  CudaError (*copy_indices)(CudaQueue queue, const CudaIndices& indices);
  CudaError (*store_numbers)(CudaQueue queue, const CudaNumbers& numbers);
  // What is queued from now on comes after what the other stream has by now.
  CudaError (*wait_for_stream)(CudaQueue queue, void* stream);
  CudaError (*wait)(CudaQueue queue);  // until what is queued by now is done
  // False in *good if an index out of range is known of, which `bad` then tells; waits only then.
  CudaError (*look)(CudaQueue queue, CudaBadIndex* bad, bool* good);
  // The same of all devices that were used, for which it waits.
  CudaError (*synchronize)(CudaBadIndex* bad, bool* good);

  const CudaSteps* steps;
};

}  // namespace fnn
