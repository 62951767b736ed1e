// AdamW over one flat table of parameters: Adam (Kingma and Ba 2015, algorithm 1) with decoupled weight decay
// (Loshchilov and Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2, its schedule in the learning
// rate), as torch.optim.AdamW defines it. Of step t, counted from 1:
//   g' = gradient_scale * g;   m <- beta1 m + (1 - beta1) g';   v <- beta2 v + (1 - beta2) g'^2;
//   w <- w - learning_rate weight_decay w - learning_rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon).
// float32 throughout. Both moments, m and v, start at zero, which the powers of beta make up for; they are formed on
// the host in float64. A moment is moved by m + (1 - beta1) (g' - m), so that the weights of old and new sum to one
// whatever float32 makes of beta. `clip` and `shadow` as in optimizer/sgd.h.
#pragma once
#include "core/context.h"

namespace lgd {

// What a launch is told of a step.
struct AdamwStep {
  float gradient_scale;
  float first_rate, second_rate;  // 1 - beta1, 1 - beta2
  float step_size;                // learning_rate / (1 - beta1^t)
  float root_scale;               // 1 / sqrt(1 - beta2^t)
  float epsilon;
  float decay;  // learning_rate * weight_decay, of the first `decayed` values; the others do not decay
  int64_t decayed;
  const float* clip = nullptr;
};
AdamwStep adamw_step(double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
                     double gradient_scale, int64_t t, int64_t decayed);

void adamw_cpu(Context&, int64_t count, const AdamwStep&, const float* gradient, float* first_moment,
               float* second_moment, float* value, void* shadow);
void adamw_cuda(Context&, int64_t count, const AdamwStep&, const float* gradient, float* first_moment,
                float* second_moment, float* value, void* shadow);

}  // namespace lgd
