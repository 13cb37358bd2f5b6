// CUDA as the binder sees it: fastnn._cuda, found when the first CUDA array comes; the streams and
// the allocators of the callers' libraries; errors.
#pragma once
#include <memory>

#include "../core/cuda.h"
#include "arrays.h"

namespace fnn {

// Null, or why that device can't be used.
const char* why_not_cuda(int device);
const CudaApi& cuda();  // once why_not_cuda() has given null

// The caller's current stream.
CudaQueue current_queue(Library library, int device);
// Whether the library uses freed memory again in the order of the current stream. With others, a
// call must wait_for() its work before it lets go of their arrays.
bool orders_memory(Library library);
void wait_for(CudaQueue queue, const std::string& op);

// Also for the error of another library's allocator.
[[noreturn]] void out_of_memory(const std::string& op, int device, i64 bytes);
// Raises LabelError (IndexError for rows) if an index that was out of range is known of by now.
void look_for_bad_index(CudaQueue queue, const std::string& op);

[[noreturn]] void raise_cuda(const CudaError& error, const std::string& op, int device);
inline void check_cuda(const CudaError& error, const std::string& op, int device) {
  if (error) raise_cuda(error, op, device);
}

// Memory of the host, or of a device in the order of a stream.
struct Release {
  const CudaApi* cuda = nullptr;
  CudaQueue queue = {};
  void operator()(char* p) const {
    if (cuda)
      cuda->release(queue, p);
    else
      FreeDeleter()(p);
  }
};
typedef std::unique_ptr<char, Release> Memory;
Memory allocate_on(CudaQueue queue, i64 bytes, const std::string& op);

// A new C-contiguous array of the caller's library, or a capsule for import_array (`exported`).
struct DeviceArray {
  py::object array;
  bool exported;
  void* data;
};
DeviceArray new_on_device(Library library, PyObject* like, DType dtype, const i64* shape, int ndim,
                          CudaQueue queue, const std::string& op);

void add_device(py::module_& m);

}  // namespace fnn
