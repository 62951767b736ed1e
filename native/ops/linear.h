// Layers on single positions (1x1 convolutions of stride 1, linear layers; is_pointwise) in training graphs without
// batch norms, together with the GELUs between them (graph/fuse_linear.cpp). R rows of C inputs and K outputs, shapes
// as in conv.h. x, y, slope, dy, du and w are of the storage type, bias and d_bias float32.
#pragma once
#include "ops/conv.h"

namespace lgd {

// With u = x w^T + bias:  y [R,K] = act(u),  slope [R,K] = act'(u); act is a GELU. Backward needs nothing else of u.
void linear_act_forward_cpu(Context&, const ConvShape&, DType type, const void* x, const void* w, const float* bias,
                            Act act, void* slope, void* y);
void linear_act_forward_cuda(Context&, const ConvShape&, DType type, const void* x, const void* w, const float* bias,
                             Act act, void* slope, void* y);

// The data gradient of a layer whose x is act(u) of the layer before and is read by nothing else, with that slope [R,C]:
// du [R,C] = (dy w) slope,  d_bias [C] += the sums of du's columns, the gradient of the bias of the layer before.
void linear_act_backward_cpu(Context&, const ConvShape&, DType type, const void* dy, const void* w, const void* slope,
                             void* du, float* d_bias);
void linear_act_backward_cuda(Context&, const ConvShape&, DType type, const void* dy, const void* w, const void* slope,
                              void* du, float* d_bias);

}  // namespace lgd
