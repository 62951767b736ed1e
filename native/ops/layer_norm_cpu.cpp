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

}  // namespace lgd
