// Multi-head self-attention over sequences. The projections are linear layers (ops/conv.h).
//
//   out[n,i,h,:] = sum_j P[i,j] v[n,j,h,:]      P[i,:] = softmax_j(q[n,i,h,:] . k[n,j,h,:] / sqrt(W))
//
// with W = C / heads; causal: over j <= i only. qkv [N,T,3C], a row queries, keys, values one after the other, each
// [heads,W]; out [N,T,C]. Scores and sums in float32. On CUDA, W is a multiple of 8 and at most 128; with bfloat16
// storage the softmax's weights are rounded to it before they meet the values.
//
// Backward, of one head, from out, which the forward pass left, and d_out; P is computed again:
//
//   D[i] = d_out[i,:] . out[i,:]   (= sum_j P[i,j] (d_out[i,:] . v[j,:]))
//   dS[i,j] = P[i,j] (d_out[i,:] . v[j,:] - D[i]) / sqrt(W)
//   dq[i,:] = sum_j dS[i,j] k[j,:]    dk[j,:] = sum_i dS[i,j] q[i,:]    dv[j,:] = sum_i P[i,j] d_out[i,:]
//
// d_qkv lies as qkv, and is written, or added to. On CUDA, W is at most 64, and float32 takes no more tokens than
// most_float32_tokens.
#pragma once
#include "core/context.h"

namespace lgd {

struct SelfAttentionShape {
  int n, tokens, channels, heads;
  bool causal;
};
constexpr int widest_trained_head = 64, most_float32_tokens = 3168;  // on CUDA

void self_attention_forward_cpu(Context&, const SelfAttentionShape&, DType type, const void* qkv, void* out);
void self_attention_forward_cuda(Context&, const SelfAttentionShape&, DType type, const void* qkv, void* out);
void self_attention_backward_cpu(Context&, const SelfAttentionShape&, DType type, const void* qkv, const void* out,
                                 const void* d_out, void* d_qkv, bool accumulate);
void self_attention_backward_cuda(Context&, const SelfAttentionShape&, DType type, const void* qkv, const void* out,
                                  const void* d_out, void* d_qkv, bool accumulate);

}  // namespace lgd
