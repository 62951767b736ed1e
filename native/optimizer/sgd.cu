// SGD with momentum over the flat parameter table (optimizer/sgd.h): one launch; 22 bytes a parameter are moved.
#include "core/cuda_device.cuh"
#include "ops/grids.cuh"
#include "optimizer/sgd.h"

namespace lgd {

static __global__ void __launch_bounds__(256)
    sgd_kernel(int64_t count, SgdStep step, const float* gradient, float* velocity, float* value, bf16* shadow) {
  wait_for_inputs();
  const float scale = step.clip ? step.gradient_scale * *step.clip : step.gradient_scale;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < count; e += int64_t(gridDim.x) * 256) {
    const float w = value[e], g = fmaf(step.weight_decay, w, scale * gradient[e]);
    const float v = fmaf(step.momentum, velocity[e], g), next = w - step.learning_rate * v;
    velocity[e] = v;
    value[e] = next;
    if (shadow) shadow[e] = __float2bfloat16_rn(next);
  }
}

void sgd_cuda(Context& ctx, int64_t count, const SgdStep& step, const float* gradient, float* velocity, float* value,
              void* shadow) {
  if (count == 0) return;
  LGD_LAUNCH(ctx, sgd_kernel, elementwise_blocks(ctx, count), 256, 0, count, step, gradient, velocity, value,
             static_cast<bf16*>(shadow));
}

}  // namespace lgd
