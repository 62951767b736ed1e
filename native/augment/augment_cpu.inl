// One view on the CPU, compiled once per instruction set. Working images are three float planes of `stride` columns;
// columns past the width hold zeros until the contrast step and are never read afterwards.
namespace lgd::LGD_ISA {
namespace {

#define LGD_COLOUR static inline __attribute__((always_inline))

// One instruction each; of the vector extensions' a < b ? a : b the compiler makes two.
#if LGD_LANES == 16
LGD_COLOUR Vec lesser(Vec a, Vec b) { return (Vec)_mm512_maskz_min_ps(0xffff, (__m512)a, (__m512)b); }
LGD_COLOUR Vec greater(Vec a, Vec b) { return (Vec)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b); }
#elif LGD_LANES == 8
LGD_COLOUR Vec lesser(Vec a, Vec b) { return (Vec)_mm256_min_ps((__m256)a, (__m256)b); }
LGD_COLOUR Vec greater(Vec a, Vec b) { return (Vec)_mm256_max_ps((__m256)a, (__m256)b); }
#elif defined(__x86_64__)
LGD_COLOUR Vec lesser(Vec a, Vec b) { return (Vec)_mm_min_ps((__m128)a, (__m128)b); }
LGD_COLOUR Vec greater(Vec a, Vec b) { return (Vec)_mm_max_ps((__m128)a, (__m128)b); }
#endif

#include "augment/colour.inl"
#include "augment/resample_cpu.inl"

typedef int32_t Index __attribute__((vector_size(4 * LGD_LANES)));
typedef int32_t IndexU __attribute__((vector_size(4 * LGD_LANES), aligned(4), may_alias));

// How a vector is put together of two of three: element i of vector `part` of the row is element first[i] of vectors 0
// and 1 (beside one another), then element second[i] of that and vector 2.
struct Weave {
  alignas(64) int32_t first[3][lanes], second[3][lanes];
};

// Three vectors r, g, b from an interleaved row and back.
constexpr Weave deinterleave = [] {
  Weave weave{};
  for (int c = 0; c < 3; ++c)
    for (int i = 0; i < lanes; ++i) {
      const int from = 3 * i + c;
      weave.first[c][i] = from < 2 * lanes ? from : 0;
      weave.second[c][i] = from < 2 * lanes ? i : from - lanes;
    }
  return weave;
}();
constexpr Weave interleave = [] {
  Weave weave{};
  for (int part = 0; part < 3; ++part)
    for (int i = 0; i < lanes; ++i) {
      const int to = part * lanes + i, pixel = to / 3, channel = to % 3;
      weave.first[part][i] = channel == 0 ? pixel : channel == 1 ? lanes + pixel : 0;
      weave.second[part][i] = channel == 2 ? lanes + pixel : i;
    }
  return weave;
}();
LGD_COLOUR Index index_of(const int32_t* places) { return *reinterpret_cast<const IndexU*>(places); }
LGD_COLOUR Vec woven(const Weave& weave, int part, Vec a, Vec b, Vec c) {
  return __builtin_shuffle(__builtin_shuffle(a, b, index_of(weave.first[part])), c, index_of(weave.second[part]));
}
LGD_COLOUR Vec reversed(Vec v) {
  Index places;
  for (int i = 0; i < lanes; ++i) places[i] = lanes - 1 - i;
  return __builtin_shuffle(v, places);
}

// An interleaved row horizontally, pixel by pixel, into three rows `plane` apart.
void across_pixels(const CpuView& view, float* out, int64_t plane) {
  const float* row = view.row;
  for (int x = 0; x < view.width; x += 4) {
    const int last = view.width - 1;
    const Four p0 = resample_pixel(view.from, row, x), p1 = resample_pixel(view.from, row, x + 1 < last ? x + 1 : last);
    const Four p2 = resample_pixel(view.from, row, x + 2 < last ? x + 2 : last),
               p3 = resample_pixel(view.from, row, x + 3 < last ? x + 3 : last);
    const Four rg01 = __builtin_shuffle(p0, p1, FourIndex{0, 4, 1, 5}),
               rg23 = __builtin_shuffle(p2, p3, FourIndex{0, 4, 1, 5});
    const Four b01 = __builtin_shuffle(p0, p1, FourIndex{2, 6, 2, 6}),
               b23 = __builtin_shuffle(p2, p3, FourIndex{2, 6, 2, 6});
    const Four r = __builtin_shuffle(rg01, rg23, FourIndex{0, 1, 4, 5}),
               g = __builtin_shuffle(rg01, rg23, FourIndex{2, 3, 6, 7}),
               b = __builtin_shuffle(b01, b23, FourIndex{0, 1, 4, 5});
    store4(out + x, view.clamp ? clamp01(r) : r);
    store4(out + plane + x, view.clamp ? clamp01(g) : g);
    store4(out + 2 * plane + x, view.clamp ? clamp01(b) : b);
  }
  for (int c = 0; c < 3; ++c)
    for (int x = view.width; x < view.stride; ++x) out[c * plane + x] = 0;
}

// Whether the taps of each vector of output pixels lie within two vectors of input pixels.
bool fit_two_vectors(const CpuColumns& columns) {
  for (int x = 0; x < columns.stride; x += lanes)
    if (columns.begin[x + lanes - 1] - columns.begin[x] + columns.taps > 2 * lanes) return false;
  return true;
}

// The same as across_pixels, a vector of output pixels at a time: the channels are taken apart first, and each tap is
// then one shuffle of two vectors of them.
void across_vectors(const CpuView& view, float* out, int64_t plane) {
  const CpuColumns& columns = view.columns;
  for (int x = 0; 3 * x < view.from.row_floats; x += lanes) {
    const float* p = view.row + 3 * x;
    const Vec a = load(p), b = load(p + lanes), c = load(p + 2 * lanes);
    for (int channel = 0; channel < 3; ++channel)
      store(view.channels + channel * view.channel_stride + x, woven(deinterleave, channel, a, b, c));
  }
  for (int x = 0; x < columns.stride; x += lanes) {
    const float* p = view.channels + columns.begin[x];
    Vec near[3], far[3], sum[3] = {};
    for (int c = 0; c < 3; ++c)
      near[c] = load(p + c * view.channel_stride), far[c] = load(p + c * view.channel_stride + lanes);
    Index index = index_of(columns.begin + x) - columns.begin[x];
    for (int tap = 0; tap < columns.taps; ++tap, index += 1) {
      const Vec weight = load(columns.weights + int64_t(tap) * columns.stride + x);
      for (int c = 0; c < 3; ++c) sum[c] += __builtin_shuffle(near[c], far[c], index) * weight;
    }
    for (int c = 0; c < 3; ++c) store(out + c * plane + x, view.clamp ? clamp01(sum[c]) : sum[c]);
  }
}

// Row y of the crop at the output's size, into three rows `plane` apart.
void resize_row(const CpuView& view, bool by_vectors, int y, float* out, int64_t plane) {
  resample_column(view.from, y, view.row);
  if (by_vectors) return across_vectors(view, out, plane);
  across_pixels(view, out, plane);
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
  Vec scale[3], shift[3];
  for (int c = 0; c < 3; ++c) scale[c] = splat(view.scale[c]), shift[c] = splat(view.shift[c]);
  int x = 0;
  for (; x + lanes <= width; x += lanes) {
    Vec channel[3];
    for (int c = 0; c < 3; ++c) {
      const float* p = in + c * plane;
      channel[c] = (view.flip ? reversed(load(p + width - lanes - x)) : load(p + x)) * scale[c] + shift[c];
    }
    for (int part = 0; part < 3; ++part)
      store(out + 3 * x + part * lanes, woven(interleave, part, channel[0], channel[1], channel[2]));
  }
  for (; x < width; ++x)
    for (int c = 0; c < 3; ++c)
      out[3 * x + c] = in[c * plane + (view.flip ? width - 1 - x : x)] * view.scale[c] + view.shift[c];
}

}  // namespace

// Row by row, so that a row is in the nearest cache for all that is done to it; only the contrast's mean and the blur's
// neighbours need the image before going on.
void augment_view(const CpuView& view) {
  const int64_t plane = int64_t(view.height) * view.stride;
  const bool contrast = view.contrast_at < view.step_count, blurred = view.radius_x > 0 || view.radius_y > 0;
  // without shuffles by a variable, pixels are faster
  const bool by_vectors = lanes > 4 && fit_two_vectors(view.columns);
  double sum = 0;
  for (int y = 0; y < view.height; ++y) {
    float* row = view.planes + int64_t(y) * view.stride;
    resize_row(view, by_vectors, y, row, plane);
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
