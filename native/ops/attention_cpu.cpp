#include "ops/attention.h"

#include <cmath>

#include "core/simd.h"
#include "ops/common_cpu.h"
#include "ops/conv.h"

#define LGD_ISA_FILE "ops/attention_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

void tokens_forward_cpu(Context& ctx, int n, int pixels, int c, DType type, const void* x_, const float* position,
                        void* tokens_) {
  const float* x = as_f32(type, x_);
  float* tokens = as_f32(type, tokens_);
  const int64_t in = int64_t(pixels) * c, out = in + c;
  ctx.pool.for_range(n, ceil_div(16384, out), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) LGD_DISPATCH(tokens_image)(pixels, c, x + i * in, position, tokens + i * out);
  });
}

void first_token_forward_cpu(Context&, int n, int tokens_count, int c, DType type, const void* tokens_, void* y_) {
  const float* tokens = as_f32(type, tokens_);
  float* y = as_f32(type, y_);
  for (int64_t i = 0; i < n; ++i) std::copy_n(tokens + i * tokens_count * c, c, y + i * c);
}

void first_token_backward_cpu(Context& ctx, int n, int tokens_count, int c, DType type, const void* dy_,
                              void* d_tokens_, bool accumulate) {
  const float* dy = as_f32(type, dy_);
  float* d_tokens = as_f32(type, d_tokens_);
  const int64_t image = int64_t(tokens_count) * c;
  ctx.pool.for_range(n, ceil_div(16384, image), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* to = d_tokens + i * image;
      if (!accumulate) std::fill_n(to, image, 0.0f);
      for (int k = 0; k < c; ++k) to[k] += dy[i * c + k];
    }
  });
}

void query_attention_forward_cpu(Context& ctx, const AttentionShape& s, DType type, const void* q_, const void* k_,
                                 const void* v_, void* out_) {
  const float *q = as_f32(type, q_), *k = as_f32(type, k_), *v = as_f32(type, v_);
  float* out = as_f32(type, out_);
  const int64_t image = int64_t(s.tokens) * s.channels;
  ctx.pool.for_range(s.n, ceil_div(8192, image), [&](int64_t begin, int64_t end) {
    std::vector<float> score(s.tokens);
    for (int64_t i = begin; i < end; ++i)
      LGD_DISPATCH(query_attention_image)(s, q + i * s.channels, k + i * image, v + i * image, out + i * s.channels,
                                          score.data());
  });
}

// For checks: no plan for the CPU has it. Forms the keys and values.
void absorbed_attention_forward_cpu(Context& ctx, const AbsorbedShape& s, DType type, const void* q, const void* x,
                                    const void* wk, const void* wv, const float* bv, void* out) {
  const int rows = s.n * s.tokens;
  const ConvShape linear = linear_shape(rows, s.channels, s.inner());
  std::vector<float> k(size_t(rows) * s.inner()), v(k.size());
  conv_forward_cpu(ctx, linear, type, x, wk, {}, k.data());
  conv_forward_cpu(ctx, linear, type, x, wv, {nullptr, bv}, v.data());
  query_attention_forward_cpu(ctx, {s.n, s.tokens, s.inner(), s.heads}, type, q, k.data(), v.data(), out);
}

}  // namespace lgd
