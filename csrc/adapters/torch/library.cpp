// fastnn's ops as operators of PyTorch on the CPU, through LibTorch's stable ABI: one library
// serves every PyTorch from the targeted version on. Schemas, gradients and shapes of results are
// in fastnn/torch, the same for this library and for the Python functions that stand in for it.
// Here tensors become the arguments of kernels, and nothing is computed.
#include "call.h"

const fnn::Api* fnn_torch::api;

// Called once, when the schemas are defined. False: this library is of another build than _core.
extern "C" __attribute__((visibility("default"))) bool fastnn_torch_register(const fnn::Api* api) {
  using namespace fnn_torch;
  if (strcmp(api->contract, fnn::kContract) != 0) return false;
  fnn_torch::api = api;
  // Never deleted: the operators live as long as the process.
  auto* m = new Library(Library::Kind::IMPL, "fastnn", "CPU", __FILE__, __LINE__);
  add_layers(*m);
  add_linear(*m);
  add_cross_entropy(*m);
  add_optimizers(*m);
  return true;
}
