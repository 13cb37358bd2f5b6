// Column sums of a matrix: one read. Blocks of 32 columns and up to 256 rows, eight rows side by
// side; where there are more rows, each leaves a row of partial sums, which a second kernel adds
// in order.
#include "op.cuh"

namespace {

constexpr i64 kRows = 256;  // of a block
constexpr int kSide = 8;    // rows side by side

i64 row_blocks(i64 n) { return n <= kRows ? 1 : (n + kRows - 1) / kRows; }

template <class T>
__global__ void __launch_bounds__(32 * kSide) block_sums_kernel(const T* x, i64 n, i64 c, T* sums) {
  __shared__ T side[kSide][32];
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32;
  const i64 column = i64(blockIdx.x) * 32 + lane, begin = i64(blockIdx.y) * kRows;
  const i64 end = n < begin + kRows ? n : begin + kRows;
  T sum = 0;
  if (column < c) {
    for (i64 i = begin + row; i < end; i += kSide) sum += x[i * c + column];
  }
  side[row][lane] = sum;
  __syncthreads();
  if (row != 0 || column >= c) return;
  for (int r = 1; r < kSide; r++) sum += side[r][lane];
  sums[i64(blockIdx.y) * c + column] = sum;
}

template <class T> __global__ void add_rows_kernel(const T* sums, i64 rows, i64 c, T* y) {
  const i64 column = i64(blockIdx.x) * blockDim.x + threadIdx.x;
  if (column >= c) return;
  T sum = sums[column];
  for (i64 i = 1; i < rows; i++) sum += sums[i * c + column];
  y[column] = sum;
}

}  // namespace

CUDA_KERNEL_WITH_WORKSPACE(column_sum,
                           row_blocks(a.n) == 1 ? 0 : row_blocks(a.n) * a.c * i64(sizeof(T))) {
  if (a.c == 0) return cudaSuccess;
  const i64 rows = row_blocks(a.n), limit = 65535;
  T* sums = rows == 1 ? a.y : reinterpret_cast<T*>(call.workspace);
  for (i64 first = 0; first < rows; first += limit) {  // a grid has no more blocks that way
    const i64 count = rows - first < limit ? rows - first : limit;
    const cudaError_t error = simt::launch(
        block_sums_kernel<T>, dim3(blocks_for(a.c, 32), unsigned(count)), dim3(32 * kSide), 0,
        call.stream, a.x + first * kRows * a.c, a.n - first * kRows, a.c, sums + first * a.c);
    if (error != cudaSuccess || rows == 1) return error;
  }
  return simt::launch(add_rows_kernel<T>, dim3(blocks_for(a.c, 128)), dim3(128), 0, call.stream,
                      sums, rows, a.c, a.y);
}
