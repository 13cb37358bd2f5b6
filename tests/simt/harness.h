// What the programs of tests/simt share: arrays on the device, random numbers, and a comparison
// with a result in double precision. Compiles with g++ (emulator) and with nvcc.
#pragma once
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <random>
#include <vector>

#include "simt.cuh"

inline void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  printf("FAIL %s: %s\n", what, cudaGetErrorString(error));
  exit(1);
}
#define OK(call) require(call, #call)

// An array in device memory, uninitialised or a copy.
template <class T> class Device {
 public:
  explicit Device(size_t count) : count_(count) { OK(cudaMalloc(&p_, count * sizeof(T))); }
  explicit Device(const std::vector<T>& v) : Device(v.size()) {
    OK(cudaMemcpy(p_, v.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  Device(const Device&) = delete;
  ~Device() { cudaFree(p_); }

  operator T*() const { return p_; }
  T* get() const { return p_; }
  std::vector<T> copy() const {
    std::vector<T> v(count_);
    OK(cudaMemcpy(v.data(), p_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }

 private:
  T* p_ = nullptr;
  size_t count_;
};

template <class T = float> std::vector<T> random_normal(size_t count, unsigned seed = 7) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  std::vector<T> v(count);
  for (T& x : v) x = static_cast<T>(static_cast<float>(normal(generator)));
  return v;
}

inline int failures = 0;

// Passes if each element is within bound * magnitude of the expected one (one magnitude for all, or
// one for each).
template <class T>
void check(const char* what, const std::vector<T>& got, const std::vector<double>& expected,
           const std::vector<double>& magnitude, double bound) {
  double worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    const double m = magnitude.size() == 1 ? magnitude[0] : magnitude[i];
    const double value = static_cast<double>(got[i]);
    const bool same = value == expected[i] || (value != value && expected[i] != expected[i]);
    const double error = same ? 0 : fabs(value - expected[i]) / (m + 1e-300);
    if (error <= worst) continue;  // false for NaN
    worst = error;
    at = i;
    if (error != error) break;
  }
  const bool ok = worst <= bound && got.size() == expected.size();
  failures += !ok;
  printf("%s %-44s worst %.2e of %.2e allowed", ok ? "ok  " : "FAIL", what, worst, bound);
  if (!ok) {
    printf(" at %zu: got %.9g, expected %.9g", at, static_cast<double>(got[at]), expected[at]);
  }
  printf("\n");
}

struct Product {
  std::vector<double> value, magnitude;
};

// a (m x k) times b (k x n), or times the transpose of b (n x k).
template <class T>
Product multiply(const std::vector<T>& a, const std::vector<T>& b, int m, int n, int k,
                 bool transpose_b = false) {
  const size_t size = size_t(m) * n;
  Product c{std::vector<double>(size), std::vector<double>(size)};
  for (int i = 0; i < m; i++) {
    for (int l = 0; l < k; l++) {
      for (int j = 0; j < n; j++) {
        const T right = transpose_b ? b[size_t(j) * k + l] : b[size_t(l) * n + j];
        const double p = double(float(a[size_t(i) * k + l])) * double(float(right));
        c.value[size_t(i) * n + j] += p;
        c.magnitude[size_t(i) * n + j] += fabs(p);
      }
    }
  }
  return c;
}
