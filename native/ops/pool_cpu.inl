// Vector code of ops/pool.h, once per instruction set. Functions work on one image.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

// The places of a window inside of the image, as offsets of their pixels, in row-major order.
struct Window {
  static constexpr int most = 64;
  int count;
  int64_t at[most];

  Window(const PoolShape& s, int oy, int ox) : count(0) {
    for (int r = 0; r < s.kernel; ++r)
      for (int q = 0; q < s.kernel; ++q) {
        const int iy = oy * s.stride - s.pad + r, ix = ox * s.stride - s.pad + q;
        if (iy >= 0 && iy < s.h && ix >= 0 && ix < s.w) at[count++] = (int64_t(iy) * s.w + ix) * s.c;
      }
  }
};

// Where `value` takes the place of the maximum so far. A NaN wins and stays.
static inline __attribute__((always_inline)) VecI wins(Vec value, Vec best) {
  return (value > best) | (value != value);
}

void max_pool_image(const PoolShape& s, const float* x, float* y) {
  for (int oy = 0; oy < s.oh; ++oy) {
    for (int ox = 0; ox < s.ow; ++ox, y += s.c) {
      const Window window(s, oy, ox);
      LGD_FOR_VECTORS(c, width, s.c) {
        const bool whole = width == lanes;
        Vec best = Vec{} - __builtin_inff();
        for (int i = 0; i < window.count; ++i) {
          const Vec value = whole ? load(x + window.at[i] + c) : load_n(x + window.at[i] + c, width);
          best = wins(value, best) ? value : best;
        }
        if (whole) store(y + c, best);
        else store_n(y + c, best, width);
      }
    }
  }
}

void max_pool_gradient_image(const PoolShape& s, const float* x, const float* dy, float* dx) {
  for (int oy = 0; oy < s.oh; ++oy) {
    for (int ox = 0; ox < s.ow; ++ox, dy += s.c) {
      const Window window(s, oy, ox);
      LGD_FOR_VECTORS(c, width, s.c) {
        const bool whole = width == lanes;
        auto get = [&](const float* p) { return whole ? load(p + c) : load_n(p + c, width); };
        Vec best = get(x + window.at[0]);
        VecI winner = {};
        for (int i = 1; i < window.count; ++i) {
          const Vec value = get(x + window.at[i]);
          const VecI here = wins(value, best);
          best = here ? value : best;
          winner = here ? VecI{} + i : winner;
        }
        const Vec gradient = get(dy);
        for (int i = 0; i < window.count; ++i) {
          float* at = dx + window.at[i];
          const Vec sum = get(at) + (winner == i ? gradient : Vec{});
          if (whole) store(at + c, sum);
          else store_n(at + c, sum, width);
        }
      }
    }
  }
}

void avg_pool_image(const PoolShape& s, const float* x, float* y) {
  const float factor = 1.0f / float(s.kernel * s.kernel);
  for (int oy = 0; oy < s.oh; ++oy) {
    for (int ox = 0; ox < s.ow; ++ox, y += s.c) {
      for (int c = 0; c < s.c; ++c) y[c] = 0;
      for (int r = 0; r < s.kernel; ++r) {
        for (int q = 0; q < s.kernel; ++q) {
          const float* in = x + (int64_t(oy * s.kernel + r) * s.w + ox * s.kernel + q) * s.c;
          for (int c = 0; c < s.c; ++c) y[c] += in[c];
        }
      }
      for (int c = 0; c < s.c; ++c) y[c] *= factor;
    }
  }
}

void avg_pool_gradient_image(const PoolShape& s, const float* dy, float* dx, bool accumulate) {
  const float factor = 1.0f / float(s.kernel * s.kernel);
  for (int iy = 0; iy < s.h; ++iy) {
    for (int ix = 0; ix < s.w; ++ix, dx += s.c) {
      const int oy = iy / s.kernel, ox = ix / s.kernel;
      const bool inside = oy < s.oh && ox < s.ow;  // the last rows and columns may belong to no window
      const float* g = dy + (int64_t(oy) * s.ow + ox) * s.c;
      for (int c = 0; c < s.c; ++c) dx[c] = (accumulate ? dx[c] : 0.0f) + (inside ? g[c] * factor : 0.0f);
    }
  }
}

void global_pool_image(int64_t pixels, int channels, const float* x, float* y) {
  const float factor = 1.0f / float(pixels);
  for (int c = 0; c < channels; ++c) y[c] = 0;
  for (int64_t p = 0; p < pixels; ++p, x += channels)
    for (int c = 0; c < channels; ++c) y[c] += x[c];
  for (int c = 0; c < channels; ++c) y[c] *= factor;
}

void global_pool_gradient_image(int64_t pixels, int channels, const float* dy, float* dx, bool accumulate) {
  const float factor = 1.0f / float(pixels);
  for (int64_t p = 0; p < pixels; ++p, dx += channels)
    for (int c = 0; c < channels; ++c) dx[c] = (accumulate ? dx[c] : 0.0f) + dy[c] * factor;
}

}  // namespace
}  // namespace lgd::LGD_ISA
