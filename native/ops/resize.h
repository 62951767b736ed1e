// Bilinear enlargement by a whole factor f, corners not aligned (PyTorch's interpolate(mode="bilinear",
// align_corners=False)):
//
//   u = max(0, (o + 1/2) / f - 1/2), i = floor(u), t = u - i:   y[o] = (1 - t) x[i] + t x[min(i + 1, h - 1)]
//
// along the height and the width in turn. Backward gathers: an input pixel sums the output pixels that read it, each
// with its weight, in row-major order, so a result does not depend on threads. Least work: reads x, writes y once; f^2
// outputs a pixel. Activations NHWC.
#pragma once
#include "core/context.h"

namespace lgd {

struct ResizeShape {
  int n, h, w, c;  // input
  int factor;
  constexpr int oh() const { return h * factor; }
  constexpr int ow() const { return w * factor; }
};

// Where one output place reads along an axis of `size` inputs: (1 - weight) x[low] + weight x[high].
struct ResizeTap {
  int low, high;
  float weight;
  constexpr float of(int input) const { return (input == low ? 1.f - weight : 0.f) + (input == high ? weight : 0.f); }
};
constexpr ResizeTap resize_tap(int output, int size, int factor) {
  const float place = (float(output) + 0.5f) / float(factor) - 0.5f;
  if (place <= 0.f) return {0, 0, 0.f};
  const int low = int(place);
  return {low, low + 1 < size ? low + 1 : size - 1, place - float(low)};
}
// The outputs that may read an input are first, first + 1, ... up to before last; all others do not.
constexpr int resize_first(int input, int factor) { return input == 0 ? 0 : (input - 1) * factor + factor / 2; }
constexpr int resize_last(int input, int size, int factor) {
  return input == size - 1 ? size * factor : (input + 1) * factor + (factor + 1) / 2;
}

void resize_forward_cpu(Context&, const ResizeShape&, DType type, const void* x, void* y);
void resize_forward_cuda(Context&, const ResizeShape&, DType type, const void* x, void* y);
// dx (+)= the transpose of forward applied to dy.
void resize_backward_cpu(Context&, const ResizeShape&, DType type, const void* dy, void* dx, bool accumulate);
void resize_backward_cuda(Context&, const ResizeShape&, DType type, const void* dy, void* dx, bool accumulate);

}  // namespace lgd
