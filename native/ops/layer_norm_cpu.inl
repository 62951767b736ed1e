// Vector code of ops/layer_norm.h, once per instruction set.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

static inline float sum_of(Vec v) {
  float sum = 0;
  for (int i = 0; i < lanes; ++i) sum += v[i];
  return sum;
}

void layer_norm_rows(const LayerNormShape& s, int64_t rows, const float* x, const float* weight, const float* bias,
                     float* y) {
  const int64_t whole = s.channels / lanes * lanes;
  for (int64_t row = 0; row < rows; ++row, x += s.channels, y += s.channels) {
    Vec sums = {};
    for (int64_t c = 0; c < whole; c += lanes) sums += load(x + c);
    float sum = sum_of(sums);
    for (int64_t c = whole; c < s.channels; ++c) sum += x[c];
    const float mean = sum / float(s.channels);
    Vec squares = {};
    for (int64_t c = 0; c < whole; c += lanes) {
      const Vec d = load(x + c) - mean;
      squares += d * d;
    }
    float square = sum_of(squares);
    for (int64_t c = whole; c < s.channels; ++c) square += (x[c] - mean) * (x[c] - mean);
    const float rstd = 1.0f / __builtin_sqrtf(square / float(s.channels) + s.eps);
    LGD_FOR_VECTORS(c, width, s.channels) {
      const Vec normed = (load_n(x + c, int(width)) - mean) * rstd;
      store_n(y + c, normed * load_n(weight + c, int(width)) + load_n(bias + c, int(width)), int(width));
    }
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
