// Where the lanes of a thread's Vec lie in a row. Where rows consist of whole Vecs, they are
// neighbours, else a stride apart, so that the threads' first lanes are neighbours: that depends on
// the length of a row alone, and so do the bits. Whether 16 bytes can be loaded at once depends on
// the addresses, too.
#pragma once
#include "math.cuh"
#include "op.cuh"

namespace {

template <class T, class Index> struct Place {
  Index first;   // lane 0's column
  int left;      // columns from there on, if they are few
  int between;   // columns from lane to lane
  bool vectors;  // neighbours and aligned; all of them before the end or none

  __device__ Place(Index f, Index end, int b, bool v)
      : first(f), left(int(end - f < kMany ? end - f : kMany)), between(b), vectors(v) {}

  __device__ Index column(int l) const { return first + l * between; }
  __device__ bool inside(int l) const { return l * between < left; }

  // Lanes beyond the end are 0.
  __device__ __forceinline__ Vec<T> load(const T* row) const {
    const T* p = row + first;
    Vec<T> v = zero<T>();
    if (vectors) {
      if (left > 0) v = load_aligned(p);
    } else {
#pragma unroll
      for (int l = 0; l < Vec<T>::lanes; l++) {
        if (inside(l)) v.v[l] = p[l * between];
      }
    }
    return v;
  }
  __device__ __forceinline__ void store(T* row, Vec<T> v) const {
    T* p = row + first;
    if (vectors) {
      if (left > 0) store_aligned(p, v);
    } else {
#pragma unroll
      for (int l = 0; l < Vec<T>::lanes; l++) {
        if (inside(l)) p[l * between] = v.v[l];
      }
    }
  }
  // v, but the filler in lanes beyond the end.
  __device__ __forceinline__ Vec<T> only(Vec<T> v, T filler = 0) const {
#pragma unroll
    for (int l = 0; l < Vec<T>::lanes; l++) {
      if (!inside(l)) v.v[l] = filler;
    }
    return v;
  }

 private:
  static constexpr int kMany = 1 << 30;
};

}  // namespace
