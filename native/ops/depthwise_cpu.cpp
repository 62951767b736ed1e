#include "ops/depthwise.h"

#include "core/simd.h"
#include "ops/common_cpu.h"
#include "ops/norm_act.h"

#define LGD_ISA_FILE "ops/depthwise_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

void depthwise_forward_cpu(Context& ctx, const ConvShape& s, DType type, const void* x_, const void* w_, const Epilogue& epilogue, void* y_) {
  const float *x = as_f32(type, x_), *w = as_f32(type, w_);
  float* y = as_f32(type, y_);
  const int64_t in = int64_t(s.h) * s.w * s.c, out = int64_t(s.oh) * s.ow * s.c;
  ctx.pool.for_each(s.n, [&](int, int64_t n) { LGD_DISPATCH(depthwise_image)(s, x + n * in, w, y + n * out); });
  affine_act_forward_cpu(ctx, s.rows(), s.c, type, y, epilogue.scale, epilogue.shift, epilogue.residual, epilogue.act, y);
}

void depthwise_backward_data_cpu(Context& ctx, const ConvShape& s, DType type, const void* dy_, const void* w_, void* dx_, bool accumulate) {
  const float *dy = as_f32(type, dy_), *w = as_f32(type, w_);
  float* dx = as_f32(type, dx_);
  const int64_t in = int64_t(s.h) * s.w * s.c, out = int64_t(s.oh) * s.ow * s.c;
  ctx.pool.for_each(s.n, [&](int, int64_t n) {
    if (!accumulate) std::fill_n(dx + n * in, in, 0.0f);
    LGD_DISPATCH(depthwise_data_gradient_image)(s, dy + n * out, w, dx + n * in);
  });
}

void depthwise_backward_weight_cpu(Context&, const ConvShape& s, DType type, const void* x_, const void* dy_, float* dw) {
  const float *x = as_f32(type, x_), *dy = as_f32(type, dy_);
  const int64_t in = int64_t(s.h) * s.w * s.c, out = int64_t(s.oh) * s.ow * s.c;
  for (int64_t n = 0; n < s.n; ++n) LGD_DISPATCH(depthwise_weight_gradient_image)(s, x + n * in, dy + n * out, dw);
}

}  // namespace lgd
