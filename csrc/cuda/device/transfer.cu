// Kernels that bring a call's arguments into the form that the ops' kernels take: arrays of any
// strides to C-contiguous ones and back, indices of any integer type to int64, numbers to device
// memory. One read and one write of each element, in no special order; nothing waits for the host.
#include "../op.cuh"
#include "transfer.h"

namespace fnn {
namespace {

constexpr int kThreads = 256;
constexpr i64 kBlocks = 4096;  // at most; then each thread goes on to other elements

dim3 blocks_of(i64 n) { return dim3(unsigned(min((n + kThreads - 1) / kThreads, kBlocks))); }

template <class Item>
__global__ void __launch_bounds__(kThreads)
    copy_kernel(i64 n, const __grid_constant__ CudaCopy copy) {
  const i64 step = i64(gridDim.x) * kThreads;
  for (i64 i = i64(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    i64 rest = i, to = 0, from = 0;
    for (int axis = copy.ndim - 1; axis >= 0; axis--) {
      const i64 length = copy.shape[axis], above = rest / length, at = rest - above * length;
      to += at * copy.to_strides[axis];
      from += at * copy.from_strides[axis];
      rest = above;
    }
    *reinterpret_cast<Item*>(copy.to + to) = *reinterpret_cast<const Item*>(copy.from + from);
  }
}

template <class Item> cudaError_t copy_items(i64 n, const CudaCopy& copy, cudaStream_t stream) {
  return simt::launch(copy_kernel<Item>, blocks_of(n), dim3(kThreads), 0, stream, n, copy);
}

// An axis along which both sides go on where the axis before it ends is one with that.
CudaCopy simplified(const CudaCopy& copy) {
  CudaCopy c = copy;
  c.ndim = 0;
  for (int i = 0; i < copy.ndim; i++) {
    const i64 length = copy.shape[i];
    if (length == 1) continue;
    const bool joined = c.ndim > 0 && c.to_strides[c.ndim - 1] == length * copy.to_strides[i] &&
                        c.from_strides[c.ndim - 1] == length * copy.from_strides[i];
    const int axis = joined ? c.ndim - 1 : c.ndim++;
    c.shape[axis] = joined ? c.shape[axis] * length : length;
    c.to_strides[axis] = copy.to_strides[i];
    c.from_strides[axis] = copy.from_strides[i];
  }
  return c;
}

bool misaligned(const CudaCopy& copy) {
  uintptr_t all = reinterpret_cast<uintptr_t>(copy.to) | reinterpret_cast<uintptr_t>(copy.from);
  for (int i = 0; i < copy.ndim; i++) {
    all |= uintptr_t(copy.to_strides[i]) | uintptr_t(copy.from_strides[i]);
  }
  return all % uintptr_t(copy.item) != 0;
}

__device__ __forceinline__ i64 integer_at(const void* p, CudaElement element) {
  const bool is_signed = element.kind == 'i';
  switch (element.size) {
    case 1: return is_signed ? *static_cast<const int8_t*>(p) : *static_cast<const uint8_t*>(p);
    case 2: return is_signed ? *static_cast<const int16_t*>(p) : *static_cast<const uint16_t*>(p);
    case 4:
      return is_signed ? i64(*static_cast<const int32_t*>(p))
                       : i64(*static_cast<const uint32_t*>(p));
    default: return *static_cast<const i64*>(p);
  }
}

__global__ void __launch_bounds__(kThreads)
    indices_kernel(const __grid_constant__ CudaIndices a, IndexNotes notes) {
  const i64 step = i64(gridDim.x) * kThreads;
  for (i64 i = i64(blockIdx.x) * kThreads + threadIdx.x; i < a.n; i += step) {
    i64 index = integer_at(a.from + i * a.stride, a.element);
    const bool too_large = a.element.kind == 'u' && index < 0;
    if (too_large) index = INT64_MIN;  // out of range for any kernel
    a.to[i] = index;
    const bool ignored = a.ignores && index == a.ignored && !too_large;
    if (!a.checked || ignored || (index >= 0 && index < a.limit)) continue;
    const unsigned long long row = i < 0xFFFFFFFE ? i : 0xFFFFFFFE;
    const i64 most = INT32_MAX, least = INT32_MIN;
    const i64 clipped = index > most ? most : index < least ? least : index;
    const unsigned long long key = row << 32 | static_cast<unsigned long long>(clipped - least);
    const unsigned long long before = atomicMin(&notes.note->first, key);
    if (before == ~0ull) *notes.there = 1;
    if (before <= key) continue;
    atomicExch(reinterpret_cast<unsigned long long*>(&notes.note->limit),
               static_cast<unsigned long long>(a.limit));
    atomicExch(&notes.note->op, a.op);
  }
}

__device__ __forceinline__ double real_at(const void* p, CudaElement element) {
  if (element.kind == 'f') {
    return element.size == 4 ? double(*static_cast<const float*>(p))
                             : *static_cast<const double*>(p);
  }
  return double(integer_at(p, element));
}

__global__ void numbers_kernel(const __grid_constant__ CudaNumbers numbers) {
  const unsigned i = threadIdx.x;
  if (i >= unsigned(numbers.count)) return;
  const auto& number = numbers.each[i];
  if (!number.from) {
    numbers.to[i] = number.bits;
  } else if (number.real) {
    reinterpret_cast<double*>(numbers.to)[i] = real_at(number.from, number.element);
  } else {
    reinterpret_cast<i64*>(numbers.to)[i] = integer_at(number.from, number.element);
  }
}

}  // namespace

cudaError_t launch_copy(const CudaCopy& copy, cudaStream_t stream) {
  CudaCopy c = simplified(copy);
  if (misaligned(c)) {  // byte by byte, along one more axis
    c.shape[c.ndim] = c.item;
    c.to_strides[c.ndim] = c.from_strides[c.ndim] = 1;
    c.ndim++;
    c.item = 1;
  }
  i64 n = 1;
  for (int i = 0; i < c.ndim; i++) n *= c.shape[i];
  if (n == 0) return cudaSuccess;
  switch (c.item) {
    case 1: return copy_items<uint8_t>(n, c, stream);
    case 2: return copy_items<uint16_t>(n, c, stream);
    case 4: return copy_items<uint32_t>(n, c, stream);
    default: return copy_items<uint64_t>(n, c, stream);
  }
}

cudaError_t launch_indices(const CudaIndices& indices, IndexNotes notes, cudaStream_t stream) {
  if (indices.n == 0) return cudaSuccess;
  return simt::launch(indices_kernel, blocks_of(indices.n), dim3(kThreads), 0, stream, indices,
                      notes);
}

cudaError_t launch_numbers(const CudaNumbers& numbers, cudaStream_t stream) {
  return simt::launch(numbers_kernel, dim3(1), dim3(32), 0, stream, numbers);
}

}  // namespace fnn
