#include "optimizer/adamw.h"

#include <algorithm>
#include <cmath>

#include "core/simd.h"
#include "ops/common_cpu.h"

#define LGD_ISA_FILE "optimizer/adamw_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

AdamwStep adamw_step(double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
                     double gradient_scale, int64_t t, int64_t decayed) {
  const double first_share = 1 - std::pow(beta1, double(t)), second_share = 1 - std::pow(beta2, double(t));
  return {float(gradient_scale),
          float(1 - beta1),
          float(1 - beta2),
          float(learning_rate / first_share),
          float(1 / std::sqrt(second_share)),
          float(epsilon),
          float(learning_rate * weight_decay),
          decayed};
}

void adamw_cpu(Context& ctx, int64_t count, const AdamwStep& step, const float* gradient, float* first_moment,
               float* second_moment, float* value, void* shadow) {
  LGD_CHECK(shadow == nullptr, "BAD_OPTION", "the CPU backend keeps no bfloat16 copy of the weights");
  ctx.pool.for_range(count, 16384, [&](int64_t begin, int64_t end) {
    const int64_t decayed = std::clamp(step.decayed, begin, end);
    const auto range = [&](int64_t from, int64_t to, float decay) {
      LGD_DISPATCH(adamw_range)(step, decay, to - from, gradient + from, first_moment + from, second_moment + from,
                                value + from);
    };
    range(begin, decayed, step.decay);
    range(decayed, end, 0);
  });
}

}  // namespace lgd
