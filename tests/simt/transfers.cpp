// The kernels of csrc/cuda/device: copies between layouts, indices, numbers.
#include <stdint.h>
#include <string.h>

#include "device/transfer.h"
#include "harness.h"

using namespace fnn;

namespace {

std::vector<double> wide(const std::vector<i64>& v) { return {v.begin(), v.end()}; }

// A transposed, reversed and stepped window to a C-contiguous array, and back.
template <class Item> void copies(const char* name, int shift) {
  constexpr int item = sizeof(Item);
  const i64 rows = 5, columns = 70, pitch = 2 * rows * item;
  std::vector<char> memory(size_t(columns * pitch + 8));
  for (size_t i = 0; i < memory.size(); i++) memory[i] = char(i * 37);
  std::vector<char> other = memory;
  for (char& c : other) c = char(~c);
  const Device<char> strided(memory), flat(size_t(rows * columns * item)), back(other);
  CudaCopy copy{};
  copy.to = flat;
  copy.from = strided + shift + (columns - 1) * pitch;
  copy.ndim = 3;
  copy.item = item;
  const i64 shape[] = {rows, 1, columns}, to[] = {columns * item, 1, item};
  const i64 from[] = {2 * item, 0, -pitch};
  memcpy(copy.shape, shape, sizeof shape);
  memcpy(copy.to_strides, to, sizeof to);
  memcpy(copy.from_strides, from, sizeof from);
  OK(launch_copy(copy, nullptr));
  const std::vector<char> got = flat.copy();
  std::vector<double> expected;
  for (i64 r = 0; r < rows; r++) {
    for (i64 c = 0; c < columns; c++) {
      for (int b = 0; b < item; b++) {
        const size_t at = size_t(shift + (columns - 1 - c) * pitch + r * 2 * item + b);
        expected.push_back(memory[at]);
        other[at] = memory[at];
      }
    }
  }
  check((std::string(name) + " to contiguous").c_str(), got, expected, {1}, 0);

  std::swap(copy.to, const_cast<char*&>(copy.from));
  std::swap(copy.to_strides, copy.from_strides);
  copy.to = back + (copy.to - strided.get());
  OK(launch_copy(copy, nullptr));
  check((std::string(name) + " and back").c_str(), back.copy(),
        std::vector<double>(other.begin(), other.end()), {1}, 0);
}

template <class Integer> void indices(const char* name, char kind, std::vector<double> values) {
  const i64 n = i64(values.size());
  std::vector<Integer> stepped(size_t(2 * n));
  for (i64 i = 0; i < n; i++) stepped[size_t(2 * i)] = Integer(values[size_t(i)]);
  const Device<Integer> from(stepped);
  const Device<i64> to{size_t(n)};
  const Device<IndexNote> note(std::vector<IndexNote>{{~0ull, -1, -1}});
  const Device<int> there(std::vector<int>{0});
  const CudaIndices a{to,
                      reinterpret_cast<const char*>(from.get()),
                      {kind, int(sizeof(Integer))},
                      n,
                      2 * i64(sizeof(Integer)),
                      10,
                      -7,
                      true,
                      true,
                      3};
  OK(launch_indices(a, {note, there}, nullptr));
  check(name, wide(to.copy()), values, {1}, 0);
  const IndexNote found = note.copy()[0];
  std::vector<double> expected{0xFFFFFFFF, 0xFFFFFFFF, -1, -1};
  for (i64 i = n - 1; i >= 0; i--) {
    const double v = values[size_t(i)];
    if ((v < 0 || v >= 10) && v != -7) expected = {double(i), v - INT32_MIN, 10, 3};
  }
  check((std::string(name) + ": the first out of range").c_str(),
        std::vector<double>{double(found.first >> 32), double(found.first & 0xFFFFFFFF),
                            double(found.limit), double(found.op)},
        expected, {1}, 0);
  check((std::string(name) + ": whether there is one").c_str(), there.copy(),
        {expected[2] >= 0 ? 1. : 0.}, {1}, 0);
}

void numbers() {
  const Device<float> rate(std::vector<float>{0.25f});
  const Device<int32_t> count(std::vector<int32_t>{-9});
  const Device<u64> to{4};
  CudaNumbers all{to,
                  4,
                  {{true, __builtin_bit_cast(u64, 1.5), nullptr, {}},
                   {true, 0, rate.get(), {'f', 4}},
                   {true, 0, count.get(), {'i', 4}},
                   {false, 0, count.get(), {'i', 4}}}};
  OK(launch_numbers(all, nullptr));
  const std::vector<u64> got = to.copy();
  std::vector<double> values;
  for (int i = 0; i < 3; i++) values.push_back(__builtin_bit_cast(double, got[size_t(i)]));
  values.push_back(double(i64(got[3])));
  check("numbers", values, {1.5, 0.25, -9, -9}, {1}, 0);
}

}  // namespace

int main() {
  copies<uint8_t>("1 byte", 0);
  copies<uint16_t>("2 bytes", 0);
  copies<uint32_t>("4 bytes", 0);
  copies<uint64_t>("8 bytes", 0);
  copies<uint64_t>("8 bytes, misaligned", 3);
  std::vector<double> some;
  for (int i = 0; i < 300; i++) some.push_back(i % 10);
  indices<uint8_t>("u8", 'u', some);
  some[200] = some[299] = 10;
  indices<int32_t>("i32", 'i', some);
  indices<uint64_t>("u64", 'u', some);
  some[3] = -7;
  some[77] = -8;
  indices<int8_t>("i8", 'i', some);
  indices<int16_t>("i16", 'i', some);
  indices<i64>("i64", 'i', some);
  numbers();
  return failures ? 1 : 0;
}
