#include "optimizer/clip_norm.h"

#include <array>
#include <cmath>

#include "core/simd.h"
#include "ops/common_cpu.h"

#define LGD_ISA_FILE "optimizer/clip_norm_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

void clip_norm_cpu(Context& ctx, int64_t count, const float* gradient, const ClipRule& rule, float* factor,
                   double* norm) {
  constexpr int64_t most_parts = 256;
  const Partition parts(count, 16384, most_parts);
  std::array<double, most_parts> squares{};
  ctx.pool.for_range(parts.parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part)
      squares[size_t(part)] =
          LGD_DISPATCH(sum_of_squares)(parts.end(part) - parts.begin(part), gradient + parts.begin(part));
  });
  double sum = 0;
  for (int64_t part = 0; part < parts.parts; ++part) sum += squares[size_t(part)];
  *norm = rule.scale * std::sqrt(sum);
  *factor = clip_factor(rule, *norm);
}

}  // namespace lgd
