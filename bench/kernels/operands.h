// Operands of one call of an operation, at the size of a training step. A few images are drawn and repeated until the
// batch is full, so that the CPU, which computes those few alone, can check every element of the GPU's results: what
// belongs to an image repeats with it, sums over the batch are as many times larger, and means over it are the same.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "core/device.h"
#include "cuda_ops/run.h"  // bfloat16 on the host
#include "ops/kernels.h"

namespace lgd::bench {

class Operands {
 public:
  // `drawn` images; n = drawn * repeats on this device.
  Operands(std::shared_ptr<Device> device_, DType type_, int drawn, int repeats)
      : device(std::move(device_)),
        type(type_),
        n(drawn * repeats),
        ops(*device->kernels),
        drawn_(drawn),
        repeats_(repeats) {}

  const std::shared_ptr<Device> device;
  const DType type;
  const int n;
  const Kernels& ops;

  // Inputs. Values of about unit variance, times scale, plus offset. `images`: [n][per_image]; `values`: one for the
  // whole batch.
  void* images(size_t per_image, float scale = 1, float offset = 0) {
    return upload(draw(per_image * drawn_, scale, offset), type, 1, true).data;
  }
  void* values(size_t count, float scale = 1, float offset = 0) {
    return upload(draw(count, scale, offset), type, 1, false).data;
  }
  // [groups][n][per_image]
  float* images32(size_t per_image, float scale = 1, int groups = 1) {
    return static_cast<float*>(upload(draw(groups * per_image * drawn_, scale, 0), DType::f32, groups, true).data);
  }
  float* values32(size_t count, float scale = 1, float offset = 0) {
    return static_cast<float*>(upload(draw(count, scale, offset), DType::f32, 1, false).data);
  }

  // Outputs, poisoned: [groups][n][per_image]; numbers that are means over the batch; sums over it, which start from
  // zero.
  void* out_images(size_t per_image) { return track(upload(poison(per_image * drawn_), type, 1, true), 1); }
  float* out_images32(size_t per_image, int groups = 1) {
    return static_cast<float*>(track(upload(poison(groups * per_image * drawn_), DType::f32, groups, true), 1));
  }
  float* out_means(size_t count) { return static_cast<float*>(track(upload(poison(count), DType::f32, 1, false), 1)); }
  float* out_sums(size_t count) {
    return static_cast<float*>(track(upload(std::vector<float>(count), DType::f32, 1, false), float(repeats_)));
  }
  // read and written
  float* moving32(size_t count, float scale = 1, float offset = 0) {
    return static_cast<float*>(track(upload(draw(count, scale, offset), DType::f32, 1, false), 1));
  }
  float* unchecked32(size_t count) {
    return static_cast<float*>(upload(std::vector<float>(count), DType::f32, 1, false).data);
  }

  size_t bytes() const { return bytes_; }

  // ||these results - the few images' results|| / ||expected||, the worst over the outputs; infinite where one is not a
  // number.
  double error_against(Operands& few) {
    double worst = 0;
    for (size_t o = 0; o < outputs_.size(); ++o) {
      const double error = compare(outputs_[o], few.download(few.outputs_[o]));
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
    return worst;
  }

 private:
  // unit: elements of the drawn part of one group
  struct Place {
    void* data;
    size_t unit;
    int groups;
    bool repeated;
    DType type;
  };
  struct Output {
    Place place;
    float factor;
  };

  std::vector<float> draw(size_t count, float scale, float offset) {
    std::vector<float> values(count);
    for (float& value : values) {
      state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;  // Knuth's MMIX: all that timing needs
      value = testing::from_bits(testing::to_bits(offset + scale * 1.7f * (float(state_ >> 40) * 0x1p-23f - 1)));
    }
    return values;
  }
  static std::vector<float> poison(size_t count) {
    return std::vector<float>(count, std::numeric_limits<float>::quiet_NaN());
  }

  Place upload(const std::vector<float>& drawn, DType as, int groups, bool repeated) {
    const size_t unit = drawn.size() / groups, copies = repeated ? repeats_ : 1, unit_bytes = unit * size_of(as);
    buffers_.emplace_back(device, groups * copies * unit_bytes + 16);
    bytes_ += groups * copies * unit_bytes;
    char* data = buffers_.back().as<char>();
    std::vector<uint16_t> bits;
    if (as == DType::bf16)
      for (float value : drawn) bits.push_back(testing::to_bits(value));
    const char* host =
        as == DType::bf16 ? reinterpret_cast<const char*>(bits.data()) : reinterpret_cast<const char*>(drawn.data());
    for (int group = 0; group < groups; ++group) {
      char* start = data + group * copies * unit_bytes;
      device->from_host(start, host + group * unit_bytes, unit_bytes);
      device->synchronize();
      for (size_t filled = 1; filled < copies; filled *= 2)
        device->copy(start + filled * unit_bytes, start, std::min(filled, copies - filled) * unit_bytes);
    }
    return {data, unit, groups, repeated, as};
  }
  void* track(const Place& place, float factor) {
    outputs_.push_back({place, factor});
    return place.data;
  }

  std::vector<float> download(const Output& output) {
    const Place& place = output.place;
    std::vector<float> values(place.groups * (place.repeated ? repeats_ : 1) * place.unit);
    if (place.type == DType::f32) {
      device->to_host(values.data(), place.data, values.size() * 4);
      return values;
    }
    std::vector<uint16_t> bits(values.size());
    device->to_host(bits.data(), place.data, bits.size() * 2);
    device->pool.for_range(int64_t(bits.size()), 1 << 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) values[i] = testing::from_bits(bits[i]);
    });
    return values;
  }

  double compare(const Output& output, const std::vector<float>& expected) {
    const std::vector<float> found = download(output);
    const size_t unit = output.place.unit, copies = output.place.repeated ? repeats_ : 1;
    std::vector<double> differences(found.size() / unit);
    device->pool.for_each(int64_t(differences.size()), [&](int, int64_t part) {
      const float *a = found.data() + part * unit, *b = expected.data() + part / copies * unit;
      for (size_t i = 0; i < unit; ++i) {
        const double difference = double(a[i]) - double(output.factor) * b[i];
        differences[part] += difference * difference;
      }
    });
    double difference = 0, norm = 1e-30;
    for (double part : differences) difference += part;
    for (float value : expected) norm += std::pow(double(output.factor) * value, 2) * copies;
    return std::sqrt(difference / norm);
  }

  const int drawn_, repeats_;
  uint64_t state_ = 1;
  size_t bytes_ = 0;
  std::vector<Output> outputs_;
  std::vector<Buffer> buffers_;
};

}  // namespace lgd::bench
