// Which input samples make an output sample, and with what weights: the antialiased resampling of PIL and of torch's
// interpolate(antialias=True). The filter is stretched by the scale when shrinking, left as it is when enlarging;
// weights past the border are dropped and the rest is normalised to sum to 1. One source for the host and the device.
#pragma once
#include <cstdint>

#include "core/philox.h"  // LGD_HOST_DEVICE

namespace lgd {

enum class Filter : uint8_t { triangle, cubic };  // bilinear; bicubic with a = -1/2

// One direction of a resize: `in` samples become `out`, of which those from `offset` on are wanted.
struct Axis {
  int in = 1, out = 1, offset = 0;
};

// Output sample i draws on the input samples [begin, end). The distance of sample j from its centre is (j - whole + 0.5
// - fraction) * inverse_scale filter units; the centre is kept as whole + fraction, so that a far one loses no bits.
struct Window {
  int begin, end, whole;
  float fraction, inverse_scale;
};

LGD_HOST_DEVICE Window window_at(const Axis& axis, Filter filter, int i) {
  const int64_t centre = (2 * (int64_t(i) + axis.offset) + 1) * axis.in, unit = 2 * int64_t(axis.out);
  const int whole = int(centre / unit);
  const float fraction = float(centre % unit) / float(unit);
  const float scale = axis.in > axis.out ? float(axis.in) / float(axis.out) : 1.0f;
  const float support = (filter == Filter::cubic ? 2.0f : 1.0f) * scale;
  const float low = fraction - support + 0.5f, high = fraction + support + 0.5f;
  int begin = whole + int(low) - (low < float(int(low)) ? 1 : 0);  // floor
  int end = whole + int(high);
  if (begin < 0) begin = 0;
  if (end > axis.in) end = axis.in;
  return {begin, end, whole, fraction, 1.0f / scale};
}

// Weight of input sample j, before normalisation.
LGD_HOST_DEVICE float window_weight(const Window& window, Filter filter, int j) {
  float x = (float(j - window.whole) + 0.5f - window.fraction) * window.inverse_scale;
  if (x < 0) x = -x;
  if (filter == Filter::triangle) return x < 1 ? 1 - x : 0.0f;
  if (x < 1) return (1.5f * x - 2.5f) * x * x + 1;
  if (x < 2) return ((-0.5f * x + 2.5f) * x - 4.0f) * x + 2.0f;
  return 0.0f;
}

}  // namespace lgd
