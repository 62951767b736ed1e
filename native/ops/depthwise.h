// Depthwise convolution: each channel with its own kernel.
//
//   y[n,oy,ox,c] = sum_{r,s} x[n, oy*stride - pad + r, ox*stride - pad + s, c] * w[r,s,c]      (zero outside)
//
// The shape is a ConvShape with k == c; weights [R][S][C], R == S in {3, 5, 7}; stride 1 or 2; dilation >= 1.
#pragma once
#include "ops/conv.h"

namespace lgd {

void depthwise_forward_cpu(Context&, const ConvShape&, DType type, const void* x, const void* w, const Epilogue&,
                           void* y);
void depthwise_forward_cuda(Context&, const ConvShape&, DType type, const void* x, const void* w, const Epilogue&,
                            void* y);
void depthwise_backward_data_cpu(Context&, const ConvShape&, DType type, const void* dy, const void* w, void* dx,
                                 bool accumulate);
void depthwise_backward_data_cuda(Context&, const ConvShape&, DType type, const void* dy, const void* w, void* dx,
                                  bool accumulate);
// dw += ; d_bias [C] += sum of dy, or null.
void depthwise_backward_weight_cpu(Context&, const ConvShape&, DType type, const void* x, const void* dy, float* dw,
                                   float* d_bias);
void depthwise_backward_weight_cuda(Context&, const ConvShape&, DType type, const void* x, const void* dy, float* dw,
                                    float* d_bias);

}  // namespace lgd
