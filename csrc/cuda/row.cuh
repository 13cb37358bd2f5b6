// The rows of a matrix and the threads that own them: 4 lanes for up to 128 bytes, a warp for up to
// 4 KB, a block for up to 64 KB, all of which keep a row in registers between one read and one
// write. A block goes over a longer row as often as there is need; all rows under way at a time fit
// the L2 cache of a large GPU.
#pragma once
#include <type_traits>

#include "place.cuh"

namespace {

enum : int { kQuad = 4, kWarp = 32, kBlockRow = 512 };

// Over the `width` threads of a row, in a fixed order; all get the result. Rows of a block call it
// together.
template <int width, class T, class F> __device__ __forceinline__ T row_reduce(T x, F f) {
  constexpr int lanes = width < 32 ? width : 32;
#pragma unroll
  for (int by = lanes / 2; by > 0; by /= 2) x = f(x, __shfl_xor_sync(~0u, x, by));
  if constexpr (width > 32) {
    constexpr int warps = width / 32;
    __shared__ T of_warp[warps];
    __syncthreads();  // the last result has been read
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();
    x = of_warp[threadIdx.x % warps];
#pragma unroll
    for (int by = warps / 2; by > 0; by /= 2) x = f(x, __shfl_xor_sync(~0u, x, by));
  }
  return x;
}

// Row i for one of its threads. vecs: how many Vecs it keeps of an array; 0 for none.
template <class T, int width_, int vecs> struct Row {
  using Index = std::conditional_t<vecs == 0, i64, int>;
  using Number = T;
  static constexpr int width = width_;
  static constexpr bool keeps = vecs > 0, in_block = width > 32;
  static constexpr int lanes = Vec<T>::lanes;

  i64 i, begin;   // begin: of the row, in elements
  Index columns;  // none for rows beyond the last
  bool neighbours, vectors;

  __device__ bool leads() const { return threadIdx.x % width == 0; }
  __device__ void sync() const {
    if constexpr (in_block)
      __syncthreads();
    else
      __syncwarp();
  }

  // The thread's k-th Vec.
  struct At : Place<T, Index> {
    Index k;
    __device__ At(Place<T, Index> place, Index k_) : Place<T, Index>(place), k(k_) {}
  };

  __device__ __forceinline__ At at(Index k) const {
    const Index thread = threadIdx.x % width;
    const Index first = k * (width * lanes) + thread * (neighbours ? lanes : 1);
    return At({first, columns, neighbours ? 1 : width, vectors}, k);
  }

  // f(at) for every Vec of the thread.
  template <class F> __device__ __forceinline__ void each(F&& f) const {
    if constexpr (keeps) {
#pragma unroll
      for (int k = 0; k < vecs; k++) {
        if (k * (width * lanes) < columns) f(at(k));
      }
    } else {
      for (Index k = 0; k * (width * lanes) < columns; k++) f(at(k));
    }
  }

  // An array's part of the row: in registers, or to be read each time.
  struct Values {
    const T* row;
    Vec<T> kept[keeps ? vecs : 1];

    __device__ __forceinline__ Vec<T> operator[](const At& at) const {
      if constexpr (keeps)
        return kept[at.k];
      else
        return at.load(row);
    }
  };
  __device__ __forceinline__ Values read(const T* matrix) const {
    Values x;
    x.row = matrix + begin;
    if constexpr (keeps) each([&](const At& at) { x.kept[at.k] = at.load(x.row); });
    return x;
  }

  // Of one number a thread.
  __device__ __forceinline__ double total(double x) const {
    return row_reduce<width>(x, [](double a, double b) { return a + b; });
  }
  __device__ __forceinline__ T largest(T x) const {
    return row_reduce<width>(x, [](T a, T b) { return a > b ? a : b; });
  }

  // Sum of f(at) and largest f(at) over the row, lanes beyond it left out; of no elements 0 and
  // -inf. A NaN may or may not be the largest.
  template <class F> __device__ __forceinline__ double sum(F&& f) const {
    double sum = 0;
    each([&](const At& at) { sum += double(::sum(at.only(f(at)))); });
    return total(sum);
  }
  template <class F> __device__ __forceinline__ T max(F&& f) const {
    T most = T(-INFINITY);
    each([&](const At& at) {
      const T here = max_lane(at.only(f(at), T(-INFINITY)));
      most = here > most ? here : most;
    });
    return largest(most);
  }
};

template <int width> constexpr int kRowThreads = width > 32 ? width : 256;

// op(row) by all threads of the row; every thread of a block has one, be it beyond the last.
template <class T, int width, int vecs, class Op>
__global__ void __launch_bounds__(kRowThreads<width>, 1)
    rows_kernel(i64 n, i64 c, bool vectors, Op op) {
  using R = Row<T, width, vecs>;
  const i64 i = (i64(blockIdx.x) * kRowThreads<width> + threadIdx.x) / width;
  const bool neighbours = c % R::lanes == 0;
  op(R{i, i * c, typename R::Index(i < n ? c : 0), neighbours, vectors});
}

inline int row_width(i64 row_bytes) {
  return row_bytes <= 128 ? kQuad : row_bytes <= 4096 ? kWarp : kBlockRow;
}
// Of the grid that each_row launches.
template <class T> i64 row_blocks(i64 n, i64 c) {
  const int width = row_width(c * i64(sizeof(T)));
  const i64 rows = width == kBlockRow ? 1 : kRowThreads<kWarp> / width;
  return (n + rows - 1) / rows;
}

// arrays: all whose rows op touches; null ones are not touched.
template <class T, class Op, class... Arrays>
cudaError_t each_row(const CudaCall& call, i64 n, i64 c, Op op, const Arrays*... arrays) {
  if (n == 0) return cudaSuccess;
  const i64 bytes = c * i64(sizeof(T));
  const bool vectors = c % Vec<T>::lanes == 0 && (is_aligned(arrays) && ...);
  const auto launch = [&](auto kernel, int threads) {
    return simt::launch(kernel, dim3(unsigned(row_blocks<T>(n, c))), dim3(unsigned(threads)), 0,
                        call.stream, n, c, vectors, op);
  };
  switch (row_width(bytes)) {
    case kQuad: return launch(rows_kernel<T, kQuad, 2, Op>, kRowThreads<kQuad>);
    case kWarp: return launch(rows_kernel<T, kWarp, 8, Op>, kRowThreads<kWarp>);
    default: break;
  }
  if (bytes <= 65536) return launch(rows_kernel<T, kBlockRow, 8, Op>, kRowThreads<kBlockRow>);
  return launch(rows_kernel<T, kBlockRow, 0, Op>, kRowThreads<kBlockRow>);
}

}  // namespace
