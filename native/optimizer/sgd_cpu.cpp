#include "optimizer/sgd.h"

#include "core/simd.h"
#include "ops/common_cpu.h"

#define LGD_ISA_FILE "optimizer/sgd_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

void sgd_cpu(Context& ctx, int64_t count, const SgdStep& step, const float* gradient, float* velocity, float* value,
             void* shadow) {
  LGD_CHECK(shadow == nullptr, "BAD_OPTION", "the CPU backend keeps no bfloat16 copy of the weights");
  ctx.pool.for_range(count, 16384, [&](int64_t begin, int64_t end) {
    LGD_DISPATCH(sgd_range)(step, end - begin, gradient + begin, velocity + begin, value + begin);
  });
}

}  // namespace lgd
