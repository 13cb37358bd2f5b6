// matmul_ops [NAME]: the kernels of csrc/cuda/matmul*.cu at odd sizes, next to the CPU's in double
// precision. Low precision is compared with the product of rounded factors, so that every bound is
// float32's.
#include <string.h>

#include "matmul.h"
#include "ops_harness.h"

DECLARE_OP(matmul)
DECLARE_OP(column_sum)

extern "C" void fnn_team_barrier(const Team*) {}              // teams of one
extern "C" void fnn_matmul_bf16(const void*, const Team*) {}  // not asked for

namespace {

enum Layout { kRows, kColumns, kPadded, kStrided };  // of a factor in memory
enum Precision { kFull = -1, kTf32 = 0, kBf16 = 1 };

struct Case {
  i64 m, n, k;
  Layout a = kRows, b = kRows;
  Precision precision = kFull;
  int activation = -1;
  bool bias = false, preactivation = false, gate = false, b_sum = false, bytes = false;
  size_t shift = 0;        // elements by which arrays on the device miss an aligned address
  bool same_bits = false;  // as the CPU's
  bool coarse = false;     // numbers that bf16 can hold, and tf32
};

std::string variant;  // of the kernel, for the report

std::string describe(const Case& t) {
  const char* layouts[] = {"", " transposed", " padded", " strided"};
  std::string text = "matmul " + std::to_string(t.m) + "x" + std::to_string(t.n) + "x" +
                     std::to_string(t.k) + ", a" + layouts[t.a] + ", b" + layouts[t.b];
  if (t.precision == kTf32) text += ", tf32";
  if (t.precision == kBf16) text += ", bf16";
  if (t.activation >= 0) text += ", activation " + std::to_string(t.activation);
  if (t.bytes) text += ", bytes";
  return text + variant;
}

// As the kernels round: bf16 to nearest even, tf32 to nearest and away from zero.
double round_as(double x, Precision precision) {
  if (precision == kFull) return x;
  u32 bits = __builtin_bit_cast(u32, float(x));
  bits = precision == kTf32 ? (bits + 0x1000) & ~0x1fffu
                            : (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  return double(__builtin_bit_cast(float, bits));
}

struct Strides {
  i64 rows, columns;
  size_t size;  // elements to the end
};
Strides strides(i64 rows, i64 columns, Layout layout) {
  switch (layout) {
    case kColumns: return {1, rows, size_t(rows * columns)};
    case kPadded: return {columns + 4 - columns % 4, 1, size_t(rows * (columns + 4))};
    case kStrided: return {2 * columns + 1, 2, size_t(rows * (2 * columns + 1))};
    default: return {columns, 1, size_t(rows * columns)};
  }
}

template <class T> matmul_args<T> arguments(Arrays& arrays, const Case& t) {
  const auto factor = [&](size_t size, unsigned seed) {
    std::vector<double> v = Arrays::normal_values(size, seed, 1);
    for (double& x : v) {
      if (t.coarse) x = round_as(x, kBf16);
      if (!arrays.on_device) x = round_as(x, t.precision);
    }
    return arrays.values<T>(v);
  };
  const Strides left = strides(t.m, t.k, t.a), right = strides(t.k, t.n, t.b);
  matmul_args<T> a{};
  a.m = t.m;
  a.n = t.n;
  a.k = t.k;
  a.a_rs = left.rows;
  a.a_cs = left.columns;
  a.b_rs = right.rows;
  a.b_cs = right.columns;
  if (t.bytes) {
    std::vector<double> v(left.size);
    for (size_t i = 0; i < v.size(); i++) v[i] = double(i * 37 % 251);
    a.a_bytes = arrays.values<u8>(v);
    a.a_scale = arrays.values<double>({0.0078125, -1});
  } else {
    a.a = factor(left.size, 1);
  }
  a.b = factor(right.size, 2);
  if (t.bias) a.bias = arrays.normal<T>(size_t(t.n), 3);
  if (t.gate) a.gate = arrays.normal<T>(size_t(t.m * t.n), 4);
  a.activation = t.activation;
  a.precision = t.precision;
  a.y = arrays.output<T>("y", size_t(t.m * t.n));
  if (t.preactivation) a.preactivation = arrays.output<T>("preactivation", size_t(t.m * t.n));
  if (t.b_sum) a.b_sum = arrays.output<T>("b_sum", size_t(t.n));
  return a;
}

// The column sums are those of b itself, whatever the product rounds.
std::vector<Result> exact_results(const Case& t) {
  auto make = [&]<class T>(Arrays& m, T) { return arguments<T>(m, t); };
  std::vector<Result> exact = run_cpu<double>(ENTRIES(matmul, f64), make);
  if (!t.b_sum || t.precision == kFull) return exact;
  Case full = t;
  full.precision = kFull;
  auto make_full = [&]<class T>(Arrays& m, T) { return arguments<T>(m, full); };
  exact.back() = run_cpu<double>(ENTRIES(matmul, f64), make_full).back();
  return exact;
}

// Also by a kernel that the launcher would not choose.
void test(const Case& t, const Entries* kernel = nullptr) {
  constexpr double units = 64;
  auto make = [&]<class T>(Arrays& m, T) { return arguments<T>(m, t); };
  const std::vector<Result> exact = exact_results(t);
  const auto compare = [&](const std::vector<Result>& got, const char* type, double unit) {
    for (size_t r = 0; r < exact.size(); r++) {
      check((describe(t) + " " + exact[r].name + type).c_str(), got[r].values, exact[r].values,
            sizes(exact[r].values), units * unit);
    }
  };
  const auto single = run_cuda<float>(kernel ? *kernel : ENTRIES(matmul, f32), make, t.shift);
  compare(single, " f32", 0x1p-24);
  if (t.k > 256) {  // blocks come in another order when that is random
    const auto again = run_cuda<float>(kernel ? *kernel : ENTRIES(matmul, f32), make, t.shift);
    check((describe(t) + " again").c_str(), again[0].values, single[0].values, {1}, 0);
  }
  if (t.precision == kBf16 || kernel) return;
  if (t.precision == kFull)
    compare(run_cuda<double>(ENTRIES(matmul, f64), make, t.shift), " f64", 0x1p-53);
  if (!t.same_bits) return;
  const auto cpu = run_cpu<float>(ENTRIES(matmul, f32), make);
  for (size_t r = 0; r < cpu.size(); r++) {
    check((describe(t) + " " + cpu[r].name + " as the CPU's").c_str(), single[r].values,
          cpu[r].values, {1}, 0);
  }
}

// Everything that a kernel may meet at the edges of a matrix of that size.
void test_edges(i64 m, i64 n, i64 k, Precision precision, bool same_bits) {
  for (Layout a : {kRows, kColumns}) {
    for (Layout b : {kRows, kColumns}) {
      test(
          {.m = m, .n = n, .k = k, .a = a, .b = b, .precision = precision, .same_bits = same_bits});
    }
  }
  test({.m = m,
        .n = n,
        .k = k,
        .a = kPadded,
        .b = kPadded,
        .precision = precision,
        .activation = 0,
        .bias = true,
        .preactivation = true,
        .same_bits = same_bits});
  test({.m = m,
        .n = n,
        .k = k,
        .a = kStrided,
        .b = kStrided,
        .precision = precision,
        .activation = 4,
        .gate = true,
        .same_bits = same_bits});
  test({.m = m,
        .n = n,
        .k = k,
        .precision = precision,
        .activation = 5,
        .bias = true,
        .b_sum = true,
        .shift = 1,
        .same_bits = false});
  test({.m = m,
        .n = n,
        .k = k,
        .a = kColumns,
        .precision = precision,
        .b_sum = true,
        .bytes = true,
        .same_bits = same_bits});
}

void test_simt() {
  test_edges(70, 90, 50, kFull, true);
  for (Layout a : {kRows, kColumns})  // aligned rows, two chains
    test({.m = 68, .n = 72, .k = 512, .a = a, .b = a, .b_sum = a == kRows, .same_bits = true});
  for (auto [m, n, k] : {std::tuple(20, 20, 0), std::tuple(0, 20, 5), std::tuple(20, 0, 5)})
    test({.m = m, .n = n, .k = k, .bias = true, .b_sum = m > 0, .same_bits = true});
  for (int activation = 1; activation < 9; activation++) {
    test({.m = 20,
          .n = activation % 2 ? 31 : 32,
          .k = 9,
          .activation = activation,
          .bias = true,
          .preactivation = activation % 3 == 0,
          .same_bits = true});
  }
  test({.m = 40,
        .n = 16790,
        .k = 9,
        .b = kColumns,
        .activation = 0,
        .bias = true,
        .same_bits = true});  // large tiles
}

void test_split() {
  test({.m = 70, .n = 20, .k = 1030, .bias = true, .b_sum = true});
  test({.m = 33,
        .n = 68,
        .k = 1600,
        .a = kColumns,
        .activation = 1,
        .bias = true,
        .preactivation = true,
        .b_sum = true});
}

void test_skinny() {
  for (Layout b : {kRows, kColumns}) {
    for (i64 few : {1, 3, 16}) {
      test({.m = few, .n = 70, .k = 300, .b = b, .bias = true, .b_sum = b == kRows});
      test({.m = few,
            .n = 68,
            .k = 52,
            .a = kColumns,
            .b = b,
            .activation = 4,
            .bias = true,
            .preactivation = true,
            .shift = few == 3});
      test({.m = 50, .n = few, .k = 70, .a = b, .gate = true, .b_sum = true});
      test({.m = 52, .n = few, .k = 70, .a = b, .b = kColumns, .activation = 0, .bias = true});
    }
    test({.m = 5, .n = 70, .k = 300, .a = kStrided, .b = b, .precision = kBf16, .bias = true});
    test({.m = 3, .n = 20, .k = 2100, .b = b, .activation = 0, .bias = true});  // a long k
  }
  test({.m = 1, .n = 33, .k = 300, .b = kRows, .bytes = true});
  test({.m = 40, .n = 10, .k = 70, .bytes = true});
  test({.m = 3, .n = 0, .k = 5});
  test({.m = 1, .n = 1, .k = 0, .bias = true, .b_sum = true});
}

void test_mma() {
  for (Precision precision : {kTf32, kBf16}) {
    test_edges(70, 90, 50, precision, false);
    test({.m = 68, .n = 72, .k = 100, .b = kColumns, .precision = precision});  // aligned
    test({.m = 68, .n = 72, .k = 100, .a = kColumns, .precision = precision, .b_sum = true});
    test({.m = 70,
          .n = 20,
          .k = 1030,
          .precision = precision,
          .activation = 0,
          .bias = true,
          .b_sum = true});  // k is cut
    test({.m = 40,
          .n = 16790,
          .k = 9,
          .b = precision == kTf32 ? kRows : kColumns,
          .precision = precision});  // large tiles
  }
}

// Three products of tf32 in place of one of float32.
cudaError_t launch_tf32x3(const void* args, const CudaCall* call) {
  return mma_matmul(*static_cast<const matmul_args<float>*>(args), *call, Mma::tf32x3);
}
i64 workspace_tf32x3(const void* args) {
  return mma_matmul_workspace(*static_cast<const matmul_args<float>*>(args), Mma::tf32x3);
}

double mean_error(const std::vector<Result>& got, const std::vector<Result>& exact) {
  double sum = 0;
  for (size_t i = 0; i < exact[0].values.size(); i++)
    sum += fabs(got[0].values[i] - exact[0].values[i]);
  return sum / double(exact[0].values.size());
}

// As accurate as the ordinary cores, on average and at worst.
void test_tf32x3() {
  const Entries three{launch_tf32x3, workspace_tf32x3, nullptr};
  for (auto [a, b] : {std::pair(kRows, kRows), std::pair(kRows, kColumns),
                      std::pair(kColumns, kRows), std::pair(kStrided, kRows)}) {
    const Case t{.m = 68, .n = 36, .k = 600, .a = a, .b = b, .b_sum = b == kRows};
    auto make = [&]<class T>(Arrays& m, T) { return arguments<T>(m, t); };
    const auto exact = run_cpu<double>(ENTRIES(matmul, f64), make);
    const auto plain = run_cuda<float>(ENTRIES(matmul, f32), make, 0);
    const auto split = run_cuda<float>(three, make, 0);
    for (size_t r = 0; r < exact.size(); r++) {
      check((describe(t) + " " + exact[r].name + " by 3 x tf32").c_str(), split[r].values,
            exact[r].values, sizes(exact[r].values), 64 * 0x1p-24);
    }
    check("mean error of 3 x tf32, in ordinary ones", std::vector<double>{0},
          {mean_error(split, exact) / mean_error(plain, exact)}, {1}, 1.25);
  }
}

Sm90aTile hopper_tile;
cudaError_t launch_hopper(const void* args, const CudaCall* call) {
  return sm90a_matmul(*static_cast<const matmul_args<float>*>(args), *call, hopper_tile);
}
i64 workspace_hopper(const void* args) {
  return sm90a_matmul_workspace(*static_cast<const matmul_args<float>*>(args), hopper_tile);
}

// In tf32 the factors that TMA reads in place are truncated, not rounded: there the numbers are
// such that neither changes them.
void test_sm90a() {
  const Entries hopper{launch_hopper, workspace_hopper, nullptr};
  for (Precision precision : {kTf32, kBf16}) {
    for (int m : {64, 128}) {
      for (int n : {64, 128, 192, 256}) {
        hopper_tile = {m, n, 1};
        variant = ", tile " + std::to_string(m) + "x" + std::to_string(n);
        test({.m = 150,
              .n = n + 22,
              .k = 90,
              .b = kColumns,
              .precision = precision,
              .activation = 0,
              .bias = true,
              .preactivation = true},
             &hopper);
      }
    }
    variant = ", wgmma";
    hopper_tile = {128, 64, 1};
    for (Layout a : {kRows, kColumns, kPadded, kStrided}) {
      test({.m = 70,
            .n = 91,
            .k = 50,
            .a = a,
            .b = a,
            .precision = precision,
            .activation = a == kColumns ? 2 : -1,
            .gate = true,
            .coarse = a == kPadded},
           &hopper);
    }
    test({.m = 70,
          .n = 90,
          .k = 64,
          .b = kColumns,
          .precision = precision,
          .activation = 5,
          .bytes = true,
          .coarse = true},
         &hopper);
    hopper_tile = {128, 128, 3};
    test({.m = 130,
          .n = 140,
          .k = 300,
          .a = kColumns,
          .precision = precision,
          .activation = 1,
          .bias = true},
         &hopper);  // k is cut
    hopper_tile = {64, 64, 1};
    test({.m = 1000, .n = 640, .k = 20, .precision = precision, .coarse = true},
         &hopper);  // several tiles a block
  }
}

// Arrays of 16 bits: the product of the numbers that they hold, rounded once.
template <class E>
void test_half(const Case& t, const char* type, double unit, const Entries* kernel = nullptr) {
  const auto rounded = [](double x) { return double(float(E(float(x)))); };
  auto make = [&]<class T>(Arrays& arrays, T) {
    const Strides left = strides(t.m, t.k, t.a), right = strides(t.k, t.n, t.b);
    const auto array = [&](size_t size, unsigned seed) -> const T* {
      std::vector<double> v = Arrays::normal_values(size, seed, 1);
      for (double& x : v) x = rounded(x);
      if (!arrays.on_device) return arrays.values<T>(v);
      return reinterpret_cast<const T*>(arrays.values<E>(v));
    };
    const auto result = [&](const char* name) -> T* {
      const size_t size = size_t(t.m * t.n);
      if (!arrays.on_device) return arrays.output<T>(name, size);
      return reinterpret_cast<T*>(arrays.output<E>(name, size));
    };
    matmul_args<T> a{};
    a.m = t.m;
    a.n = t.n;
    a.k = t.k;
    a.a_rs = left.rows;
    a.a_cs = left.columns;
    a.b_rs = right.rows;
    a.b_cs = right.columns;
    a.a = array(left.size, 1);
    a.b = array(right.size, 2);
    if (t.bias) a.bias = array(size_t(t.n), 3);
    a.activation = t.activation;
    a.precision = kFull;
    a.halves = !arrays.on_device ? 0 : std::is_same_v<E, __nv_bfloat16> ? 1 : 2;
    a.y = result("y");
    if (t.preactivation) a.preactivation = result("preactivation");
    return a;
  };
  const std::vector<Result> exact = run_cpu<double>(ENTRIES(matmul, f64), make);
  const auto got = run_cuda<float>(kernel ? *kernel : ENTRIES(matmul, f32), make, t.shift);
  for (size_t r = 0; r < exact.size(); r++) {
    check((describe(t) + " " + exact[r].name + type).c_str(), got[r].values, exact[r].values,
          sizes(exact[r].values), 1.01 * unit);
  }
}

void test_halves() {
  const auto both = [](const Case& t) {
    test_half<__nv_bfloat16>(t, " bfloat16", 0x1p-8);
    test_half<__half>(t, " float16", 0x1p-11);
  };
  for (Layout a : {kRows, kColumns, kStrided}) {
    for (Layout b : {kRows, kColumns, kStrided}) both({.m = 70, .n = 90, .k = 50, .a = a, .b = b});
  }
  for (Layout a : {kRows, kColumns}) {  // whole vectors
    for (Layout b : {kRows, kColumns}) {
      both({.m = 72, .n = 136, .k = 168, .a = a, .b = b, .activation = 0, .bias = true});
      both({.m = 72, .n = 136, .k = 168, .a = a, .b = b, .bias = true, .shift = 1});
    }
  }
  for (int activation = 0; activation < 9; activation++)
    both({.m = 5, .n = 31, .k = 9, .activation = activation, .bias = true, .preactivation = true});
  both({.m = 20, .n = 70, .k = 1300, .b = kColumns, .activation = 5, .bias = true});  // k is cut
  both({.m = 40, .n = 16790, .k = 40});                                               // large tiles
  both({.m = 136, .n = 16640, .k = 8, .a = kColumns, .b = kColumns, .preactivation = true});
  both({.m = 1, .n = 1, .k = 1});
  both({.m = 3, .n = 2, .k = 0, .activation = 1, .bias = true});
  both({.m = 0, .n = 2, .k = 3});
}

void test_sm90a_halves() {
  const Entries hopper{launch_hopper, workspace_hopper, nullptr};
  const auto both = [&](Sm90aTile tile, const Case& t) {
    hopper_tile = tile;
    variant = ", wgmma " + std::to_string(tile.m) + "x" + std::to_string(tile.n);
    test_half<__nv_bfloat16>(t, " bfloat16", 0x1p-8, &hopper);
    test_half<__half>(t, " float16", 0x1p-11, &hopper);
  };
  for (int n : {64, 128, 192, 256})
    both({128, n, 1}, {.m = 150, .n = n + 22, .k = 90, .activation = 0, .bias = true});
  for (Layout a : {kRows, kColumns, kPadded, kStrided}) {
    for (Layout b : {kRows, kColumns})
      both({64, 64, 1}, {.m = 70, .n = 91, .k = 72, .a = a, .b = b, .preactivation = true});
  }
  both({128, 128, 3}, {.m = 130, .n = 140, .k = 304, .b = kColumns, .bias = true});
  both({64, 64, 1}, {.m = 70, .n = 66, .k = 64, .b = kColumns, .shift = 1});
}

// What the launcher chooses on Hopper: few tiles of a long k, many of a short one.
void test_choice() {
  matmul_args<float> a{};
  a.precision = kBf16;
  for (auto [m, n, k, least, most] : {std::tuple<i64, i64, i64, i64, i64>(784, 512, 60000, 2, 16),
                                      {60000, 512, 784, 1, 1},
                                      {8192, 8192, 8192, 1, 1}}) {
    a.m = m;
    a.n = n;
    a.k = k;
    const Sm90aTile tile = sm90a_tile(a);
    const bool ok = tile.splits >= least && tile.splits <= most && sm90a_matmul_fits(a);
    failures += !ok;
    printf("%s a tile of %dx%d, k in %d, for %dx%dx%d\n", ok ? "ok  " : "FAIL", tile.m, tile.n,
           int(tile.splits), int(m), int(n), int(k));
  }
}

struct Test {
  const char* name;
  void (*run)();
};
const Test tests[] = {{"simt", test_simt},     {"split", test_split},
                      {"skinny", test_skinny}, {"mma", test_mma},
                      {"tf32x3", test_tf32x3}, {"sm90a", test_sm90a},
                      {"halves", test_halves}, {"sm90a_halves", test_sm90a_halves},
                      {"choice", test_choice}};

}  // namespace

int main(int argc, char** argv) {
  for (const Test& test : tests) {
    variant.clear();
    if (argc < 2 || !strcmp(argv[1], test.name)) test.run();
  }
  return failures ? 1 : 0;
}
