#include "ops/self_attention.h"

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

#define LGD_ISA_FILE "ops/self_attention_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

void self_attention_forward_cpu(Context& ctx, const SelfAttentionShape& s, DType type, const void* qkv_, void* out_) {
  const float* qkv = as_f32(type, qkv_);
  float* out = as_f32(type, out_);
  const int width = s.channels / s.heads;
  const int64_t padded = ceil_div(s.tokens, 32) * 32, image = int64_t(s.tokens) * s.channels;
  ctx.pool.for_range(
      int64_t(s.n) * s.heads, ceil_div(16384, int64_t(s.tokens) * s.tokens * width), [&](int64_t begin, int64_t end) {
        Workspace keys, scores;
        float *turned = keys.floats(padded * width), *weights = scores.floats(padded * 4);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t n = i / s.heads, at = i % s.heads * width;
          LGD_DISPATCH(self_attention_head)(s, qkv + 3 * n * image + at, out + n * image + at, turned, weights, padded);
        }
      });
}

}  // namespace lgd
