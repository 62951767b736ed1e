// How tensor cores add: not as float32 additions one after the other, and not rounded to nearest. A group of products and
// the sum so far are brought to the exponent of the largest of them, cut off (towards zero) `fraction` bits behind its
// point, added exactly, and the total is cut off to float32. So sums of products that all have one sign come out too
// small, the more so the longer they are.
// Source: Fasi, Higham, Mikaitis and Pranesh 2021, "Numerical behavior of NVIDIA tensor cores"; Khattak and Mikaitis
// 2025, "Accurate models of NVIDIA tensor cores" (arXiv 2512.07004); Xie et al. 2025, github.com/microsoft/MMA-Sim.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace lgd::emulation {

struct TensorCore {
  int group;     // products that are added at once
  int fraction;  // bits that are kept behind the point of the largest of them
};
constexpr TensorCore ampere{8, 24};   // and Ada
constexpr TensorCore hopper{16, 25};  // and Blackwell

// Whose arithmetic the emulated GPU has: ampere's, the least exact that the kernels can meet, unless its code is for
// sm_90 or later (ptx/module.cpp).
inline TensorCore tensor_core = ampere;

constexpr int product_depth = 16;   // k of every product of a warp or a warpgroup
constexpr int product_columns = 8;  // sums that are formed side by side

// The exponent below which values of a format lose digits.
constexpr int least_bfloat16 = -126, least_float16 = -14;

using Depth = float[product_depth];
using Columns = float[product_columns];

// Of a number that is not 0: that of its leading bit, at least `least`. Of 0: less than that of any product.
inline int exponent_of(float value, int least) {
  constexpr int none = -400;
  return value == 0 ? none : std::max(int(std::bit_cast<uint32_t>(value) >> 23 & 255) - 127, least);
}

inline double power_of_two(int exponent) { return std::bit_cast<double>(uint64_t(1023 + exponent) << 52); }

// Towards zero.
inline float cut_off(double value) {
  if (std::fabs(value) < 0x1p-126) return float(std::trunc(value * 0x1p149) * 0x1p-149);
  return float(std::bit_cast<double>(std::bit_cast<uint64_t>(value) & ~((uint64_t(1) << 29) - 1)));
}

inline bool all_finite(const float* values, int count) {
  bool all = true;
  for (int i = 0; i < count; ++i) all &= (std::bit_cast<uint32_t>(values[i]) >> 23 & 255) != 255;
  return all;
}

// Of one row, where all is finite.
[[gnu::optimize("O3")]] inline void add_row(const TensorCore& core, const Depth& left, const int* left_exponent,
                                            const Columns* right, const int (*right_exponent)[product_columns],
                                            Columns& sums) {
  constexpr int n = product_columns;
  for (int first = 0; first < product_depth; first += core.group) {
    int largest[n];
    for (int column = 0; column < n; ++column) largest[column] = std::max(exponent_of(sums[column], -126), -252);
    for (int k = first; k < first + core.group; ++k)
      for (int column = 0; column < n; ++column)
        largest[column] = std::max(largest[column], left_exponent[k] + right_exponent[k][column]);
    double units[n], total[n];
    for (int column = 0; column < n; ++column) {
      units[column] = power_of_two(core.fraction - largest[column]);
      total[column] = int32_t(double(sums[column]) * units[column]);
    }
    for (int k = first; k < first + core.group; ++k)
      for (int column = 0; column < n; ++column)
        total[column] += int32_t(double(left[k]) * double(right[k][column]) * units[column]);
    for (int column = 0; column < n; ++column) sums[column] = cut_off(total[column] / units[column]);
  }
}

// sums[row][column] += left[row][k] * right[k][column], over k, for `rows` rows.
[[gnu::optimize("O3")]] inline void add_products(const TensorCore& core, int least_exponent, int rows,
                                                 const Depth* left, const Columns* right, Columns* sums) {
  constexpr int n = product_columns;
  if (!all_finite(*left, rows * product_depth) || !all_finite(*right, product_depth * n) ||
      !all_finite(*sums, rows * n)) {
    for (int row = 0; row < rows; ++row)
      for (int k = 0; k < product_depth; ++k)
        for (int column = 0; column < n; ++column) sums[row][column] += left[row][k] * right[k][column];
    return;
  }
  int right_exponent[product_depth][n];
  for (int k = 0; k < product_depth; ++k)
    for (int column = 0; column < n; ++column)
      right_exponent[k][column] = exponent_of(right[k][column], least_exponent);
  for (int row = 0; row < rows; ++row) {
    int left_exponent[product_depth];
    for (int k = 0; k < product_depth; ++k) left_exponent[k] = exponent_of(left[row][k], least_exponent);
    add_row(core, left[row], left_exponent, right, right_exponent, sums[row]);
  }
}

}  // namespace lgd::emulation
