// Layer scale (Touvron et al., "Going deeper with image transformers", 2021) with what ends a residual branch:
//
//   y[n,p,c] = residual[n,p,c] + keep_n * gamma[c] * x[n,p,c]
//
// keep_n is stochastic depth's factor of the image (ops/elementwise.h, DropShape; drop null: 1), residual may be null.
// Backward (the residual's gradient is dy):
//
//   dx (+)= keep_n * gamma[c] * dy;  d_gamma[c] += sum_{n,p} keep_n * dy * x
//
// x, y, dy, dx, residual of the storage type, gamma float32 [C].
#pragma once
#include "ops/elementwise.h"
#include "ops/fused.h"

namespace lgd {

void layer_scale_forward_cpu(Context&, const RowsShape&, DType type, const void* x, const float* gamma,
                             const DropShape* drop, const void* residual, void* y);
void layer_scale_forward_cuda(Context&, const RowsShape&, DType type, const void* x, const float* gamma,
                              const DropShape* drop, const void* residual, void* y);
void layer_scale_backward_cpu(Context&, const RowsShape&, DType type, const void* x, const float* gamma,
                              const DropShape* drop, const void* dy, void* dx, bool accumulate, float* d_gamma);
void layer_scale_backward_cuda(Context&, const RowsShape&, DType type, const void* x, const float* gamma,
                               const DropShape* drop, const void* dy, void* dx, bool accumulate, float* d_gamma);

}  // namespace lgd
