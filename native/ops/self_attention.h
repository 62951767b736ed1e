// Multi-head self-attention over sequences, forward only: its encoders are frozen. The projections are linear layers
// (ops/conv.h).
//
//   out[n,i,h,:] = sum_j softmax_j(q[n,i,h,:] . k[n,j,h,:] / sqrt(W)) v[n,j,h,:]
//
// with W = C / heads; causal: over j <= i only. qkv [N,T,3C], a row queries, keys, values one after the other, each
// [heads,W]; out [N,T,C]. Scores and sums in float32. On CUDA, W is a multiple of 8 and at most 128; with bfloat16
// storage the softmax's weights are rounded to it before they meet the values.
#pragma once
#include "core/context.h"

namespace lgd {

struct SelfAttentionShape {
  int n, tokens, channels, heads;
  bool causal;
};
void self_attention_forward_cpu(Context&, const SelfAttentionShape&, DType type, const void* qkv, void* out);
void self_attention_forward_cuda(Context&, const SelfAttentionShape&, DType type, const void* qkv, void* out);

}  // namespace lgd
