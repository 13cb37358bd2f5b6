// Optimizer steps: decay, moments, bias correction and the update of an element fused, so that
// gradient, state and parameter cross memory once. The arithmetic is the CPU's, to the bit.
// Learning rate and step number are read from device memory, so that a captured graph may be
// replayed with new ones; what follows from them is worked out in double by one thread of a block.
// Lists of arrays go through one launch, whose parameters hold a table of them: nothing is copied
// to the device, and a captured graph keeps it.
#include "arrays_of.cuh"
#include "elementwise.cuh"

namespace {

template <class Args> struct Step {
  Args a;
  __device__ auto constants() const { return ::constants(a); }
  template <class Constants, class At> __device__ void operator()(const Constants& c, At at) const {
    update(a, c, at);
  }
};

template <class T, class Args> cudaError_t step(const CudaCall& call, const Args& a) {
  return each_if_aligned<T>(call, a.n, Step<Args>{a}, all_aligned(a));
}

// ---- lists ---------------------------------------------------------------------------------

// What is an element's own: the rest of its arguments is the same in all.
template <class Args> struct Element {
  i64 n;
  unsigned first;  // of the blocks that work on it
  bool aligned;
  const void* arrays[count_arrays<Args>()];
};

template <class Args_, size_t bytes> struct Table {
  using Args = Args_;
  static constexpr int most = int((bytes - sizeof(Args) - 8) / sizeof(Element<Args>));
  Args shared;
  int count;
  unsigned blocks;
  Element<Args> elements[most];

  // The element that a block works on.
  __device__ int find(unsigned block) const {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (elements[middle].first <= block ? low : high) = middle;
    }
    return low;
  }
};

// Every driver takes 4 KB of parameters, those of CUDA 12.1 and later nearly 32.
template <class Args> using Short = Table<Args, 4096>;
template <class Args> using Long = Table<Args, 32764>;

template <class T, class Table>
__global__ void __launch_bounds__(kEachThreads, 2)
    list_kernel(const __grid_constant__ Table table) {
  Step<typename Table::Args> step{table.shared};
  const auto constants = shared_constants(step);
  const int i = table.find(blockIdx.x);
  const auto& element = table.elements[i];
  const unsigned end = i + 1 < table.count ? table.elements[i + 1].first : table.blocks;
  int k = 0;
  each_array(step.a, [&]<class Array>(Array*& p) {
    p = static_cast<Array*>(const_cast<void*>(element.arrays[k++]));
  });
  const i64 block = blockIdx.x - element.first, blocks = end - element.first;
  const auto update = [&](auto at) { step(constants, at); };
  if (element.aligned)
    each_vec<T, true>(element.n, block, blocks, update);
  else
    each_vec<T, false>(element.n, block, blocks, update);
}

// Of as many elements as the table takes, from *next on.
template <class T, class Table>
cudaError_t launch_table(const CudaCall& call, const void* const*& next, const void* const* end) {
  using Args = typename Table::Args;
  Table table{*static_cast<const Args*>(*next), 0, 0, {}};
  for (; next != end && table.count < Table::most; next++) {
    Args a = *static_cast<const Args*>(*next);
    if (a.n == 0) continue;
    auto& element = table.elements[table.count++];
    element = {a.n, table.blocks, all_aligned(a), {}};
    int k = 0;
    each_array(a, [&](auto*& p) { element.arrays[k++] = p; });
    table.blocks += blocks_of_vecs<T>(a.n, 2, kEachBlocks);
  }
  if (table.count == 0) return cudaSuccess;
  return simt::launch(list_kernel<T, Table>, dim3(table.blocks), dim3(kEachThreads), 0, call.stream,
                      table);
}

template <class T, class Args>
cudaError_t step_list(const CudaCall& call, const void* const* args, int count) {
  cudaError_t error = cudaSuccess;
  for (const void* const* end = args + count; args != end && error == cudaSuccess;) {
    error = end - args <= Short<Args>::most ? launch_table<T, Short<Args>>(call, args, end)
                                            : launch_table<T, Long<Args>>(call, args, end);
  }
  return error;
}

}  // namespace

#define STEP_LIST(op, T, type)                                                          \
  extern "C" cudaError_t fnn_cuda_##op##_##type##_list(const void* const* a, int count, \
                                                       const CudaCall* call) {          \
    return step_list<T, op##_args<T>>(*call, a, count);                                 \
  }
#define STEP(op)                               \
  CUDA_KERNEL(op) { return step<T>(call, a); } \
  STEP_LIST(op, float, f32)                    \
  STEP_LIST(op, double, f64)

STEP(sgd_step)
STEP(adagrad_step)
STEP(rmsprop_step)
STEP(adam_step)
STEP(radam_step)
