// Streams and graphs: what is launched while a stream is captured is kept, with copies of its
// arguments, and done with every launch of the graph. Streams are in order by themselves here.
#include <stdlib.h>

#include <chrono>
#include <utility>

#include "wrappers.h"

namespace emu {
namespace {

typedef std::vector<std::function<void()>> Graph;
struct Event {
  std::chrono::steady_clock::time_point time;
  void* stream;
};

Graph* capture = nullptr;

Graph* graph_of(void* graph) { return static_cast<Graph*>(graph); }
Event* event_of(void* event) { return static_cast<Event*>(event); }

}  // namespace

void* awaited_stream = nullptr;
bool captured_by_another = false;
bool is_capturing() { return capture; }
void record(std::function<void()> work) { capture->push_back(std::move(work)); }

}  // namespace emu

extern "C" {
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = static_cast<cudaStream_t>(malloc(1));
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  free(stream);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t) {
  if (emu::is_capturing()) return cudaErrorStreamCaptureUnsupported;  // nobody means that
  return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  return emu::is_capturing() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  const bool any = emu::captured_by_another || emu::is_capturing();
  *status = any ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
// Events note the time that the CPU took.
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = reinterpret_cast<cudaEvent_t>(new emu::Event{});
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return cudaEventCreate(event);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *emu::event_of(event) = {std::chrono::steady_clock::now(), stream};
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
  emu::awaited_stream = emu::event_of(event)->stream;
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  const auto passed = emu::event_of(to)->time - emu::event_of(from)->time;
  *milliseconds = std::chrono::duration<float, std::milli>(passed).count();
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete emu::event_of(event);
  return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (emu::is_capturing()) return cudaErrorIllegalState;
  emu::capture = new emu::Graph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = reinterpret_cast<cudaGraph_t>(std::exchange(emu::capture, nullptr));
  return *graph ? cudaSuccess : cudaErrorIllegalState;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  *made = reinterpret_cast<cudaGraphExec_t>(new emu::Graph(*emu::graph_of(graph)));
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete emu::graph_of(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete emu::graph_of(graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  for (const auto& work : *emu::graph_of(graph)) work();
  return cudaSuccess;
}
}
