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

void self_attention_backward_cpu(Context& ctx, const SelfAttentionShape& s, DType type, const void* qkv_,
                                 const void* out_, const void* d_out_, void* d_qkv_, bool accumulate) {
  const float *qkv = as_f32(type, qkv_), *out = as_f32(type, out_), *d_out = as_f32(type, d_out_);
  float* d_qkv = as_f32(type, d_qkv_);
  const int width = s.channels / s.heads;
  const int64_t padded = ceil_div(s.tokens, 32) * 32, image = int64_t(s.tokens) * s.channels;
  ctx.pool.for_range(int64_t(s.n) * s.heads, ceil_div(8192, int64_t(s.tokens) * s.tokens * width),
                     [&](int64_t begin, int64_t end) {
                       Workspace turned, rows;
                       float *memory = turned.floats(2 * padded * width), *weights = rows.floats(8 * padded);
                       for (int64_t i = begin; i < end; ++i) {
                         const int64_t n = i / s.heads, at = i % s.heads * width;
                         LGD_DISPATCH(self_attention_head_backward)
                         (s, qkv + 3 * n * image + at, out + n * image + at, d_out + n * image + at,
                          d_qkv + 3 * n * image + at, accumulate, memory, weights, padded);
                       }
                     });
}

}  // namespace lgd
