// Softmax, cross-entropy and its gradient, for any number of classes but made for few: a row
// belongs to 4 lanes (32 where there are more than 32 classes), so that it stays in the first-level
// cache between its three passes. The mathematics is that of cpu/softmax_cross_entropy.cpp: with a
// row's weight s and target weights q_j, loss = s sum_j q_j (log sum exp(z) - z_j) and
// dz_j = s (softmax(z)_j sum(q) - q_j). Three kernels at most: sums of the weights that the mean
// divides by, rows, sum of the blocks' losses.
#include "math.cuh"
#include "reduce.cuh"

namespace {

constexpr int kThreads = 256;
enum { kMean, kSum, kNone };

template <class T> using Args = softmax_cross_entropy_args<T>;

template <class T> bool needs_divisor(const Args<T>& a) {
  return a.reduction == kMean && (a.labels || a.sample_weight);
}
i64 chunks(i64 n) { return (n + kChunk - 1) / kChunk; }
int lanes_of(i64 c) { return c <= 32 ? 4 : 32; }
i64 row_blocks(i64 n, i64 c) { return (n * lanes_of(c) + kThreads - 1) / kThreads; }

template <class T> __device__ bool in_range(const Args<T>& a, i64 label) {
  return label >= 0 && label < a.c;
}
template <class T> __device__ double sample_weight(const Args<T>& a, i64 i) {
  return a.sample_weight ? a.sample_weight[i] : 1;
}
// A label out of range has no weight; its row becomes NaN.
template <class T> __device__ double class_weight(const Args<T>& a, i64 label) {
  return !in_range(a, label) ? NAN : a.weight ? a.weight[label] : 1;
}

// ---- what the mean divides by --------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kThreads) weight_sums_kernel(Args<T> a, double* sums) {
  const i64 begin = i64(blockIdx.x) * kChunk, end = a.n < begin + kChunk ? a.n : begin + kChunk;
  double sum = 0;
  for (i64 i = begin + threadIdx.x; i < end; i += kThreads) {
    const i64 label = a.labels ? a.labels[i] : 0;
    if (!a.labels)
      sum += a.sample_weight[i];
    else if (label != a.ignore_index)
      sum += sample_weight(a, i) * (a.weight || a.sample_weight ? class_weight(a, label) : 1);
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// 1 / divisor, or 0 where nothing contributes. Few chunks: every thread adds them up.
template <class T> __device__ double inverse_divisor(const Args<T>& a, const double* sums) {
  double divisor = a.reduction == kMean ? double(a.n) : 1;
  if (sums) {
    divisor = 0;
    for (i64 k = 0; k * kChunk < a.n; k++) divisor += sums[k];
  }
  return divisor == 0 ? 0 : 1 / divisor;
}

// ---- rows ----------------------------------------------------------------------------------

template <class T> __device__ Vec<T> load_part(const T* row, i64 j, i64 c) {
  return load_masked(row + j, first_n<T>(c - j));
}

// The part of q that isn't the label's: smoothing, or probabilities.
template <class T> struct DenseTargets {
  const T *probabilities, *weight;
  T even, kept;

  __device__ DenseTargets(const Args<T>& a, i64 i)
      : probabilities(a.labels ? nullptr : a.probabilities + i * a.c), weight(a.weight),
        even(T(a.label_smoothing / double(a.c))), kept(T(1 - a.label_smoothing)) {}
  __device__ Vec<T> at(i64 j, i64 c) const {
    Vec<T> q = set1(even);
    if (probabilities) q = fma(load_part(probabilities, j, c), set1(kept), q);
    if (weight) q = q * load_part(weight, j, c);
    return select(first_n<T>(c - j), q, zero<T>());
  }
};

// The lanes' part of row i's gradient; returns the row's loss. Rows beyond the last one have no
// columns: their lanes only take part in the warp's sums.
template <class T, int width> __device__ double row(const Args<T>& a, double inverse, i64 i) {
  const T* z = a.logits + i * a.c;
  T* dz = a.dlogits + i * a.c;
  const i64 first = threadIdx.x % width * Vec<T>::lanes, step = width * Vec<T>::lanes;
  const i64 columns = i < a.n ? a.c : 0;
  const i64 label = a.labels && i < a.n ? a.labels[i] : 0;
  const bool ignored = columns == 0 || inverse == 0 || (a.labels && label == a.ignore_index);
  const double weight = ignored ? 0 : sample_weight(a, i);
  const double label_weight =
      a.labels && !ignored ? (1 - a.label_smoothing) * class_weight(a, label) : 0;
  const T label_logit = a.labels && i < a.n && in_range(a, label) ? z[label] : T(0);

  T most = T(-INFINITY);
  for (i64 j = first; j < columns; j += step) {
    const Vec<T> v = select(first_n<T>(a.c - j), load_part(z, j, a.c), set1(T(-INFINITY)));
    const T largest = max_lane(v);
    most = largest > most ? largest : most;
  }
  most = warp_max<width>(most);

  const bool dense = !a.labels || a.label_smoothing != 0;
  const DenseTargets<T> targets(a, i);
  double sum = 0, sum_q = 0, dot = 0;
  for (i64 j = first; j < columns; j += step) {
    const Vec<T> v = load_part(z, j, a.c);
    sum += sum_in_double(select(first_n<T>(a.c - j), exp(v - set1(most)), zero<T>()));
    if (!dense) continue;
    const Vec<T> q = targets.at(j, a.c);
    sum_q += sum_in_double(q);
    dot += sum_in_double(select(q == zero<T>(), q, q * v));  // a class of weight 0 may be -inf
  }
  sum = warp_sum<width>(sum);
  sum_q = warp_sum<width>(sum_q);
  dot = warp_sum<width>(dot);
  __syncwarp();  // dlogits may be logits: nobody reads another lane's part any more

  const double scale = weight * inverse, total = label_weight + sum_q;
  const T k = T(scale * total / sum);
  for (i64 j = first; j < columns; j += step) {
    Vec<T> v = exp(load_part(z, j, a.c) - set1(most)) * set1(k);
    if (dense) v = fnma(targets.at(j, a.c), set1(T(scale)), v);
#pragma unroll
    for (int l = 0; l < Vec<T>::lanes; l++) {
      if (a.labels && j + l == label) v.v[l] -= T(scale * label_weight);
    }
    store_masked(dz + j, ignored ? zero<T>() : v, first_n<T>(a.c - j));
  }
  const double logarithm = log(set1(sum)).v[0];
  const double rest =
      label_weight * (double(most) - double(label_logit)) + sum_q * double(most) - dot;
  return ignored ? 0 : weight * (total * logarithm + rest);
}

template <class T, int width>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(Args<T> a, const double* weight_sums, double* losses) {
  const double inverse = inverse_divisor(a, weight_sums);
  const i64 i = (i64(blockIdx.x) * kThreads + threadIdx.x) / width;
  const bool leads = threadIdx.x % width == 0 && i < a.n;
  const double loss = row<T, width>(a, inverse, i);
  if (a.reduction == kNone) {
    if (leads) a.loss[i] = T(loss);
    return;
  }
  const double sum = block_sum<kThreads>(leads ? loss : 0);
  if (threadIdx.x == 0) losses[blockIdx.x] = sum;
}

template <class T> struct StoreLoss {
  Args<T> a;
  const double* weight_sums;
  __device__ void operator()(double sum) const {
    *a.loss = T(inverse_divisor(a, weight_sums) * sum);
  }
};

}  // namespace

CUDA_KERNEL_WITH_WORKSPACE(softmax_cross_entropy, 8 * (chunks(a.n) + row_blocks(a.n, a.c))) {
  double* weight_sums = nullptr;
  double* losses = reinterpret_cast<double*>(call.workspace) + chunks(a.n);
  const unsigned blocks = unsigned(row_blocks(a.n, a.c));
  cudaError_t error = cudaSuccess;
  if (a.n > 0 && needs_divisor(a)) {
    weight_sums = reinterpret_cast<double*>(call.workspace);
    error = simt::launch(weight_sums_kernel<T>, dim3(unsigned(chunks(a.n))), dim3(kThreads), 0,
                         call.stream, a, weight_sums);
  }
  if (a.n > 0 && error == cudaSuccess) {
    error = simt::launch(lanes_of(a.c) == 4 ? rows_kernel<T, 4> : rows_kernel<T, 32>, dim3(blocks),
                         dim3(kThreads), 0, call.stream, a, static_cast<const double*>(weight_sums),
                         losses);
  }
  if (error != cudaSuccess || a.reduction == kNone) return error;
  return finish_sum(call, losses, a.n > 0 ? i64(blocks) : 0, StoreLoss<T>{a, weight_sums});
}
