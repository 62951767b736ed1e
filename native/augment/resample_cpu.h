// What a resample on the CPU works from: the taps of both directions, planned once an image, and the source's pixels.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "augment/resample.h"

namespace lgd {

// Taps of each output sample: weights[i * stride + tap], tap < count[i], on input samples begin[i] + tap.
struct CpuTaps {
  const int *begin, *count;
  const float* weights;
  int stride;
};

// The same by tap, for a vector of neighbouring samples at a time: weights[tap * stride + i], tap < taps, 0 past a
// sample's count; `stride` samples, those past the last wanted one like it.
struct CpuColumns {
  const int* begin;
  const float* weights;
  int stride, taps;
};

struct CpuResample {
  const uint8_t* pixels;  // interleaved RGB; PixelStore::overread bytes may be read past the last one
  int64_t row_bytes;
  int row_floats;  // of one row: 3 * width
  CpuTaps x, y;
};

// The memory behind CpuTaps, to be used again for the next image.
struct Taps {
  std::vector<int> begin, count;
  std::vector<float> weights;
  int stride = 0;

  // The weights of each sample add up to `total`. `last`: where the input's samples end, if that is not at axis.in.
  void plan(const Axis& axis, Filter filter, int samples, float total, int last) {
    const float support = (filter == Filter::cubic ? 2.0f : 1.0f) * std::max(1.0f, float(axis.in) / float(axis.out));
    stride = std::min(axis.in, int(2 * support) + 3);
    begin.resize(samples);
    count.resize(samples);
    weights.resize(size_t(samples) * stride);
    for (int i = 0; i < samples; ++i) {
      const Window window = window_at(axis, filter, i);
      float* weight = &weights[size_t(i) * stride];
      begin[i] = window.begin;
      count[i] = std::min(window.end, last) - window.begin;
      float sum = 0;
      for (int tap = 0; tap < count[i]; ++tap) sum += weight[tap] = window_weight(window, filter, window.begin + tap);
      for (int tap = 0; tap < count[i]; ++tap) weight[tap] *= total / sum;
    }
  }

  void plan(const Axis& axis, Filter filter, int samples, float total) { plan(axis, filter, samples, total, axis.in); }

  CpuTaps view() const { return {begin.data(), count.data(), weights.data(), stride}; }
};

// The memory behind CpuColumns.
struct Columns {
  std::vector<int> begin;
  std::vector<float> weights;

  CpuColumns plan(const Taps& from, int samples, int padded) {
    const int taps = *std::max_element(from.count.begin(), from.count.begin() + samples);
    begin.assign(padded, from.begin[samples - 1]);
    weights.assign(size_t(taps) * padded, 0.0f);
    for (int i = 0; i < samples; ++i) {
      begin[i] = from.begin[i];
      for (int tap = 0; tap < from.count[i]; ++tap)
        weights[size_t(tap) * padded + i] = from.weights[size_t(i) * from.stride + tap];
    }
    return {begin.data(), weights.data(), padded, taps};
  }
};

}  // namespace lgd
