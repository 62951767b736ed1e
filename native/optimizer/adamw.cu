// AdamW over the flat parameter table (optimizer/adamw.h): one launch; 30 bytes a parameter are moved: g, m, v and w
// read, m, v, w and the bfloat16 copy written. A thread takes an element and goes on by the grid; nothing is summed, so
// that the bits do not depend on the grid.
#include "core/cuda_device.cuh"
#include "ops/grids.cuh"
#include "optimizer/adamw.h"

namespace lgd {

static __global__ void __launch_bounds__(256)
    adamw_kernel(int64_t count, AdamwStep step, const float* gradient, float* first_moment, float* second_moment,
                 float* value, bf16* shadow) {
  wait_for_inputs();
  const float scale = step.clip ? step.gradient_scale * *step.clip : step.gradient_scale;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < count; e += int64_t(gridDim.x) * 256) {
    const float w = value[e], g = scale * gradient[e], m0 = first_moment[e], v0 = second_moment[e];
    const float m = fmaf(step.first_rate, g - m0, m0), v = fmaf(step.second_rate, fmaf(g, g, -v0), v0);
    const float moved = step.step_size * m / fmaf(step.root_scale, sqrtf(v), step.epsilon);
    const float next = w - fmaf(e < step.decayed ? step.decay : 0.f, w, moved);
    first_moment[e] = m;
    second_moment[e] = v;
    value[e] = next;
    if (shadow) shadow[e] = __float2bfloat16_rn(next);
  }
}

void adamw_cuda(Context& ctx, int64_t count, const AdamwStep& step, const float* gradient, float* first_moment,
                float* second_moment, float* value, void* shadow) {
  if (count == 0) return;
  LGD_LAUNCH(ctx, adamw_kernel, elementwise_blocks(ctx, count), 256, 0, count, step, gradient, first_moment,
             second_moment, value, static_cast<bf16*>(shadow));
}

}  // namespace lgd
