// Vector code of ops/resize.h, once per instruction set.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

// One output row from the two input rows around it.
void resize_row(const ResizeShape& s, const float* top, const float* bottom, float down, float* y) {
  for (int ox = 0; ox < s.ow(); ++ox, y += s.c) {
    const ResizeTap tap = resize_tap(ox, s.w, s.factor);
    const float *a = top + int64_t(tap.low) * s.c, *b = top + int64_t(tap.high) * s.c,
                *d = bottom + int64_t(tap.low) * s.c, *e = bottom + int64_t(tap.high) * s.c;
    const float right = tap.weight;
    for (int c = 0; c < s.c; ++c) {
      const float above = a[c] + right * (b[c] - a[c]), below = d[c] + right * (e[c] - d[c]);
      y[c] = above + down * (below - above);
    }
  }
}

// dx[p] += weight * share of dy that reads p, for one input row and one output row.
void resize_row_gradient(const ResizeShape& s, float weight, const float* dy, float* dx) {
  for (int ox = 0; ox < s.ow(); ++ox, dy += s.c) {
    const ResizeTap tap = resize_tap(ox, s.w, s.factor);
    float *low = dx + int64_t(tap.low) * s.c, *high = dx + int64_t(tap.high) * s.c;
    const float left = weight * (1 - tap.weight), right = weight * tap.weight;
    for (int c = 0; c < s.c; ++c) low[c] += left * dy[c];
    if (right == 0) continue;
    for (int c = 0; c < s.c; ++c) high[c] += right * dy[c];
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
