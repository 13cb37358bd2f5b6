#include "device.h"

#include <algorithm>

namespace fnn {

Device::Device(const CudaApi& cuda, int number) : api(cuda), queue{number, nullptr} {
  check(steps().open(number, &queue.stream));
}

Device::~Device() { steps().close(queue); }

DeviceBlock::DeviceBlock(std::shared_ptr<Device> device, i64 bytes)
    : device_(std::move(device)), size_(bytes) {
  void* p = nullptr;
  device_->check(device_->api.allocate(device_->queue, std::max<i64>(bytes, 1), &p), bytes);
  data_ = static_cast<char*>(p);
}

DeviceBlock::~DeviceBlock() { device_->api.release(device_->queue, data_); }

void DeviceBlock::upload(const void* from, i64 bytes, i64 at) {
  if (bytes) device_->check(device_->steps().upload(device_->queue, data_ + at, from, bytes));
}

void DeviceBlock::download(void* to, i64 bytes, i64 at) const {
  if (bytes) device_->check(device_->steps().download(device_->queue, to, data_ + at, bytes));
}

DeviceBlock& Mirror::add(const void* host, i64 bytes) {
  if (DeviceBlock* there = block(host)) return *there;
  auto made = std::make_unique<DeviceBlock>(device_, bytes);
  return *(blocks_[static_cast<const char*>(host)] = std::move(made));
}

DeviceBlock* Mirror::block(const void* host) const {
  auto found = blocks_.find(static_cast<const char*>(host));
  return found == blocks_.end() ? nullptr : found->second.get();
}

char* Mirror::find(const void* host) const {
  const char* p = static_cast<const char*>(host);
  for (auto next = blocks_.upper_bound(p); next != blocks_.begin();) {
    const auto& [begin, block] = *--next;
    if (p < begin + std::max<i64>(block->size(), 1)) return block->data() + (p - begin);
  }
  return nullptr;
}

}  // namespace fnn
