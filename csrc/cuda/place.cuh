// Where the lanes of a thread's Vec lie in a row. Where rows consist of whole Vecs, they are
// neighbours, else a stride apart, so that the threads' first lanes are neighbours: that depends on
// the length of a row alone, and so do the bits. Whether 16 bytes can be loaded at once depends on
// the addresses, too.
#pragma once
#include "math.cuh"
#include "op.cuh"

namespace {

template <class T, class Index> struct Place {
  Index first, between, end;
  bool vectors;  // neighbours and aligned; all of them before the end or none

  __device__ Index column(int l) const { return first + l * between; }
  __device__ bool inside(int l) const { return column(l) < end; }

  // Lanes beyond the end are 0.
  __device__ __forceinline__ Vec<T> load(const T* row) const {
    Vec<T> v = zero<T>();
    if (vectors) {
      if (first < end) v = load_aligned(row + first);
    } else {
#pragma unroll
      for (int l = 0; l < Vec<T>::lanes; l++) {
        if (inside(l)) v.v[l] = row[column(l)];
      }
    }
    return v;
  }
  __device__ __forceinline__ void store(T* row, Vec<T> v) const {
    if (vectors) {
      if (first < end) store_aligned(row + first, v);
    } else {
#pragma unroll
      for (int l = 0; l < Vec<T>::lanes; l++) {
        if (inside(l)) row[column(l)] = v.v[l];
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
};

}  // namespace
