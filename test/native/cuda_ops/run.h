// What the checks of CUDA operations share: one run of an operation on a device, and the comparison of two.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "core/device.h"
#include "ops/kernels.h"

namespace lgd::testing {

inline uint16_t to_bits(float value) {  // round to nearest even
  uint32_t word;
  std::memcpy(&word, &value, 4);
  if ((word & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16);
}
inline float from_bits(uint16_t bits) {
  const uint32_t word = uint32_t(bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

// One run of an operation on one device: uploads inputs, remembers outputs.
class Run {
 public:
  Run(std::shared_ptr<Device> device_, DType type_)
      : device(std::move(device_)), type(type_), ops(*device->kernels), random(1) {}
  std::shared_ptr<Device> device;
  DType type;
  const Kernels& ops;

  // Of a normal distribution: places in a table, as to compute each took a sixth of these tests' time.
  std::vector<float> draw(size_t count, float scale = 1, float offset = 0) {
    static const std::vector<float> normals = [] {
      std::mt19937 random(1);
      std::normal_distribution<float> normal;
      std::vector<float> drawn(1 << 16);
      for (float& value : drawn) value = normal(random);
      return drawn;
    }();
    std::vector<float> values(count);
    for (float& value : values) value = from_bits(to_bits(offset + scale * normals[random() >> 16]));
    return values;
  }
  void* stored(const std::vector<float>& values) { return upload(values, type); }
  float* f32(const std::vector<float>& values) { return static_cast<float*>(upload(values, DType::f32)); }
  void* input(size_t count, float scale = 1) { return stored(draw(count, scale)); }
  float* input32(size_t count, float scale = 1, float offset = 0) { return f32(draw(count, scale, offset)); }
  void* output(size_t count) { return track(upload(poison(count), type), count, type); }
  void* sum(size_t count) { return track(upload(draw(count), type), count, type); }  // an output that is added to
  float* output32(size_t count) {
    return static_cast<float*>(track(upload(poison(count), DType::f32), count, DType::f32));
  }
  float* sum32(size_t count, float scale = 1, float offset = 0) {
    return static_cast<float*>(track(upload(draw(count, scale, offset), DType::f32), count, DType::f32));
  }

  std::vector<std::vector<float>> results() {
    std::vector<std::vector<float>> all;
    for (const Out& out : outs) {
      std::vector<float> values(out.count);
      if (out.type == DType::f32) {
        device->to_host(values.data(), out.data, out.count * 4);
      } else {
        std::vector<uint16_t> bits(out.count);
        device->to_host(bits.data(), out.data, out.count * 2);
        for (size_t i = 0; i < out.count; ++i) values[i] = from_bits(bits[i]);
      }
      all.push_back(std::move(values));
    }
    return all;
  }

 private:
  struct Out {
    void* data;
    size_t count;
    DType type;
  };
  static std::vector<float> poison(size_t count) {
    return std::vector<float>(count, std::numeric_limits<float>::quiet_NaN());
  }
  void* track(void* data, size_t count, DType as) {
    outs.push_back({data, count, as});
    return data;
  }
  void* upload(const std::vector<float>& values, DType as) {
    buffers.emplace_back(device, values.size() * size_of(as) + 16);
    void* data = buffers.back().as<>();
    if (as == DType::f32) {
      device->from_host(data, values.data(), values.size() * 4);
    } else {
      std::vector<uint16_t> bits(values.size());
      for (size_t i = 0; i < values.size(); ++i) bits[i] = to_bits(values[i]);
      device->from_host(data, bits.data(), bits.size() * 2);
    }
    return data;
  }
  std::mt19937 random;
  std::vector<Out> outs;
  std::vector<Buffer> buffers;
};

using Body = std::function<void(Run&)>;
extern bool small;  // leave out the shapes that take an emulation long

// Runs the body on the CPU, and on the GPU in float32 and bfloat16, and compares what it wrote.
void check(const std::string& name, const Body& body, double float32_tolerance = 2e-5,
           const std::vector<DType>& types = {DType::f32, DType::bf16});

// While it is there, the GPU has two multiprocessors to fill: small products take the tiles of large ones, and blocks
// have several of them.
struct FewMultiprocessors {
  FewMultiprocessors();
  ~FewMultiprocessors();
  const int kept;
};

// Runs the body on the GPU, which must refuse it with words that have `reason` in them.
void refuse(const std::string& name, const std::string& reason, const Body& body);

// Whose tensor cores add as those of the GPU: "as Hopper's", "as Ampere's", or that neither's do (tensor_cores.cpp).
std::string tensor_cores(const std::shared_ptr<Device>& gpu);
// Whether their model has known sums right.
bool is_model_right();

inline ConvShape conv(int n, int h, int w, int c, int k, int r, int stride, int pad, int dilation = 1) {
  return {n,
          h,
          w,
          c,
          k,
          r,
          r,
          stride,
          pad,
          dilation,
          (h + 2 * pad - dilation * (r - 1) - 1) / stride + 1,
          (w + 2 * pad - dilation * (r - 1) - 1) / stride + 1};
}

// With TensorFlow's padding `same`: windows may reach further beyond the end of the image than before its start.
inline ConvShape conv_same(int n, int h, int w, int c, int k, int r, int stride) {
  const int missing = (h - 1) / stride * stride + r - h;
  ConvShape s = conv(n, h, w, c, k, r, stride, missing > 0 ? missing / 2 : 0);
  s.oh = (h - 1) / stride + 1;
  s.ow = (w - 1) / stride + 1;
  return s;
}

inline std::string describe(const char* op, const ConvShape& s) {
  char text[160];
  std::snprintf(text, sizeof text, "%s %dx%dx%dx%d k%d r%d s%d p%d d%d", op, s.n, s.h, s.w, s.c, s.k, s.r, s.stride,
                s.pad, s.dilation);
  return text;
}

// Groups of checks, a file each.
void fused_convolutions();
void fused_depthwise();
void fused_norms();
void transformers();
void linear_layers();

}  // namespace lgd::testing
