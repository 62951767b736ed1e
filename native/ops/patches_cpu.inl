// Patches of images (ops/gemm_cpu.h) read in place, and what both matrix products share; once per instruction set.
//
// A product keeps a tile of tile_rows x 2 vectors in registers: 12 x 2 of the 32 registers of AVX-512, 6 x 2 of 16
// elsewhere. A step of its inner loop loads two vectors of one operand and multiplies them with one broadcast number
// for each row.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

static constexpr int tile_rows = LGD_LANES == 16 ? 12 : 6;
static constexpr int tile_columns = 2 * lanes;

TileShape tile_shape() { return {tile_rows, tile_columns}; }

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t FourIndex __attribute__((vector_size(16)));

// The 4x4 block at `from`, rows `stride` apart, turned around.
static inline __attribute__((always_inline)) void transpose4(const float* from, int64_t stride, Four (&out)[4]) {
  const Four a = *(const Four*)from, b = *(const Four*)(from + stride), c = *(const Four*)(from + 2 * stride),
             d = *(const Four*)(from + 3 * stride);
  const Four ab_low = __builtin_shuffle(a, b, FourIndex{0, 4, 1, 5}),
             ab_high = __builtin_shuffle(a, b, FourIndex{2, 6, 3, 7});
  const Four cd_low = __builtin_shuffle(c, d, FourIndex{0, 4, 1, 5}),
             cd_high = __builtin_shuffle(c, d, FourIndex{2, 6, 3, 7});
  out[0] = __builtin_shuffle(ab_low, cd_low, FourIndex{0, 1, 4, 5});
  out[1] = __builtin_shuffle(ab_low, cd_low, FourIndex{2, 3, 6, 7});
  out[2] = __builtin_shuffle(ab_high, cd_high, FourIndex{0, 1, 4, 5});
  out[3] = __builtin_shuffle(ab_high, cd_high, FourIndex{2, 3, 6, 7});
}

// Walks the rows of a grid: image by image, or pixel by pixel over all images.
struct RowWalk {
  bool by_pixel;
  int n, gy, gx;
};

// Of small images, a large share of the patches hangs over the border. Walked pixel by pixel, the rows of one tile
// agree on which taps fall outside, and those taps are left out.
static inline bool small_images(const Patches& p) {
  return p.taps > 1 && p.grid_h * p.grid_w <= 64 && p.n >= tile_rows;
}

static RowWalk row_at(const Patches& p, int64_t row, bool by_pixel) {
  const int64_t pixels = int64_t(p.grid_h) * p.grid_w;
  const int64_t n = by_pixel ? row % p.n : row / pixels, pixel = by_pixel ? row / p.n : row % pixels;
  return {by_pixel, int(n), int(pixel / p.grid_w), int(pixel % p.grid_w)};
}

static inline void advance(const Patches& p, RowWalk& at) {
  if (at.by_pixel) {
    if (++at.n < p.n) return;
    at.n = 0;
  }
  if (++at.gx < p.grid_w) return;
  at.gx = 0;
  if (++at.gy < p.grid_h) return;
  at.gy = 0;
  ++at.n;
}

// The pixel that a row and a tap meet, or null outside of the image.
static inline const float* patch_pixel(const Patches& p, const RowWalk& at, int tap) {
  const int y = at.gy * p.step + p.tap_y[tap], x = at.gx * p.step + p.tap_x[tap];
  if (unsigned(y) >= unsigned(p.height) || unsigned(x) >= unsigned(p.width)) return nullptr;
  return p.image + ((int64_t(at.n) * p.height + y) * p.width + x) * p.depth;
}

static inline void copy_floats(const float* from, int64_t count, float* to) {
  LGD_FOR_VECTORS(i, width, count) {
    if (width == lanes) store(to + i, load(from + i));
    else store_n(to + i, load_n(from + i, width), width);
  }
}

// One patch, side by side: out[taps * depth]. Taps that are neighbours in a row of the image are copied at once.
static void copy_patch(const Patches& p, const RowWalk& at, float* out) {
  for (int t = 0; t < p.taps;) {
    int run = 1;
    while (t + run < p.taps && p.tap_y[t + run] == p.tap_y[t] && p.tap_x[t + run] == p.tap_x[t] + run) ++run;
    const float* first = patch_pixel(p, at, t);
    if (first && patch_pixel(p, at, t + run - 1)) {
      copy_floats(first, int64_t(run) * p.depth, out + int64_t(t) * p.depth);
    } else {
      for (int i = t; i < t + run; ++i) {
        const float* pixel = patch_pixel(p, at, i);
        for (int d = 0; d < p.depth; ++d) out[int64_t(i) * p.depth + d] = pixel ? pixel[d] : 0.0f;
      }
    }
    t += run;
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
