#include "ops/conv.h"

#include "core/simd.h"
#include "ops/common_cpu.h"
#include "ops/norm_act.h"

#define LGD_ISA_FILE "ops/conv_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

void conv_forward_cpu(Context& ctx, const ConvShape& s, DType type, const void* x_, const void* w_, const Epilogue& epilogue, void* y_) {
  const float *x = as_f32(type, x_), *w = as_f32(type, w_);
  float* y = as_f32(type, y_);
  const int64_t in = int64_t(s.h) * s.w * s.c, out = int64_t(s.oh) * s.ow * s.k;
  ctx.pool.for_each(s.n, [&](int, int64_t n) { LGD_DISPATCH(conv_image)(s, x + n * in, w, y + n * out); });
  affine_act_forward_cpu(ctx, s.rows(), s.k, type, y, epilogue.scale, epilogue.shift, epilogue.residual, epilogue.act, y);
}

void conv_backward_data_cpu(Context& ctx, const ConvShape& s, DType type, const void* dy_, const void* w_, void* dx_, bool accumulate) {
  const float *dy = as_f32(type, dy_), *w = as_f32(type, w_);
  float* dx = as_f32(type, dx_);
  const int64_t in = int64_t(s.h) * s.w * s.c, out = int64_t(s.oh) * s.ow * s.k;
  ctx.pool.for_each(s.n, [&](int, int64_t n) {
    if (!accumulate) std::fill_n(dx + n * in, in, 0.0f);
    LGD_DISPATCH(conv_data_gradient_image)(s, dy + n * out, w, dx + n * in);
  });
}

void conv_backward_weight_cpu(Context& ctx, const ConvShape& s, DType type, const void* x_, const void* dy_, float* dw, float* d_bias) {
  const float *x = as_f32(type, x_), *dy = as_f32(type, dy_);
  ctx.pool.for_each(s.k, [&](int, int64_t k) {
    LGD_DISPATCH(conv_weight_gradient_channel)(s, int(k), x, dy, dw + k * s.r * s.s * s.c);
    if (!d_bias) return;
    double sum = 0;
    for (int64_t row = 0; row < s.rows(); ++row) sum += dy[row * s.k + k];
    d_bias[k] += float(sum);
  });
}

}  // namespace lgd
