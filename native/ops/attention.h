// CLIP's attention pooling (ModifiedResNet), forward only but for the choice of a token; the projections are convolutions
// (ops/conv.h).
#pragma once
#include "core/context.h"

namespace lgd {

// tokens[n,0,:] = mean_p x[n,p,:] + position[0,:];  tokens[n,1+p,:] = x[n,p,:] + position[1+p,:].
// x [N,P,C], position float32 [P+1,C], tokens [N,P+1,C].
void tokens_forward_cpu(Context&, int n, int pixels, int c, DType type, const void* x, const float* position,
                        void* tokens);
void tokens_forward_cuda(Context&, int n, int pixels, int c, DType type, const void* x, const float* position,
                         void* tokens);

// y[n,:] = tokens[n,0,:], for the one query that is used. tokens [N,T,C], y [N,C]. d_tokens is written, zeros behind the
// first, or only that is added to.
void first_token_forward_cpu(Context&, int n, int tokens_count, int c, DType type, const void* tokens, void* y);
void first_token_forward_cuda(Context&, int n, int tokens_count, int c, DType type, const void* tokens, void* y);
void first_token_backward_cpu(Context&, int n, int tokens_count, int c, DType type, const void* dy, void* d_tokens,
                              bool accumulate);
void first_token_backward_cuda(Context&, int n, int tokens_count, int c, DType type, const void* dy, void* d_tokens,
                               bool accumulate);

// One query an image: out[n,h,:] = softmax_t(q[n,h,:] . k[n,t,h,:] / sqrt(C/heads)) v[n,t,h,:]. q [N,C], k and v
// [N,T,C], out [N,C].
struct AttentionShape {
  int n, tokens, channels, heads;
};
void query_attention_forward_cpu(Context&, const AttentionShape&, DType type, const void* q, const void* k,
                                 const void* v, void* out);
void query_attention_forward_cuda(Context&, const AttentionShape&, DType type, const void* q, const void* k,
                                  const void* v, void* out);

// The same where keys and values are linear layers of the same tokens, k = Wk x + bk and v = Wv x + bv: with one query
// neither has to be formed,
//   scores = (Wk_h^T q_h) . x[t]        (q_h . bk_h is the same for every t, so the softmax does not see it)
//   out_h  = Wv_h (sum_t softmax(scores)[t] x[t]) + bv_h
// which takes 2 C (inner + heads tokens) multiply-adds an image instead of 2 C inner tokens.
// bfloat16 alone, heads of 64 values, channels a multiple of 128, at most 256 tokens.
struct AbsorbedShape {
  int n, tokens, channels, heads;  // channels: of the tokens
  static constexpr int size = 64;  // of a head
  constexpr int inner() const { return heads * size; }
};
constexpr bool can_absorb(const AbsorbedShape& s) { return s.tokens <= 256 && s.channels % 128 == 0; }
// q, out [N,inner], x [N,T,C], wk, wv [inner][C] storage type; bv float32 [inner] or null.
void absorbed_attention_forward_cpu(Context&, const AbsorbedShape&, DType type, const void* q, const void* x,
                                    const void* wk, const void* wv, const float* bv, void* out);
void absorbed_attention_forward_cuda(Context&, const AbsorbedShape&, DType type, const void* q, const void* x,
                                     const void* wk, const void* wv, const float* bv, void* out);

}  // namespace lgd
