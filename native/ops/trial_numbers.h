// What trials of a device share: numbers, made on the host from a seed, the same each time, and read back; and a switch
// that goes back.
#pragma once
#include <cstring>
#include <vector>

#include "core/context.h"

namespace lgd {

// Device memory with numbers of its own.
class Numbers {
 public:
  Numbers(Context& ctx, size_t count, DType type)
      : ctx_(ctx), bytes_(count * size_of(type)), data_(ctx.allocate(bytes_)) {}
  ~Numbers() { ctx_.release(data_, bytes_); }
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;

  operator void*() const { return data_; }
  float* floats() const { return static_cast<float*>(data_); }

  // Evenly from low to high, and the same for the same seed.
  Numbers& fill(uint32_t seed, float low, float high) {
    std::vector<float> values(bytes_ / 4);
    for (float& value : values)
      value = low + (high - low) * float((seed = seed * 1664525u + 1013904223u) >> 8) / float(1 << 24);
    ctx_.from_host(data_, values.data(), bytes_);
    return *this;
  }
  Numbers& fill_halves(uint32_t seed) {
    std::vector<uint16_t> values(bytes_ / 2);
    for (uint16_t& value : values) {
      seed = seed * 1664525u + 1013904223u;
      value = uint16_t(0x3e00 | (seed >> 9 & 0x80ff));  // of either sign, 0.125 to 0.5
    }
    ctx_.from_host(data_, values.data(), bytes_);
    return *this;
  }
  Numbers& clear() {
    ctx_.zero(data_, bytes_);
    return *this;
  }
  std::vector<float> floats_of(DType type) const {
    std::vector<float> values(bytes_ / size_of(type));
    if (type == DType::f32) {
      ctx_.to_host(values.data(), data_, bytes_);
      return values;
    }
    std::vector<uint16_t> halves(values.size());
    ctx_.to_host(halves.data(), data_, bytes_);
    for (size_t i = 0; i < values.size(); ++i) {
      const uint32_t bits = uint32_t(halves[i]) << 16;
      std::memcpy(&values[i], &bits, 4);
    }
    return values;
  }

 private:
  Context& ctx_;
  const size_t bytes_;
  void* const data_;
};

// Puts a switch of the device back, however the trial ends.
class KeptSwitch {
 public:
  explicit KeptSwitch(bool& of) : switch_(of), before_(of) {}
  ~KeptSwitch() { switch_ = before_; }
  KeptSwitch(const KeptSwitch&) = delete;
  KeptSwitch& operator=(const KeptSwitch&) = delete;

 private:
  bool& switch_;
  const bool before_;
};

}  // namespace lgd
