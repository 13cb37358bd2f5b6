// Accuracy of csrc/cpu/simd/math.h: float at one of every `stride` of the 2^32 inputs against
// double, double at random inputs against long double; infinities, NaN and signs of zero exactly.
// Prints the worst error of each function and a hash of all its results, which is the same for
// every ISA level. Returns 1 if a bound is exceeded.
//
//   g++ <the flags of a level> tests/native/test_math.cpp -o test_math && ./test_math [stride]
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <type_traits>

#include "../../csrc/cpu/simd/math.h"

namespace {

const double kFloatBound = 1, kDoubleBound = 2;  // ulp
bool failed = false;

template <class To, class From> To cast(From x) {
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}

// The gap between numbers of type T around x.
template <class T, class Wide> Wide ulp(Wide x) {
  constexpr int lowest = sizeof(T) == 4 ? -149 : -1074, digits = sizeof(T) == 4 ? 24 : 53;
  int exponent;
  frexp(x, &exponent);
  return ldexp(Wide(1), exponent - digits < lowest ? lowest : exponent - digits);
}
template <> double ulp<float>(double x) {
  u64 exponent = (cast<u64>(x) >> 52 & 2047) - 23, lowest = 1023 - 149;
  return cast<double>((exponent < lowest || exponent > 2047 ? lowest : exponent) << 52);
}

// Error in ulps, infinite if got is wrong in kind. An overflow counts as the next power of two.
template <class T, class Wide> double error(T got, Wide want) {
  const Wide end = ldexp(Wide(1), sizeof(T) == 4 ? 128 : 1024);
  if (want != want || got != got) return want != want && got != got ? 0 : INFINITY;
  if (isinf(want)) return got == want ? 0 : INFINITY;
  if (want == 0) return got == 0 && signbit(got) == signbit(want) ? 0 : INFINITY;
  Wide size = fabs(want) < end ? fabs(want) : end, found = isinf(got) ? end : fabs(Wide(got));
  if (found != 0 && (got < 0) != (want < 0)) return INFINITY;
  return double(fabs(found - size) / ulp<T>(size));
}

template <class T> struct Report {
  const char* name;
  double bound, worst = 0;
  T at = 0;
  u64 hash = 0;

  template <class Wide> void add(T x, T got, Wide want) {
    hash = (hash ^ (got != got ? 1 : cast<std::conditional_t<sizeof(T) == 4, u32, u64>>(got))) *
           0x9e3779b97f4a7c15;
    double e = error(got, want);
    if (e > worst) worst = e, at = x;
  }
  void print() const {
    const char* type = sizeof(T) == 4 ? "float" : "double";
    printf("%-6s %-6s %.4f ulp at %-16a hash %016llx%s\n", name, type, worst, double(at),
           (unsigned long long)hash, worst > bound ? "  FAILED" : "");
    fflush(stdout);
    failed |= worst > bound;
  }
};

u64 mix(u64 x) {
  x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9;
  return x ^ x >> 32;
}

// A random one of each `stride` neighbours, so that no bit is always 0.
template <class F, class Exact> void sweep(const char* name, u64 stride, F f, Exact exact) {
  Report<float> report{name, kFloatBound};
  for (u64 first = 0; first < u64(1) << 32; first += 16 * stride) {
    float x[16], y[16];
    u64 chosen = first + mix(first) % stride;
    for (int i = 0; i < 16; i++) x[i] = cast<float>(u32(chosen + i * stride));
    store(y, f(load(x)));
    for (int i = 0; i < 16; i++) report.add(x[i], y[i], exact(double(x[i])));
  }
  report.print();
}

// Half of the inputs are random bits, half random numbers of -range..range.
template <class F, class Exact>
void sample(const char* name, u64 count, double range, F f, Exact exact) {
  Report<double> report{name, kDoubleBound};
  for (u64 n = 0; n < count; n += 8) {
    double x[8], y[8];
    for (int i = 0; i < 8; i++) {
      u64 random = mix((n + i) * 0x9e3779b97f4a7c15);
      x[i] = n & 8 ? cast<double>(random) : (double(random >> 11) * 0x1p-52 - 1) * range;
    }
    store(y, f(load(x)));
    for (int i = 0; i < 8; i++) report.add(x[i], y[i], exact((long double)x[i]));
  }
  report.print();
}

}  // namespace

int main(int argc, char** argv) {
  u64 stride = argc > 1 ? strtoull(argv[1], nullptr, 10) : 16, count = (u64(1) << 24) / stride;
#define TEST(f, range)                                                                 \
  sweep(#f, stride, [](Vec<float> x) { return f(x); }, [](double x) { return f(x); }); \
  sample(                                                                              \
      #f, count, range, [](Vec<double> x) { return f(x); },                            \
      [](long double x) { return f##l(x); });
  TEST(exp, 750)
  TEST(log, 4)
  TEST(log1p, 4)
  TEST(tanh, 20)
  TEST(erf, 6)
  TEST(erfc, 28)
  return failed;
}
