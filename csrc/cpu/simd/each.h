// Element-wise loops. The body is written once, for a place `at` in the arrays, and compiles to a
// main loop over whole Vecs and a masked remainder.
#pragma once
#include "vec.h"

namespace {

template <class T> struct WholeVec {
  i64 i;
  Vec<T> load(const T* p) const { return ::load(p + i); }
  void store(T* p, Vec<T> v) const { ::store(p + i, v); }
  Vec<T> only(Vec<T> v) const { return v; }
};

template <class T> struct PartVec {
  i64 i, n;
  Vec<T> load(const T* p) const { return load_n(p + i, n); }
  void store(T* p, Vec<T> v) const { store_n(p + i, v, n); }
  Vec<T> only(Vec<T> v) const { return select(first_n<T>(n), v, zero<T>()); }  // 0 beyond the end
};

// f(at) for begin..end.
template <class T, class F> FNN_INLINE void each_vec(i64 begin, i64 end, F&& f) {
  i64 i = begin;
  for (; i + Vec<T>::lanes <= end; i += Vec<T>::lanes) f(WholeVec<T>{i});
  if (i < end) f(PartVec<T>{i, end - i});
}

// Likewise, with p aligned in all but the first and last place: Vecs that straddle cache lines cost
// a third of the memory bandwidth, and arrays of one origin are usually misaligned alike.
template <class T, class F>
FNN_INLINE void each_aligned_vec(const T* p, i64 begin, i64 end, F&& f) {
  i64 head = i64(-uintptr_t(p + begin) % sizeof(Vec<T>) / sizeof(T));
  if (head > end - begin) head = end - begin;
  if (head > 0) f(PartVec<T>{begin, head});
  each_vec<T>(begin + head, end, f);
}

// The first place of begin..end where the mask f(at) is set, else end.
template <class T, class F> FNN_INLINE i64 find_vec(i64 begin, i64 end, F&& f) {
  i64 i = begin;
  for (; i + Vec<T>::lanes <= end; i += Vec<T>::lanes) {
    Mask<T> found = f(WholeVec<T>{i});
    if (any(found)) return i + __builtin_ctz(mask_bits(found));
  }
  if (i == end) return end;
  unsigned found = mask_bits(f(PartVec<T>{i, end - i}) & first_n<T>(end - i));
  return found ? i + __builtin_ctz(found) : end;
}

}  // namespace
