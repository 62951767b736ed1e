// Vector code of ops/depthwise.h, once per instruction set.
namespace lgd::LGD_ISA {
namespace {

template <class Body>
static inline __attribute__((always_inline)) void each_tap(const ConvShape& s, Body&& body) {
  for (int oy = 0; oy < s.oh; ++oy)
    for (int ox = 0; ox < s.ow; ++ox)
      for (int r = 0; r < s.r; ++r)
        for (int q = 0; q < s.s; ++q) {
          const int iy = oy * s.stride - s.pad + r * s.dilation, ix = ox * s.stride - s.pad + q * s.dilation;
          if (iy >= 0 && iy < s.h && ix >= 0 && ix < s.w)
            body((int64_t(oy) * s.ow + ox) * s.c, (int64_t(r) * s.s + q) * s.c, (int64_t(iy) * s.w + ix) * s.c);
        }
}

void depthwise_image(const ConvShape& s, const float* __restrict x, const float* __restrict w, float* __restrict y) {
  for (int64_t i = 0; i < int64_t(s.oh) * s.ow * s.c; ++i) y[i] = 0;
  each_tap(s, [&](int64_t out, int64_t tap, int64_t in) {
    for (int c = 0; c < s.c; ++c) y[out + c] += x[in + c] * w[tap + c];
  });
}

void depthwise_data_gradient_image(const ConvShape& s, const float* __restrict dy, const float* __restrict w, float* __restrict dx) {
  each_tap(s, [&](int64_t out, int64_t tap, int64_t in) {
    for (int c = 0; c < s.c; ++c) dx[in + c] += dy[out + c] * w[tap + c];
  });
}

void depthwise_weight_gradient_image(const ConvShape& s, const float* __restrict x, const float* __restrict dy, float* __restrict dw) {
  each_tap(s, [&](int64_t out, int64_t tap, int64_t in) {
    for (int c = 0; c < s.c; ++c) dw[tap + c] += dy[out + c] * x[in + c];
  });
}

}  // namespace
}  // namespace lgd::LGD_ISA
