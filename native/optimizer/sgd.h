// Stochastic gradient descent with momentum over one flat table of parameters, PyTorch's definition:
//   g' = gradient_scale * g + weight_decay * w;   v <- momentum * v + g';   w <- w - learning_rate * v.
// `clip` (device memory, or null) is what gradient_scale is multiplied by first (optimizer/clip_norm.h).
// float32 throughout; `shadow` (bfloat16, or null) receives the rounded new weights for the matrix kernels.
#pragma once
#include "core/context.h"

namespace lgd {

struct SgdStep {
  float learning_rate, momentum, weight_decay, gradient_scale;
  const float* clip = nullptr;
};
void sgd_cpu(Context&, int64_t count, const SgdStep&, const float* gradient, float* velocity, float* value,
             void* shadow);
void sgd_cuda(Context&, int64_t count, const SgdStep&, const float* gradient, float* velocity, float* value,
              void* shadow);

}  // namespace lgd
