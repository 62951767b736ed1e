#include "ops/swiglu.h"

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

#define LGD_ISA_FILE "ops/swiglu_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

void swiglu_forward_cpu(Context& ctx, int64_t rows, int channels, DType type, const void* x_, void* y_) {
  const float* x = as_f32(type, x_);
  float* y = as_f32(type, y_);
  ctx.pool.for_range(rows, ceil_div(16384, channels), [&](int64_t begin, int64_t end) {
    LGD_DISPATCH(swiglu_rows)(end - begin, channels, x + begin * 2 * channels, y + begin * channels);
  });
}

}  // namespace lgd
