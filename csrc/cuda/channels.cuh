// Sums over all values of each channel of an array (n, c) or (n, c, s), and loops over them. A
// block has some channels of some examples: for (n, c) its threads stand side by side over up to 32
// Vecs of channels and, above each other, over rows; for (n, c, s) it has one channel, and they
// stand over the s values of an example in the same way. Each thread takes 8 Vecs at a time;
// threads are merged as a tree, blocks by a second kernel, unless there is only one for a channel.
// All follows from the shape alone.
#pragma once
#include "place.cuh"

namespace {

enum : int { kChannelThreads = 256, kTaken = 8, kApplied = 4, kFinished = 32 };

// How an array is cut up.
struct Channels {
  i64 n, c, s;
  bool vectors, neighbours;  // as in Place
  int across, above;         // threads side by side and above each other
  i64 length, pieces;        // of a line: a row of channels, or an example's values of a channel;
                             // Vecs that a thread takes of one
  i64 examples, slabs;       // of a block; blocks for a channel

  __host__ __device__ bool one_channel() const { return s != 1; }
  i64 wide() const { return one_channel() ? c : pieces; }  // blocks side by side
};

inline i64 divide_up(i64 a, i64 b) { return (a + b - 1) / b; }

// arrays: all of this shape, and of the channels for s = 1, that are read or written.
template <class T, class... Arrays>
Channels channels(i64 n, i64 c, i64 s, const Arrays*... arrays) {
  constexpr int lanes = Vec<T>::lanes;
  Channels ch{n, c, s, false, false, 1, kChannelThreads, s == 1 ? c : s, 0, n, 0};
  ch.neighbours = ch.length % lanes == 0;
  ch.vectors = ch.neighbours && (is_aligned(arrays) && ...);
  while (ch.across < 32 && ch.across * lanes < ch.length) ch.across *= 2;
  ch.above = kChannelThreads / ch.across;
  ch.pieces = divide_up(ch.length, ch.across * lanes);
  if (n == 0 || c == 0 || s == 0) return ch;
  // At least 8 Vecs a thread, but no more than fill a large GPU with blocks.
  const i64 steps = divide_up(n, ch.above) * (s == 1 ? 1 : ch.pieces);
  const i64 most = ch.wide() < 1024 ? 1024 / ch.wide() : 1, wanted = divide_up(steps, 8);
  const i64 slabs = wanted < most ? wanted : most;
  ch.examples = divide_up(n, slabs < n ? slabs : n);
  ch.slabs = divide_up(n, ch.examples);
  return ch;
}

// The values of one thread, Vec by Vec.
template <class T> struct Walk {
  static constexpr int lanes = Vec<T>::lanes;
  const Channels& ch;
  i64 channel;      // of lane 0
  int side;         // the thread's place among those side by side
  i64 first, last;  // examples
  i64 steps;

  __device__ explicit Walk(const Channels& c) : ch(c) {
    side = threadIdx.x % ch.across;
    first = i64(blockIdx.y) * ch.examples;
    last = ch.n < first + ch.examples ? ch.n : first + ch.examples;
    first += threadIdx.x / ch.across;
    channel = ch.one_channel() ? i64(blockIdx.x) : along(blockIdx.x);
    const i64 examples = first < last ? (last - first + ch.above - 1) / ch.above : 0;
    steps = examples * (ch.one_channel() ? ch.pieces : 1);
  }

  // Where lane 0 is in piece k of a line.
  __device__ i64 along(i64 k) const {
    return k * (ch.across * lanes) + side * (ch.neighbours ? lanes : 1);
  }
  __device__ Place<T, i64> line(i64 k) const {
    return {along(k), ch.length, ch.neighbours ? 1 : ch.across, ch.vectors};
  }

  struct At {
    Place<T, i64> place;
    i64 i, begin;  // example; of the line
    bool exists;

    __device__ __forceinline__ Vec<T> load(const T* p) const { return place.load(p + begin); }
    __device__ __forceinline__ void store(T* p, Vec<T> v) const { place.store(p + begin, v); }
  };
  // Step q; beyond the last one nothing exists.
  __device__ __forceinline__ At at(i64 q) const {
    if (!ch.one_channel()) {
      const i64 i = first + q * ch.above;
      return {line(blockIdx.x), i, i * ch.c, i < last};
    }
    const i64 down = ch.pieces == 1 ? q : int(q) / int(ch.pieces), i = first + down * ch.above;
    return {line(q - down * ch.pieces), i, (i * ch.c + channel) * ch.s, i < last};
  }

  // What an array has for the lanes' channels.
  __device__ __forceinline__ Vec<T> of_channel(const T* p) const {
    return ch.one_channel() ? set1(p[channel]) : line(blockIdx.x).load(p);
  }
};

// ---- sums ----------------------------------------------------------------------------------

// What is summed of a channel, by a thread for each lane: zeros are nothing, merge() takes another.
struct alignas(16) TwoSums {
  double first, second;

  __device__ void merge(const TwoSums& o) {
    first += o.first;
    second += o.second;
  }
};

template <class T>
__device__ __forceinline__ void add(TwoSums (&sums)[Vec<T>::lanes], Vec<T> first, Vec<T> second) {
#pragma unroll
  for (int l = 0; l < Vec<T>::lanes; l++) sums[l].merge({double(first.v[l]), double(second.v[l])});
}

// Threads t, t + across, t + 2 across, ... of a block into thread t < across.
template <class Sum> __device__ __forceinline__ void merge_threads(Sum& sum, int across) {
  __shared__ Sum of_thread[kChannelThreads];
  const int thread = threadIdx.x;
  for (int half = kChannelThreads / 2; half >= across; half /= 2) {
    __syncthreads();  // all have read what was there
    of_thread[thread] = sum;
    __syncthreads();
    if (thread < half) sum.merge(of_thread[thread + half]);
  }
}

// body.take(walk, constants, q, sums) adds kTaken Vecs from step q on, body.finish(j, sum) does
// what there is to do for channel j at last.
template <class T, class Body, class Sum = typename Body::Sum>
__global__ void __launch_bounds__(kChannelThreads, 2)
    channel_sums_kernel(Channels ch, Body body, Sum* of_block) {
  constexpr int lanes = Vec<T>::lanes;
  const Walk<T> walk(ch);
  const auto constants = body.constants(walk);
  Sum sums[lanes] = {};
  for (i64 q = 0; q < walk.steps; q += kTaken) body.take(walk, constants, q, sums);
  const bool one = ch.one_channel();
#pragma unroll
  for (int l = 0; l < lanes; l++) {
    if (one && l > 0) sums[0].merge(sums[l]);
    if (!one) merge_threads(sums[l], ch.across);
  }
  if (one) merge_threads(sums[0], 1);
  if (int(threadIdx.x) >= (one ? 1 : ch.across)) return;
#pragma unroll
  for (int l = 0; l < lanes; l++) {
    const i64 j = one ? walk.channel : walk.line(blockIdx.x).column(l);
    if (j >= ch.c || (one && l > 0)) continue;
    if (gridDim.y == 1)
      body.finish(j, sums[l]);
    else
      of_block[i64(blockIdx.y) * ch.c + j] = sums[l];
  }
}

template <class Body, class Sum>
__global__ void __launch_bounds__(kChannelThreads, 2)
    finish_channels_kernel(i64 c, i64 slabs, Body body, const Sum* of_block) {
  constexpr int above = kChannelThreads / kFinished;
  const i64 j = i64(blockIdx.x) * kFinished + threadIdx.x % kFinished;
  Sum sum = {};
  if (j < c) {
    for (i64 b = threadIdx.x / kFinished; b < slabs; b += above) sum.merge(of_block[b * c + j]);
  }
  merge_threads(sum, kFinished);
  if (threadIdx.x < kFinished && j < c) body.finish(j, sum);
}

template <class Body> i64 channel_workspace(const Channels& ch) {
  return ch.slabs > 1 ? ch.slabs * ch.c * i64(sizeof(typename Body::Sum)) : 0;
}

template <class T, class Body>
cudaError_t sum_channels(const CudaCall& call, const Channels& ch, Body body, char* workspace) {
  typedef typename Body::Sum Sum;
  if (ch.c == 0) return cudaSuccess;
  Sum* of_block = reinterpret_cast<Sum*>(workspace);
  if (ch.slabs > 0) {
    const dim3 grid(unsigned(ch.wide()), unsigned(ch.slabs));
    const cudaError_t error =
        simt::launch(channel_sums_kernel<T, Body>, grid, dim3(kChannelThreads), 0, call.stream, ch,
                     body, of_block);
    if (error != cudaSuccess || ch.slabs == 1) return error;
  }
  return simt::launch(finish_channels_kernel<Body, Sum>, dim3(blocks_for(ch.c, kFinished)),
                      dim3(kChannelThreads), 0, call.stream, ch.c, ch.slabs, body,
                      static_cast<const Sum*>(of_block));
}

// ---- loops ---------------------------------------------------------------------------------

// body.apply(walk, constants, q) does kApplied Vecs from step q on; the last first, as they may
// still be in the L2 cache.
template <class T, class Body>
__global__ void __launch_bounds__(kChannelThreads, 2) each_value_kernel(Channels ch, Body body) {
  const Walk<T> walk(ch);
  const auto constants = body.constants(walk);
  for (i64 q = (walk.steps - 1) / kApplied * kApplied; q >= 0 && q < walk.steps; q -= kApplied) {
    body.apply(walk, constants, q);
  }
}

template <class T, class Body>
cudaError_t each_value(const CudaCall& call, const Channels& ch, Body body) {
  if (ch.slabs == 0) return cudaSuccess;
  return simt::launch(each_value_kernel<T, Body>, dim3(unsigned(ch.wide()), unsigned(ch.slabs)),
                      dim3(kChannelThreads), 0, call.stream, ch, body);
}

}  // namespace
