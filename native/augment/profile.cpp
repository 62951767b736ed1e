// ICC.1:2010 (10.6 curveType, 10.16 parametricCurveType, F.3 three-component matrix-based profiles): linear =
// curve(device), XYZ = matrix * linear, both relative to D50, as sRGB's own matrix is once it is adapted (Bradford).
// Perceptual and relative intents are the same for such profiles.
#include "augment/profile.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "core/error.h"

namespace lgd {

namespace {

constexpr int encode_steps = 1 << 14;  // of linear light: the darkest are a fifth of a level apart

struct Conversion {
  std::array<std::array<float, 256>, 3> linear;  // by channel and value
  float matrix[3][3];                            // linear device to linear sRGB
};

class Profile {
 public:
  Profile(const uint8_t* data, size_t size) : data_(data), size_(size) {
    LGD_CHECK(size >= 132 && tag(16) == "RGB " && tag(20) == "XYZ ", "BAD_IMAGE",
              "its colour profile is not one of RGB by a matrix");
    LGD_CHECK(find("A2B0") == 0, "BAD_IMAGE", "its colour profile is a table");
  }

  Conversion conversion() const {
    // XYZ relative to D50 to linear sRGB.
    static constexpr double from_xyz[3][3] = {
        {3.1338561, -1.6168667, -0.4906146}, {-0.9787684, 1.9161415, 0.0334540}, {0.0719453, -0.2289914, 1.4052427}};
    static constexpr const char* colourants[] = {"rXYZ", "gXYZ", "bXYZ"};
    static constexpr const char* curves[] = {"rTRC", "gTRC", "bTRC"};
    Conversion out;
    for (int c = 0; c < 3; ++c) {
      const size_t place = need(colourants[c], "XYZ ");
      for (int row = 0; row < 3; ++row) {
        double sum = 0;
        for (int i = 0; i < 3; ++i) sum += from_xyz[row][i] * fixed(place + 8 + 4 * i);
        out.matrix[row][c] = float(sum);
      }
      const size_t curve = find(curves[c]);
      for (int value = 0; value < 256; ++value) out.linear[c][value] = float(evaluate(curve, value / 255.0));
      // Colour management moves such a black to sRGB's own (black point compensation), and everything with it.
      LGD_CHECK(std::abs(out.linear[c][0]) < 1e-4f, "BAD_IMAGE", "its colour profile has a black that is not black");
    }
    return out;
  }

 private:
  uint32_t u32(size_t at) const {
    LGD_CHECK(at <= size_ && size_ - at >= 4, "BAD_IMAGE", "its colour profile is cut off");
    return uint32_t(data_[at]) << 24 | uint32_t(data_[at + 1]) << 16 | uint32_t(data_[at + 2]) << 8 | data_[at + 3];
  }
  uint32_t u16(size_t at) const {
    LGD_CHECK(at <= size_ && size_ - at >= 2, "BAD_IMAGE", "its colour profile is cut off");
    return uint32_t(data_[at]) << 8 | data_[at + 1];
  }
  double fixed(size_t at) const { return int32_t(u32(at)) / 65536.0; }
  std::string tag(size_t at) const {
    u32(at);
    return {reinterpret_cast<const char*>(data_) + at, 4};
  }

  // Where a tag's data begin; 0 without it.
  size_t find(const char* name) const {
    const uint32_t count = std::min<uint32_t>(u32(128), 256);
    for (uint32_t i = 0; i < count; ++i)
      if (tag(132 + 12 * i) == name) return u32(132 + 12 * i + 4);
    return 0;
  }
  size_t need(const char* name, const char* type) const {
    const size_t place = find(name);
    LGD_CHECK(place != 0 && tag(place) == type, "BAD_IMAGE", "its colour profile has no ", name);
    return place;
  }

  double evaluate(size_t curve, double x) const {
    LGD_CHECK(curve != 0, "BAD_IMAGE", "its colour profile lacks a curve");
    if (tag(curve) == "curv") return evaluate_table(curve, x);
    LGD_CHECK(tag(curve) == "para", "BAD_IMAGE", "its colour profile has a curve of another kind");
    return evaluate_formula(curve, x);
  }

  double evaluate_table(size_t curve, double x) const {
    const uint32_t count = u32(curve + 8);
    if (count == 0) return x;
    if (count == 1) return std::pow(x, u16(curve + 12) / 256.0);
    const double place = x * (count - 1);
    const auto below = std::min<uint32_t>(uint32_t(place), count - 2);
    const double low = u16(curve + 12 + 2 * size_t(below)), high = u16(curve + 12 + 2 * (size_t(below) + 1));
    return (low + (high - low) * (place - below)) / 65535.0;
  }

  // g, then a, b, c, d, e, f as far as the kind has them: (a x + b)^g + e from d on, c x + f below.
  double evaluate_formula(size_t curve, double x) const {
    const uint32_t kind = u16(curve + 8);
    LGD_CHECK(kind <= 4, "BAD_IMAGE", "its colour profile has a curve of another kind");
    const auto parameter = [&](int i) { return fixed(curve + 12 + 4 * i); };
    const double g = parameter(0);
    if (kind == 0) return std::pow(x, g);
    const double a = parameter(1), b = parameter(2);
    const double power = std::pow(std::max(0.0, a * x + b), g);
    if (kind <= 2) {
      const double lowest = kind == 2 ? parameter(3) : 0;
      return a * x + b >= 0 ? power + lowest : lowest;
    }
    const double c = parameter(3), d = parameter(4);
    if (kind == 3) return x >= d ? power : c * x;
    return x >= d ? power + parameter(5) : c * x + parameter(6);
  }

  const uint8_t* const data_;
  const size_t size_;
};

const std::array<uint8_t, encode_steps + 1>& srgb_encoding() {
  static const auto table = [] {
    std::array<uint8_t, encode_steps + 1> out;
    for (int i = 0; i <= encode_steps; ++i) {
      const double linear = double(i) / encode_steps;
      out[i] = uint8_t(
          std::lround(255 * (linear <= 0.0031308 ? 12.92 * linear : 1.055 * std::pow(linear, 1 / 2.4) - 0.055)));
    }
    return out;
  }();
  return table;
}

}  // namespace

void convert_to_srgb(const uint8_t* profile, size_t bytes, uint8_t* pixels, int64_t count) {
  // Photos of one camera come one after the other: the last profile's tables are kept.
  thread_local std::vector<uint8_t> known;
  thread_local Conversion conversion;
  if (known.size() != bytes || std::memcmp(known.data(), profile, bytes) != 0) {
    known.clear();
    conversion = Profile(profile, bytes).conversion();
    known.assign(profile, profile + bytes);
  }
  const auto& encode = srgb_encoding();
  const auto& m = conversion.matrix;
  const auto coded = [&](float linear) {
    return encode[int(std::min(1.0f, std::max(0.0f, linear)) * encode_steps + 0.5f)];
  };
  for (int64_t i = 0; i < count; ++i, pixels += 3) {
    const float r = conversion.linear[0][pixels[0]], g = conversion.linear[1][pixels[1]],
                b = conversion.linear[2][pixels[2]];
    pixels[0] = coded(m[0][0] * r + m[0][1] * g + m[0][2] * b);
    pixels[1] = coded(m[1][0] * r + m[1][1] * g + m[1][2] * b);
    pixels[2] = coded(m[2][0] * r + m[2][1] * g + m[2][2] * b);
  }
}

}  // namespace lgd
