// Layer norm over the channels of each position:
//
//   y[r,c] = n[r,c] * weight[c] + bias[c],  n[r,c] = (x[r,c] - mean_r) / sqrt(var_r + eps)
//
// with mean and (biased) variance over the C channels of row r. Backward, with g[r,c] = dy[r,c] * weight[c]:
//
//   dx[r,c] (+)= (g[r,c] - mean_c(g) - n[r,c] * mean_c(g n)) / sqrt(var_r + eps)
//   d_weight[c] += sum_r dy[r,c] * n[r,c];  d_bias[c] += sum_r dy[r,c]
//
// Mean and variance are computed again: x is read anyway. x, y, dy, dx [R,C] of the storage type; the others float32
// [C]; arithmetic in float32. On CUDA, C is a multiple of 8 without padding, backward at most layer_norm_widest.
#pragma once
#include "core/context.h"

namespace lgd {

struct LayerNormShape {
  int64_t rows;
  int channels;
  float eps;
};
constexpr int layer_norm_widest = 2048;

void layer_norm_forward_cpu(Context&, const LayerNormShape&, DType type, const void* x, const float* weight,
                            const float* bias, void* y);
void layer_norm_forward_cuda(Context&, const LayerNormShape&, DType type, const void* x, const float* weight,
                             const float* bias, void* y);
void layer_norm_backward_cpu(Context&, const LayerNormShape&, DType type, const void* x, const void* dy,
                             const float* weight, void* dx, bool accumulate, float* d_weight, float* d_bias);
void layer_norm_backward_cuda(Context&, const LayerNormShape&, DType type, const void* x, const void* dy,
                              const float* weight, void* dx, bool accumulate, float* d_weight, float* d_bias);

}  // namespace lgd
