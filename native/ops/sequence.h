// How sequences begin and end; those of text forward only: their encoders are frozen. Tables are float32, sequences of
// the storage type.
//
// Text comes as an image one pixel wide: position t of row n holds a token id in base 256, lowest digit first, in its
// three channels, since a bfloat16 holds 0 to 255 exactly. ids [N,T,I], I the channels as stored (3, or 8 with
// padding).
#pragma once
#include "core/context.h"

namespace lgd {

struct SequenceShape {
  int n, tokens, channels;
};

// y[n,t,:] = constant[t,:] + position[t,:] for the `first` tokens, which are the same in every image (a class token,
// registers), and x[n,t-first,:] + position[t,:] behind them. x [N,P,C]; position [T,C]; constant [first,C], or null:
// zeros; y [N,T,C]; T = tokens = first + P.
void positions_forward_cpu(Context&, const SequenceShape&, DType type, int first, const void* x, const float* position,
                           const float* constant, void* y);
void positions_forward_cuda(Context&, const SequenceShape&, DType type, int first, const void* x, const float* position,
                            const float* constant, void* y);
// dx (or null) is written, or added to; d_position and d_constant (or null), sums over the images, are added to.
void positions_backward_cpu(Context&, const SequenceShape&, DType type, int first, const void* dy, void* dx,
                            bool accumulate, float* d_position, float* d_constant);
void positions_backward_cuda(Context&, const SequenceShape&, DType type, int first, const void* dy, void* dx,
                             bool accumulate, float* d_position, float* d_constant);

// y[n,t,:] = word[id[n,t],:] + position[t,:]; an id past the table reads its last row.
// word [V,C], position [>= T,C], y [N,T,C].
void words_forward_cpu(Context&, const SequenceShape&, DType type, int id_channels, int words, const void* ids,
                       const float* word, const float* position, void* y);
void words_forward_cuda(Context&, const SequenceShape&, DType type, int id_channels, int words, const void* ids,
                        const float* word, const float* position, void* y);

// y[n,:] = x[n,t,:] with t the first position whose id is `end`, or the last position if there is none.
// x [N,T,C], y [N,C].
void end_token_forward_cpu(Context&, const SequenceShape&, DType type, int id_channels, int end, const void* x,
                           const void* ids, void* y);
void end_token_forward_cuda(Context&, const SequenceShape&, DType type, int id_channels, int end, const void* x,
                            const void* ids, void* y);

// y[n,:] = value for every image: the query of a learned pooling.   value [C], y [N,C].
void repeat_forward_cpu(Context&, int n, int channels, DType type, const float* value, void* y);
void repeat_forward_cuda(Context&, int n, int channels, DType type, const float* value, void* y);

}  // namespace lgd
