// The gate of an MLP by half of its channels (Shazeer, "GLU variants improve transformer", 2020), forward only: its
// encoders are frozen.
//
//   y[r,c] = silu(x[r,c]) x[r,C + c]
//
// x [R,2C], y [R,C] of the storage type; arithmetic in float32. On CUDA, C is a multiple of 8.
#pragma once
#include "core/context.h"

namespace lgd {

void swiglu_forward_cpu(Context&, int64_t rows, int channels, DType type, const void* x, void* y);
void swiglu_forward_cuda(Context&, int64_t rows, int channels, DType type, const void* x, void* y);

}  // namespace lgd
