// Layer norm over the channels of each position, forward only: its encoders are frozen.
//
//   y[r,c] = (x[r,c] - mean_r) / sqrt(var_r + eps) * weight[c] + bias[c]
//
// with mean and (biased) variance over the C channels of row r. x, y [R,C] of the storage type; weight, bias float32
// [C]; arithmetic in float32. On CUDA, C is a multiple of 8 without padding.
#pragma once
#include "core/context.h"

namespace lgd {

struct LayerNormShape {
  int64_t rows;
  int channels;
  float eps;
};
void layer_norm_forward_cpu(Context&, const LayerNormShape&, DType type, const void* x, const float* weight,
                            const float* bias, void* y);
void layer_norm_forward_cuda(Context&, const LayerNormShape&, DType type, const void* x, const float* weight,
                             const float* bias, void* y);

}  // namespace lgd
