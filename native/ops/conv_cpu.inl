// Vector code of ops/conv.h, once per instruction set.
namespace lgd::LGD_ISA {
namespace {

// Calls body(output pixel, tap, input pixel) for every pair of an output pixel and a tap inside one image.
template <class Body>
static inline __attribute__((always_inline)) void each_tap(const ConvShape& s, Body&& body) {
  for (int oy = 0; oy < s.oh; ++oy)
    for (int ox = 0; ox < s.ow; ++ox)
      for (int r = 0; r < s.r; ++r)
        for (int q = 0; q < s.s; ++q) {
          const int iy = oy * s.stride - s.pad + r * s.dilation, ix = ox * s.stride - s.pad + q * s.dilation;
          if (iy >= 0 && iy < s.h && ix >= 0 && ix < s.w) body(int64_t(oy) * s.ow + ox, int64_t(r) * s.s + q, int64_t(iy) * s.w + ix);
        }
}

void conv_image(const ConvShape& s, const float* __restrict x, const float* __restrict w, float* __restrict y) {
  for (int64_t i = 0; i < int64_t(s.oh) * s.ow * s.k; ++i) y[i] = 0;
  each_tap(s, [&](int64_t out, int64_t tap, int64_t in) {
    for (int k = 0; k < s.k; ++k) {
      const float* wk = w + (int64_t(k) * s.r * s.s + tap) * s.c;
      Vec sum = {};
      int c = 0;
      for (; c + lanes <= s.c; c += lanes) sum += load(x + in * s.c + c) * load(wk + c);
      float dot = 0;
      for (int lane = 0; lane < lanes; ++lane) dot += sum[lane];
      for (; c < s.c; ++c) dot += x[in * s.c + c] * wk[c];
      y[out * s.k + k] += dot;
    }
  });
}

void conv_data_gradient_image(const ConvShape& s, const float* __restrict dy, const float* __restrict w, float* __restrict dx) {
  each_tap(s, [&](int64_t out, int64_t tap, int64_t in) {
    for (int k = 0; k < s.k; ++k) {
      const float g = dy[out * s.k + k];
      const float* wk = w + (int64_t(k) * s.r * s.s + tap) * s.c;
      for (int c = 0; c < s.c; ++c) dx[in * s.c + c] += g * wk[c];
    }
  });
}

void conv_weight_gradient_channel(const ConvShape& s, int k, const float* __restrict x, const float* __restrict dy, float* __restrict dw) {
  for (int64_t n = 0; n < s.n; ++n) {
    const float *image = x + n * s.h * s.w * s.c, *gradient = dy + n * s.oh * s.ow * s.k;
    each_tap(s, [&](int64_t out, int64_t tap, int64_t in) {
      const float g = gradient[out * s.k + k];
      for (int c = 0; c < s.c; ++c) dw[tap * s.c + c] += g * image[in * s.c + c];
    });
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
