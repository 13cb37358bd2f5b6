// Optimizer steps: decay, moments, bias correction and the update of an element fused, so that
// gradient, state and parameter cross memory once. The arithmetic is the CPU's, to the bit.
// Learning rate and step number are read from device memory, so that a captured graph may be
// replayed with new ones; what follows from them is worked out in double by one thread of a block.
#include "elementwise.cuh"

namespace {

template <class Args> struct Step {
  Args a;
  __device__ auto constants() const { return ::constants(a); }
  template <class Constants, class At> __device__ void operator()(const Constants& c, At at) const {
    update(a, c, at);
  }
};

template <class T, class Args, class... Arrays>
cudaError_t each_weight(const CudaCall& call, const Args& a, Arrays... arrays) {
  return each<T>(call, a.n, Step<Args>{a}, a.param, a.grad, arrays...);
}

}  // namespace

CUDA_KERNEL(sgd_step) { return each_weight<T>(call, a, a.velocity); }
CUDA_KERNEL(adagrad_step) { return each_weight<T>(call, a, a.sum_sq); }
CUDA_KERNEL(rmsprop_step) { return each_weight<T>(call, a, a.square_avg, a.velocity, a.grad_avg); }
CUDA_KERNEL(adam_step) {
  return each_weight<T>(call, a, a.exp_avg, a.exp_avg_sq, a.max_exp_avg_sq);
}
CUDA_KERNEL(radam_step) { return each_weight<T>(call, a, a.exp_avg, a.exp_avg_sq); }
