// Vector code of ops/layer_norm.h, once per instruction set.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

static inline float sum_of(Vec v) {
  float sum = 0;
  for (int i = 0; i < lanes; ++i) sum += v[i];
  return sum;
}

struct RowNorm {
  float mean, rstd;
};
static inline RowNorm norm_of_row(const LayerNormShape& s, const float* x) {
  const int64_t whole = s.channels / lanes * lanes;
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
  return {mean, 1.0f / __builtin_sqrtf(square / float(s.channels) + s.eps)};
}

void layer_norm_rows(const LayerNormShape& s, int64_t rows, const float* x, const float* weight, const float* bias,
                     float* y) {
  for (int64_t row = 0; row < rows; ++row, x += s.channels, y += s.channels) {
    const RowNorm norm = norm_of_row(s, x);
    LGD_FOR_VECTORS(c, width, s.channels) {
      const Vec normed = (load_n(x + c, int(width)) - norm.mean) * norm.rstd;
      store_n(y + c, normed * load_n(weight + c, int(width)) + load_n(bias + c, int(width)), int(width));
    }
  }
}

// sums [2][C] is set: of dy * n, and of dy.
void layer_norm_gradient_rows(const LayerNormShape& s, int64_t rows, const float* x, const float* dy,
                              const float* weight, float* dx, bool accumulate, float* sums) {
  float *of_weight = sums, *of_bias = sums + s.channels;
  for (int64_t i = 0; i < 2 * s.channels; ++i) sums[i] = 0;
  for (int64_t row = 0; row < rows; ++row, x += s.channels, dy += s.channels, dx += s.channels) {
    const RowNorm norm = norm_of_row(s, x);
    Vec sum = {}, product = {};
    LGD_FOR_VECTORS(c, width, s.channels) {
      const int n = int(width);
      const Vec gradient = load_n(dy + c, n), g = gradient * load_n(weight + c, n),
                normed = (load_n(x + c, n) - norm.mean) * norm.rstd;
      sum += g;
      product += g * normed;  // behind the row g is zero
      store_n(of_weight + c, load_n(of_weight + c, n) + gradient * normed, n);
      store_n(of_bias + c, load_n(of_bias + c, n) + gradient, n);
    }
    const float mean = sum_of(sum) / float(s.channels), along = sum_of(product) / float(s.channels);
    LGD_FOR_VECTORS(c, width, s.channels) {
      const int n = int(width);
      const Vec g = load_n(dy + c, n) * load_n(weight + c, n), normed = (load_n(x + c, n) - norm.mean) * norm.rstd;
      const Vec result = (g - mean - normed * along) * norm.rstd;
      store_n(dx + c, accumulate ? load_n(dx + c, n) + result : result, n);
    }
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
