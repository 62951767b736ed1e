// One view on the CPU, compiled once per instruction set. Working images are three float planes of `stride` columns; columns past
// the width hold zeros until the contrast step and are never read afterwards.
namespace lgd::LGD_ISA {
namespace {

#define LGD_COLOUR static inline __attribute__((always_inline))
#include "augment/colour.inl"
#include "augment/resample_cpu.inl"

// Row y of the crop at the output's size, into three rows `plane` apart.
void resize_row(const CpuView& view, int y, float* row, float* out, int64_t plane) {
  resample_column(view.from, y, row);
  for (int x = 0; x < view.width; x += 4) {
    const int last = view.width - 1;
    const Four p0 = resample_pixel(view.from, row, x), p1 = resample_pixel(view.from, row, x + 1 < last ? x + 1 : last);
    const Four p2 = resample_pixel(view.from, row, x + 2 < last ? x + 2 : last), p3 = resample_pixel(view.from, row, x + 3 < last ? x + 3 : last);
    const Four rg01 = __builtin_shuffle(p0, p1, FourIndex{0, 4, 1, 5}), rg23 = __builtin_shuffle(p2, p3, FourIndex{0, 4, 1, 5});
    const Four b01 = __builtin_shuffle(p0, p1, FourIndex{2, 6, 2, 6}), b23 = __builtin_shuffle(p2, p3, FourIndex{2, 6, 2, 6});
    Four r = __builtin_shuffle(rg01, rg23, FourIndex{0, 1, 4, 5});
    Four g = __builtin_shuffle(rg01, rg23, FourIndex{2, 3, 6, 7});
    Four b = __builtin_shuffle(b01, b23, FourIndex{0, 1, 4, 5});
    if (view.clamp) r = clamp01(r), g = clamp01(g), b = clamp01(b);
    store4(out + x, r);
    store4(out + plane + x, g);
    store4(out + 2 * plane + x, b);
  }
  for (int c = 0; c < 3; ++c)
    for (int x = view.width; x < view.stride; ++x) out[c * plane + x] = 0;
}

// Steps [from, to) on a row of three planes; returns the sum of its grey values after them when it is asked for.
double colour_row(const CpuView& view, int from, int to, float mean, bool sum_grey, float* p, int64_t plane) {
  Vec grey = {};
  for (int x = 0; x < view.stride; x += lanes) {
    Vec r = load(p + x), g = load(p + plane + x), b = load(p + 2 * plane + x);
    for (int step = from; step < to; ++step) apply_step(view.steps[step], mean, r, g, b);
    grey += grey_of(r, g, b);
    if (from == to) continue;
    store(p + x, r);
    store(p + plane + x, g);
    store(p + 2 * plane + x, b);
  }
  double total = 0;
  if (sum_grey)
    for (int i = 0; i < lanes; ++i) total += grey[i];
  return total;
}

LGD_COLOUR int reflect(int i, int size) { return i < 0 ? -i : i >= size ? 2 * (size - 1) - i : i; }

// Row y of a plane blurred vertically into row[radius_x ...], then horizontally into out.
void blur_row(const CpuView& view, const float* in, int y, float* row, float* out) {
  const int radius = view.radius_y, rx = view.radius_x;
  float* middle = row + rx;
  const float* centre = in + int64_t(y) * view.stride;
  for (int tap = 1; tap <= radius; ++tap) {
    view.rows[2 * tap] = in + int64_t(reflect(y - tap, view.height)) * view.stride;
    view.rows[2 * tap + 1] = in + int64_t(reflect(y + tap, view.height)) * view.stride;
  }
  for (int x = 0; x < view.stride; x += 2 * lanes) {
    Vec a = load(centre + x) * view.weights_y[0], b = load(centre + x + lanes) * view.weights_y[0];
    for (int tap = 1; tap <= radius; ++tap) {
      const float *above = view.rows[2 * tap] + x, *below = view.rows[2 * tap + 1] + x;
      const Vec w = splat(view.weights_y[tap]);
      a += (load(above) + load(below)) * w;
      b += (load(above + lanes) + load(below + lanes)) * w;
    }
    store(middle + x, a);
    store(middle + x + lanes, b);
  }
  for (int i = 1; i <= rx; ++i) {
    middle[-i] = middle[i];
    middle[view.width - 1 + i] = middle[view.width - 1 - i];
  }
  for (int x = 0; x < view.stride; x += 2 * lanes) {
    const float* p = middle + x;
    Vec a = load(p) * view.weights_x[0], b = load(p + lanes) * view.weights_x[0];
    for (int tap = 1; tap <= rx; ++tap) {
      const Vec w = splat(view.weights_x[tap]);
      a += (load(p - tap) + load(p + tap)) * w;
      b += (load(p + lanes - tap) + load(p + lanes + tap)) * w;
    }
    store(out + x, a);
    store(out + x + lanes, b);
  }
}

// Flip, normalise, interleave: row y of the view from three rows `plane` apart.
void write_row(const CpuView& view, const float* in, int64_t plane, int y) {
  const int width = view.width;
  float* out = view.out + int64_t(y) * width * 3;
  int x = 0;
  for (; x + 4 <= width; x += 4) {
    const int from = view.flip ? width - 4 - x : x;
    Four channel[3];
    for (int c = 0; c < 3; ++c) {
      Four v = load4(in + c * plane + from);
      if (view.flip) v = __builtin_shuffle(v, FourIndex{3, 2, 1, 0});
      channel[c] = v * view.scale[c] + view.shift[c];
    }
    const Four rg01 = __builtin_shuffle(channel[0], channel[1], FourIndex{0, 4, 1, 5});
    const Four rg23 = __builtin_shuffle(channel[0], channel[1], FourIndex{2, 6, 3, 7});
    const Four gb1 = __builtin_shuffle(rg01, channel[2], FourIndex{3, 5, 3, 5});
    store4(out + 3 * x, __builtin_shuffle(rg01, channel[2], FourIndex{0, 1, 4, 2}));
    store4(out + 3 * x + 4, __builtin_shuffle(gb1, rg23, FourIndex{0, 1, 4, 5}));
    store4(out + 3 * x + 8, __builtin_shuffle(rg23, channel[2], FourIndex{6, 2, 3, 7}));
  }
  for (; x < width; ++x)
    for (int c = 0; c < 3; ++c) out[3 * x + c] = in[c * plane + (view.flip ? width - 1 - x : x)] * view.scale[c] + view.shift[c];
}

}  // namespace

// Row by row, so that a row is in the nearest cache for all that is done to it; only the contrast's mean and the blur's neighbours need the image before going on.
void augment_view(const CpuView& view) {
  const int64_t plane = int64_t(view.height) * view.stride;
  const bool contrast = view.contrast_at < view.step_count, blurred = view.radius_x > 0 || view.radius_y > 0;
  double sum = 0;
  for (int y = 0; y < view.height; ++y) {
    float* row = view.planes + int64_t(y) * view.stride;
    resize_row(view, y, view.row, row, plane);
    if (view.contrast_at > 0 || contrast) sum += colour_row(view, 0, view.contrast_at, 0, contrast, row, plane);
    if (!contrast && !blurred) write_row(view, row, plane, y);
  }
  const float mean = float(sum / (double(view.height) * view.width));
  for (int y = 0; contrast && y < view.height; ++y) {
    float* row = view.planes + int64_t(y) * view.stride;
    colour_row(view, view.contrast_at, view.step_count, mean, false, row, plane);
    if (!blurred) write_row(view, row, plane, y);
  }
  for (int y = 0; blurred && y < view.height; ++y) {
    for (int c = 0; c < 3; ++c) blur_row(view, view.planes + c * plane, y, view.row, view.blurred + c * view.stride);
    write_row(view, view.blurred, view.stride, y);
  }
}

#undef LGD_COLOUR
}  // namespace lgd::LGD_ISA
