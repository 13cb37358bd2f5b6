// Softmax, cross-entropy and its gradient, for any number of classes: the logits are read once and
// the gradient written once where a row fits into registers (row.cuh, softmax_rows.cuh). The
// mathematics is that of cpu/softmax_cross_entropy.cpp: with a row's weight s and target weights
// q_j, loss = s sum_j q_j (log sum exp(z) - z_j) and dz_j = s (softmax(z)_j sum(q) - q_j). Three
// kernels at most: sums of the weights that the mean divides by, rows, sum of the blocks' losses.
#include "reduce.cuh"
#include "softmax_rows.cuh"

namespace {

constexpr int kThreads = 256;
enum { kMean, kSum, kNone };

template <class T> using Args = softmax_cross_entropy_args<T>;

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

template <class T> bool needs_divisor(const Args<T>& a) {
  return a.reduction == kMean && (a.labels || a.sample_weight);
}

// Few chunks of examples, as every thread adds their sums up.
constexpr i64 kChunks = 64;
__device__ __host__ inline i64 chunk_of(i64 n) {
  return n <= kChunk * kChunks ? i64(kChunk) : (n + kChunks - 1) / kChunks;
}
__device__ __host__ inline i64 chunks(i64 n) { return (n + chunk_of(n) - 1) / chunk_of(n); }

template <class T>
__global__ void __launch_bounds__(kThreads) weight_sums_kernel(Args<T> a, double* sums) {
  const i64 chunk = chunk_of(a.n), begin = i64(blockIdx.x) * chunk;
  const i64 end = a.n < begin + chunk ? a.n : begin + chunk;
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

// 1 / divisor, or 0 where nothing contributes.
template <class T> __device__ double inverse_divisor(const Args<T>& a, const double* sums) {
  double divisor = a.reduction == kMean ? double(a.n) : 1;
  if (sums) {
    divisor = 0;
    for (i64 k = 0; k < chunks(a.n); k++) divisor += sums[k];
  }
  return divisor == 0 ? 0 : 1 / divisor;
}

// ---- rows ----------------------------------------------------------------------------------

// The part of q that isn't the label's: smoothing, or probabilities.
template <class T> struct DenseTargets {
  const T *probabilities, *weight;
  T even, kept;

  __device__ DenseTargets(const Args<T>& a, i64 begin)
      : probabilities(a.labels ? nullptr : a.probabilities + begin), weight(a.weight),
        even(T(a.label_smoothing / double(a.c))), kept(T(1 - a.label_smoothing)) {}
  template <class At> __device__ Vec<T> operator[](const At& at) const {
    Vec<T> q = set1(even);
    if (probabilities) q = fma(at.load(probabilities), set1(kept), q);
    return weight ? q * at.load(weight) : q;
  }
};

// A row's gradient and loss; losses: a sum for each block, unless each row's is wanted.
template <class T> struct CrossEntropy {
  Args<T> a;
  const double* weight_sums;  // null where the divisor is known
  double* losses;

  template <class R> __device__ void operator()(const R& row) const {
    const double loss = gradient(row, inverse_divisor(a, weight_sums));
    const bool leads = row.leads() && row.i < a.n;
    if (a.reduction == kNone) {
      if (leads) a.loss[row.i] = T(loss);
      return;
    }
    const double sum = block_sum<kRowThreads<R::width>>(leads ? loss : 0);
    if (threadIdx.x == 0) losses[blockIdx.x] = sum;
  }

  // Returns the loss.
  template <class R> __device__ double gradient(const R& row, double inverse) const {
    const bool exists = row.i < a.n;
    const i64 label = a.labels && exists ? a.labels[row.i] : 0;
    const bool ignored = !exists || inverse == 0 || (a.labels && label == a.ignore_index);
    const double weight = ignored ? 0 : sample_weight(a, row.i);
    const double label_weight =
        a.labels && !ignored ? (1 - a.label_smoothing) * class_weight(a, label) : 0;
    const T label_logit =
        a.labels && exists && in_range(a, label) ? a.logits[row.begin + label] : T(0);

    const bool dense = !a.labels || a.label_smoothing != 0;
    const DenseTargets<T> targets(a, row.begin);
    double sum_q = 0, dot = 0;
    const auto z = row.read(a.logits);
    if (dense) {
      sum_q = row.sum([&](const auto& at) { return targets[at]; });
      dot = row.sum([&](const auto& at) {  // a class of weight 0 may have a logit of -inf
        const Vec<T> q = targets[at];
        return select(q == zero<T>(), q, q * z[at]);
      });
    }
    const auto e = exponentials<true>(row, z);
    row.sync();  // dlogits may be logits: nobody reads another thread's part any more

    const double scale = weight * inverse, total = label_weight + sum_q;
    const Vec<T> k = set1(T(scale * total / e.sum));
    row.each([&](const auto& at) {
      Vec<T> v = e[at] * k;
      if (dense) v = fnma(targets[at], set1(T(scale)), v);
#pragma unroll
      for (int l = 0; l < Vec<T>::lanes; l++) {
        if (a.labels && at.column(l) == label) v.v[l] -= T(scale * label_weight);
      }
      at.store(a.dlogits + row.begin, ignored ? zero<T>() : v);
    });
    const double most = double(e.max), log_sum = log(set1(e.sum * double(kUnlift<T>))).v[0];
    const double rest = label_weight * (most - double(label_logit)) + sum_q * most - dot;
    return ignored ? 0 : weight * (total * log_sum + rest);
  }
};

template <class T> struct StoreLoss {
  Args<T> a;
  const double* weight_sums;
  __device__ void operator()(double sum) const {
    *a.loss = T(inverse_divisor(a, weight_sums) * sum);
  }
};

}  // namespace

CUDA_KERNEL_WITH_WORKSPACE(softmax_cross_entropy, 8 * (chunks(a.n) + row_blocks<T>(a.n, a.c))) {
  double* weight_sums = nullptr;
  double* losses = reinterpret_cast<double*>(call.workspace) + chunks(a.n);
  cudaError_t error = cudaSuccess;
  if (a.n > 0 && needs_divisor(a)) {
    weight_sums = reinterpret_cast<double*>(call.workspace);
    error = simt::launch(weight_sums_kernel<T>, dim3(unsigned(chunks(a.n))), dim3(kThreads), 0,
                         call.stream, a, weight_sums);
  }
  if (error != cudaSuccess) return error;
  error = each_row<T>(call, a.n, a.c, CrossEntropy<T>{a, weight_sums, losses}, a.logits,
                      a.labels ? nullptr : a.probabilities, a.weight, a.dlogits);
  if (error != cudaSuccess || a.reduction == kNone) return error;
  return finish_sum(call, losses, row_blocks<T>(a.n, a.c), StoreLoss<T>{a, weight_sums});
}
