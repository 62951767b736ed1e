// Vector code of ops/layer_scale.h, once per instruction set: rows of one image.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

void layer_scale_rows(int64_t rows, int channels, const float* x, const float* gamma, float keep, const float* residual,
                      float* y) {
  for (int64_t row = 0; row < rows; ++row, x += channels, y += channels) {
    LGD_FOR_VECTORS(c, width, channels) {
      const int n = int(width);
      const Vec scaled = load_n(x + c, n) * (load_n(gamma + c, n) * keep);
      store_n(y + c, residual ? load_n(residual + c, n) + scaled : scaled, n);
    }
    if (residual) residual += channels;
  }
}

// sums [C] += keep dy x.
void layer_scale_gradient_rows(int64_t rows, int channels, const float* x, const float* gamma, float keep,
                               const float* dy, float* dx, bool accumulate, float* sums) {
  for (int64_t row = 0; row < rows; ++row, x += channels, dy += channels, dx += channels) {
    LGD_FOR_VECTORS(c, width, channels) {
      const int n = int(width);
      const Vec g = load_n(dy + c, n) * keep, scaled = g * load_n(gamma + c, n);
      store_n(sums + c, load_n(sums + c, n) + g * load_n(x + c, n), n);
      store_n(dx + c, accumulate ? load_n(dx + c, n) + scaled : scaled, n);
    }
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
