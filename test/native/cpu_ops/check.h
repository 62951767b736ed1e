// What the checks of the CPU operations share: reproducible data, poisoned outputs, comparison with a float64
// reference.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/device.h"
#include "ops/kernels.h"

using Floats = std::vector<float>;
using Doubles = std::vector<double>;
constexpr auto F32 = lgd::DType::f32;

struct Check {
  lgd::Device device;
  std::mt19937 random{12345};
  int cases = 0, failures = 0;

  explicit Check(int threads) : device(lgd::DeviceKind::cpu, 0, threads) {}

  Floats normal(int64_t count, float mean = 0, float deviation = 1) {
    std::normal_distribution<float> draw(mean, deviation);
    Floats values(count);
    for (auto& value : values) value = draw(random);
    return values;
  }

  // An output that every element of has to be written.
  static Floats poisoned(int64_t count) { return Floats(count, std::numeric_limits<float>::quiet_NaN()); }

  // |found - expected| <= tolerance * |expected|, in the Euclidean norm; an element that is far off fails as well.
  void equal(const std::string& what, const Floats& found, const Doubles& expected, double tolerance = 2e-6) {
    ++cases;
    double difference = 0, size = 0, worst = 0, largest = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double d = std::abs(found[i] - expected[i]);
      difference += d * d;
      size += expected[i] * expected[i];
      if (!(d <= worst)) worst = d;
      largest = std::max(largest, std::abs(expected[i]));
    }
    const bool good = found.size() == expected.size() && std::sqrt(difference) <= tolerance * std::sqrt(size) + 1e-30 &&
                      worst <= 20 * tolerance * largest + 1e-30;
    if (good) return;
    ++failures;
    std::printf("FAIL %s: relative error %.3g, largest difference %.3g of %.3g\n", what.c_str(),
                std::sqrt(difference / (size + 1e-300)), worst, largest);
  }

  void identical(const std::string& what, const Floats& a, const Floats& b) {
    ++cases;
    if (a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * 4) == 0) return;
    ++failures;
    std::printf("FAIL %s: bits differ\n", what.c_str());
  }
};

double reference_act(lgd::Act act, double u);
double reference_slope(lgd::Act act, double u);
inline constexpr lgd::Act all_acts[] = {lgd::Act::none,      lgd::Act::relu,    lgd::Act::relu6,      lgd::Act::silu,
                                        lgd::Act::hardswish, lgd::Act::sigmoid, lgd::Act::hardsigmoid};

lgd::ConvShape conv_shape(int n, int h, int w, int c, int k, int kernel, int stride, int pad, int dilation = 1);
std::string name_of(const lgd::ConvShape& shape);

void check_conv(Check& check);
void check_depthwise(Check& check);
void check_norm(Check& check);
void check_elements(Check& check);
void check_pool(Check& check);
void check_transformer(Check& check);
void bench(int threads, const std::string& model);
