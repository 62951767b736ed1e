#include "ops/layer_norm.h"

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

#define LGD_ISA_FILE "ops/layer_norm_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

void layer_norm_forward_cpu(Context& ctx, const LayerNormShape& s, DType type, const void* x_, const float* weight,
                            const float* bias, void* y_) {
  const float* x = as_f32(type, x_);
  float* y = as_f32(type, y_);
  ctx.pool.for_range(s.rows, ceil_div(16384, s.channels), [&](int64_t begin, int64_t end) {
    LGD_DISPATCH(layer_norm_rows)(s, end - begin, x + begin * s.channels, weight, bias, y + begin * s.channels);
  });
}

void layer_norm_backward_cpu(Context& ctx, const LayerNormShape& s, DType type, const void* x_, const void* dy_,
                             const float* weight, void* dx_, bool accumulate, float* d_weight, float* d_bias) {
  const float *x = as_f32(type, x_), *dy = as_f32(type, dy_);
  float* dx = as_f32(type, dx_);
  const Partition parts(s.rows, ceil_div(16384, s.channels), 64);
  thread_local Workspace workspace;
  float* partial = workspace.floats(parts.parts * 2 * s.channels);
  ctx.pool.for_each(parts.parts, [&](int, int64_t part) {
    const int64_t begin = parts.begin(part) * s.channels;
    LGD_DISPATCH(layer_norm_gradient_rows)(s, parts.end(part) - parts.begin(part), x + begin, dy + begin, weight,
                                           dx + begin, accumulate, partial + part * 2 * s.channels);
  });
  for (int64_t part = 0; part < parts.parts; ++part) {
    const float* sums = partial + part * 2 * s.channels;
    for (int c = 0; c < s.channels; ++c) {
      d_weight[c] += sums[c];
      d_bias[c] += sums[s.channels + c];
    }
  }
}

}  // namespace lgd
