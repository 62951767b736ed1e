#include "ops/rotary.h"

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

#define LGD_ISA_FILE "ops/rotary_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

void rotary_forward_cpu(Context& ctx, const RotaryShape& s, DType type, const void* qkv_, const float* table,
                        void* y_) {
  const float* qkv = as_f32(type, qkv_);
  float* y = as_f32(type, y_);
  const int width = s.channels / s.heads;
  const int64_t row = 3 * int64_t(s.channels);
  ctx.pool.for_range(int64_t(s.n) * s.tokens, ceil_div(16384, row), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t position = r % s.tokens - s.first;
      if (y != qkv) std::copy_n(qkv + r * row, row, y + r * row);
      if (position >= 0)
        LGD_DISPATCH(rotary_token)(2 * s.heads, width / 2, qkv + r * row, table + position * width, y + r * row);
    }
  });
}

}  // namespace lgd
