// Memory of a GPU, and which memory of the host it stands for.
#pragma once
#include <map>
#include <memory>
#include <mutex>

#include "../core/cuda.h"

namespace fnn {

// Thrown where a device fails; `wanted` bytes if memory was asked for.
struct DeviceFailure {
  CudaError error;
  int device;
  i64 wanted;
};

// A device with a stream of its own, in which all work of one Trainer is queued.
class Device {
 public:
  Device(const CudaApi& api, int number);
  ~Device();
  Device(const Device&) = delete;

  const CudaApi& api;
  CudaQueue queue;
  std::mutex busy;  // one run at a time

  const CudaSteps& steps() const { return *api.steps; }
  void check(const CudaError& error, i64 wanted = 0) const {
    if (error) throw DeviceFailure{error, queue.device, wanted};
  }
};

// Memory on it, uninitialised.
class DeviceBlock {
 public:
  DeviceBlock(std::shared_ptr<Device> device, i64 bytes);
  ~DeviceBlock();
  DeviceBlock(const DeviceBlock&) = delete;

  char* data() const { return data_; }
  i64 size() const { return size_; }
  void upload(const void* from, i64 bytes, i64 at = 0);
  void download(void* to, i64 bytes, i64 at = 0) const;  // waits

 private:
  std::shared_ptr<Device> device_;
  char* data_;
  i64 size_;
};

// Device memory by the memory of the host that it stands for. Nothing is copied by itself.
class Mirror {
 public:
  explicit Mirror(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  DeviceBlock& add(const void* host, i64 bytes);  // or the one that is there
  DeviceBlock* block(const void* host) const;     // that begins there; null: none
  char* find(const void* host) const;             // where it lies on the device; null: nowhere

 private:
  std::shared_ptr<Device> device_;
  std::map<const char*, std::unique_ptr<DeviceBlock>> blocks_;  // by where they begin on the host
};

}  // namespace fnn
