// Rotary position embeddings (Su et al., "RoFormer", 2021) of the queries and keys of a sequence, forward only: its
// encoders are frozen. The halves of a head turn against each other, by angles of the token's position: for d < W / 2
//
//   y[d]         = x[d] cos - x[d + W/2] sin
//   y[d + W/2]   = x[d + W/2] cos + x[d] sin        cos, sin: table[t - first, d], table[t - first, W/2 + d]
//
// with W = C / heads. The `first` tokens (a class token, registers) and the values stay as they are. qkv, y [N,T,3C], a
// row queries, keys, values one after the other, each [heads,W]; table float32 [T - first,W]. y may be qkv: then only
// what turns is read and written. W is even; on CUDA a multiple of 16.
#pragma once
#include "core/context.h"

namespace lgd {

struct RotaryShape {
  int n, tokens, channels, heads, first;
};
void rotary_forward_cpu(Context&, const RotaryShape&, DType type, const void* qkv, const float* table, void* y);
void rotary_forward_cuda(Context&, const RotaryShape&, DType type, const void* qkv, const float* table, void* y);

}  // namespace lgd
