// CLIP's attention pooling (ModifiedResNet), forward only; the projections are convolutions (ops/conv.h).
#pragma once
#include "ops/context.h"

namespace lgd {

// tokens[n,0,:] = mean_p x[n,p,:] + position[0,:];  tokens[n,1+p,:] = x[n,p,:] + position[1+p,:].
// x [N,P,C], position float32 [P+1,C], tokens [N,P+1,C].
void tokens_forward_cpu(Context&, int n, int pixels, int c, DType type, const void* x, const float* position, void* tokens);
void tokens_forward_cuda(Context&, int n, int pixels, int c, DType type, const void* x, const float* position, void* tokens);

// y[n,t] = tokens[n,0,:] for the one query that is used. tokens [N,T,C], y [N,C].
void first_token_forward_cpu(Context&, int n, int tokens_count, int c, DType type, const void* tokens, void* y);
void first_token_forward_cuda(Context&, int n, int tokens_count, int c, DType type, const void* tokens, void* y);

// One query an image: out[n,h,:] = softmax_t(q[n,h,:] . k[n,t,h,:] / sqrt(C/heads)) v[n,t,h,:]. q [N,C], k and v [N,T,C], out [N,C].
struct AttentionShape { int n, tokens, channels, heads; };
void query_attention_forward_cpu(Context&, const AttentionShape&, DType type, const void* q, const void* k, const void* v, void* out);
void query_attention_forward_cuda(Context&, const AttentionShape&, DType type, const void* q, const void* k, const void* v, void* out);

}  // namespace lgd
