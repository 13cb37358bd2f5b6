// Feeding a batch: bytes to floating point, and rows gathered by index, a warp a row.
#include "elementwise.cuh"

namespace {

constexpr int kThreads = 256;

template <class T> struct Rescale {
  const u8* x;
  T* y;
  T scale, offset;

  __device__ NoConstants constants() const { return {}; }
  template <class At> __device__ void operator()(NoConstants, At at) const {
    at.store(y, fma(at.template load_bytes<T>(x), set1(scale), set1(offset)));
  }
};

// Rows of `width` Words. An index out of range reads nothing: its row becomes zeros.
template <class Word>
__global__ void __launch_bounds__(kThreads)
    take_rows_kernel(const Word* x, const i64* index, i64 rows, i64 n, i64 width, Word* y) {
  const i64 i = (i64(blockIdx.x) * kThreads + threadIdx.x) / 32;
  if (i >= n) return;
  const i64 from = index[i];
  const bool inside = from >= 0 && from < rows;
  for (i64 j = threadIdx.x % 32; j < width; j += 32) {
    y[i * width + j] = inside ? x[from * width + j] : Word{};
  }
}

template <class Word, class Args> cudaError_t take_rows_of(const CudaCall& call, const Args& a) {
  return simt::launch(take_rows_kernel<Word>, dim3(blocks_for(a.n, kThreads / 32)), dim3(kThreads),
                      0, call.stream, reinterpret_cast<const Word*>(a.x), a.index, a.rows, a.n,
                      a.f / i64(sizeof(Word)), reinterpret_cast<Word*>(a.y));
}

}  // namespace

CUDA_KERNEL(rescale) {
  return each<T>(call, a.n, Rescale<T>{a.x, a.y, T(a.scale), T(a.offset)}, a.x, a.y);
}

CUDA_KERNEL(take_rows) {
  if (a.n == 0 || a.f == 0) return cudaSuccess;
  const uintptr_t places =
      reinterpret_cast<uintptr_t>(a.x) | reinterpret_cast<uintptr_t>(a.y) | uintptr_t(a.f);
  if (places % 16 == 0) return take_rows_of<uint4>(call, a);
  if (places % 4 == 0) return take_rows_of<u32>(call, a);
  return take_rows_of<u8>(call, a);
}
