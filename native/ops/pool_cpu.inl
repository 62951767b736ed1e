// Vector code of ops/pool.h, once per instruction set. Functions work on one image.
namespace lgd::LGD_ISA {
namespace {

void max_pool_image(const PoolShape& s, const float* x, float* y) {
  for (int oy = 0; oy < s.oh; ++oy) {
    for (int ox = 0; ox < s.ow; ++ox, y += s.c) {
      for (int c = 0; c < s.c; ++c) y[c] = -__builtin_inff();
      for (int r = 0; r < s.kernel; ++r) {
        const int iy = oy * s.stride - s.pad + r;
        if (iy < 0 || iy >= s.h) continue;
        for (int q = 0; q < s.kernel; ++q) {
          const int ix = ox * s.stride - s.pad + q;
          if (ix < 0 || ix >= s.w) continue;
          const float* in = x + (int64_t(iy) * s.w + ix) * s.c;
          for (int c = 0; c < s.c; ++c) y[c] = in[c] > y[c] || in[c] != in[c] ? in[c] : y[c];  // a NaN wins and stays
        }
      }
    }
  }
}

// `best` [C] and `where` [C]: room for the maximum and its place while one window is scanned.
void max_pool_gradient_image(const PoolShape& s, const float* x, const float* dy, float* dx, float* best, int32_t* where) {
  for (int oy = 0; oy < s.oh; ++oy) {
    for (int ox = 0; ox < s.ow; ++ox, dy += s.c) {
      for (int c = 0; c < s.c; ++c) best[c] = -__builtin_inff(), where[c] = -1;
      for (int r = 0; r < s.kernel; ++r) {
        const int iy = oy * s.stride - s.pad + r;
        if (iy < 0 || iy >= s.h) continue;
        for (int q = 0; q < s.kernel; ++q) {
          const int ix = ox * s.stride - s.pad + q;
          if (ix < 0 || ix >= s.w) continue;
          const int32_t at = iy * s.w + ix;
          const float* in = x + int64_t(at) * s.c;
          for (int c = 0; c < s.c; ++c) {
            const bool wins = where[c] < 0 || in[c] > best[c] || in[c] != in[c];
            best[c] = wins ? in[c] : best[c];
            where[c] = wins ? at : where[c];
          }
        }
      }
      for (int c = 0; c < s.c; ++c)
        if (where[c] >= 0) dx[int64_t(where[c]) * s.c + c] += dy[c];
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
