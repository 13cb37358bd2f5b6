// A recorded step on a GPU: its calls with device addresses, captured into graphs and replayed. A
// product does relu_backward and column_sum on its way as on the CPU (fuse.h), and a rescale of the
// samples is part of taking the batch's rows. The learning rate, the rows of the batch and the
// numbers that are noted come from device memory, so that the host queues whole runs of steps and
// waits once, at the end.
#pragma once
#include <optional>

#include "device.h"
#include "plan.h"

namespace fnn {

// Memory of the host that a plan's calls point at.
struct HostMemory {
  const void* data;
  i64 size;
};

// Whoever calls anything here has locked device.busy.
class DevicePlan {
 public:
  // state: what outlasts plans, the clock included. arena: of the plan's own arena, filled in here.
  // constants: other memory that the calls read, copied now. numbers: results that run() may note.
  // Throws DeviceFailure.
  DevicePlan(std::shared_ptr<Device> device, const Plan& plan, std::shared_ptr<Mirror> state,
             std::shared_ptr<Mirror> arena, const std::vector<HostMemory>& constants,
             const std::vector<HostMemory>& numbers, const Clock& clock);
  ~DevicePlan();

  // As Plan::run, with sources in device memory; of `seconds` the first is that of the device.
  i64 run(const Steps& steps);
  void read(const void* result, void* to, i64 bytes) const;  // of the last step

 private:
  // What a graph holds: a step, a step that changes nothing, and the halves of one with a guard.
  enum Part { whole, trial, body, commit, parts };

  std::shared_ptr<Device> device_;
  std::shared_ptr<Mirror> state_, arena_;
  Mirror constants_;
  std::vector<Call> calls_;  // with device addresses
  size_t commit_ = 0;
  CudaGather gather_{};
  CudaConclude conclude_{};
  std::vector<HostMemory> numbers_;  // in the order of conclude_
  struct Kept {
    char* data;
    DeviceBlock* before;
  };
  std::vector<Kept> kept_;
  std::vector<std::unique_ptr<DeviceBlock>> befores_;
  DeviceBlock *clock_, run_;
  std::optional<DeviceBlock> workspace_, columns_;  // columns_: rates, then what is noted
  void* graphs_[parts] = {};

  void take_calls(const Plan& plan);
  char* translated(const void* host, const Arena& arena);
  void translate(Call& call, const Arena& arena);
  void take_constants(const std::vector<HostMemory>& constants);
  void take_workspace();
  void require_graph(Part part);
  void queue_part(Part part);
  void queue_calls(size_t from, size_t to);
  void queue_copies(bool back);
  void replay(Part part);
  void prepare(const Steps& steps);
  i64 stretch(const Steps& steps, i64 count);  // steps done, fewer if the guard ended one
  bool one_step(const Steps& steps);           // false: the guard ended it
  void finish(const Steps& steps, i64 done);
};

}  // namespace fnn
