// Streams and graphs for training steps: every step is captured once and replayed.
#include "steps.h"

#include "current.h"

namespace fnn {
namespace {

cudaGraphExec_t graph_of(void* graph) { return static_cast<cudaGraphExec_t>(graph); }

// Work of the default stream, which other libraries use, is not waited for: who takes their arrays
// does that.
CudaError open(int device, void** stream) {
  return on_device(device, [&] {
    return cudaStreamCreateWithFlags(reinterpret_cast<cudaStream_t*>(stream),
                                     cudaStreamNonBlocking);
  });
}

void close(CudaQueue queue) {
  on_device(queue.device, [&] { return cudaStreamDestroy(stream_of(queue)); });
}

// From memory that is not pinned: `from` has been read when this returns.
CudaError upload(CudaQueue queue, void* to, const void* from, i64 bytes) {
  return on_device(queue.device, [&] {
    return cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice,
                           stream_of(queue));
  });
}

CudaError download(CudaQueue queue, void* to, const void* from, i64 bytes) {
  return on_device(queue.device, [&] {
    const cudaError_t error = cudaMemcpyAsync(to, from, static_cast<size_t>(bytes),
                                              cudaMemcpyDeviceToHost, stream_of(queue));
    return error == cudaSuccess ? cudaStreamSynchronize(stream_of(queue)) : error;
  });
}

// Relaxed: kernels may be loaded at their first launch, and other threads go on using CUDA.
CudaError begin_capture(CudaQueue queue) {
  return on_device(queue.device, [&] {
    return cudaStreamBeginCapture(stream_of(queue), cudaStreamCaptureModeRelaxed);
  });
}

CudaError end_capture(CudaQueue queue, void** graph) {
  return on_device(queue.device, [&] {
    cudaGraph_t captured = nullptr;
    cudaError_t error = cudaStreamEndCapture(stream_of(queue), &captured);
    if (error != cudaSuccess) return error;
    error = cudaGraphInstantiate(reinterpret_cast<cudaGraphExec_t*>(graph), captured, 0);
    cudaGraphDestroy(captured);
    return error;
  });
}

CudaError replay(CudaQueue queue, void* graph) {
  return on_device(queue.device,
                   [&] { return cudaGraphLaunch(graph_of(graph), stream_of(queue)); });
}

void forget(int device, void* graph) {
  on_device(device, [&] { return cudaGraphExecDestroy(graph_of(graph)); });
}

CudaError start_timer(CudaQueue queue, void** timer) {
  return on_device(queue.device, [&] {
    cudaEvent_t begin = nullptr;
    cudaError_t error = cudaEventCreate(&begin);
    if (error != cudaSuccess) return error;
    error = cudaEventRecord(begin, stream_of(queue));
    if (error == cudaSuccess)
      *timer = begin;
    else
      cudaEventDestroy(begin);
    return error;
  });
}

CudaError stop_timer(CudaQueue queue, void* timer, double* seconds) {
  return on_device(queue.device, [&] {
    const auto begin = static_cast<cudaEvent_t>(timer);
    cudaEvent_t end = nullptr;
    float milliseconds = 0;
    cudaError_t error = cudaEventCreate(&end);
    if (error == cudaSuccess) error = cudaEventRecord(end, stream_of(queue));
    if (error == cudaSuccess) error = cudaEventSynchronize(end);
    if (error == cudaSuccess) error = cudaEventElapsedTime(&milliseconds, begin, end);
    if (end) cudaEventDestroy(end);
    cudaEventDestroy(begin);
    *seconds = static_cast<double>(milliseconds) * 1e-3;
    return error;
  });
}

CudaError gather(CudaQueue queue, const CudaGather& gather) {
  return on_device(queue.device, [&] { return launch_gather(gather, stream_of(queue)); });
}

CudaError conclude(CudaQueue queue, const CudaConclude& conclude) {
  return on_device(queue.device, [&] { return launch_conclude(conclude, stream_of(queue)); });
}

}  // namespace

const CudaSteps cuda_steps = {
    open,   close,  upload,      download,   begin_capture, end_capture,
    replay, forget, start_timer, stop_timer, gather,        conclude,
};

}  // namespace fnn
