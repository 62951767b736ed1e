#include <algorithm>
#include <cmath>
#include <vector>

#include "core/device.h"
#include "ops/kernels.h"
#include "ops/trial_numbers.h"
#include "ops/warpgroups.h"

namespace lgd {

namespace {

// One layer forward and backward; what it leaves: y, g, dw.
std::vector<std::vector<float>> run_layer(Context& ctx, const ConvShape& s) {
  const size_t rows = size_t(s.rows()), in = rows * size_t(s.c), out = rows * size_t(s.k), weights = size_t(s.k) * size_t(s.c);
  Numbers x(ctx, in, DType::bf16), w(ctx, weights, DType::bf16), y(ctx, out, DType::bf16), g(ctx, out, DType::bf16), dx(ctx, in, DType::bf16);
  x.fill_halves(1), w.fill_halves(2), g.fill_halves(3);
  Numbers dw(ctx, weights, DType::f32), k(ctx, size_t(10 * s.k), DType::f32), c(ctx, size_t(4 * s.c), DType::f32);
  dw.clear(), k.fill(4, 0.5f, 1), c.fill(5, 0.5f, 1);
  const auto of_k = [&](int i) { return k.floats() + i * s.k; };
  LazyInput input;
  input.y = x, input.scale = c.floats(), input.shift = c.floats() + s.c, input.act = Act::relu;
  NormTarget norm;
  norm.gamma = of_k(0), norm.beta = of_k(1), norm.running_mean = of_k(2), norm.running_var = of_k(3);
  norm.mean = of_k(4), norm.rstd = of_k(5), norm.scale = of_k(6), norm.shift = of_k(7), norm.eps = 1e-5f, norm.momentum = 0.1f;
  ctx.kernels->conv_norm_forward(ctx, s, DType::bf16, input, w, norm, y);
  LazyGradient gradient;
  gradient.g = g, gradient.y = y, gradient.a = of_k(8), gradient.b = of_k(9), gradient.c = of_k(1);
  GradientTarget target;
  target.g = dx;
  ctx.kernels->conv_norm_backward(ctx, s, DType::bf16, input, gradient, w, dw.floats(), &target);
  ctx.kernels->finish_sums(ctx);
  return {y.floats_of(DType::bf16), dx.floats_of(DType::bf16), dw.floats_of(DType::f32)};
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double apart = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    apart += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    size += double(b[i]) * b[i];
  }
  return std::isfinite(apart) && size > 0 ? std::sqrt(apart / size) : INFINITY;
}

}  // namespace

double warpgroup_difference(Context& ctx) {
  LGD_CHECK(ctx.kind == DeviceKind::cuda && cuda::has_warpgroups(ctx.index), "DEVICE_UNAVAILABLE", "products by warpgroups need compute capability 9.0 and code for sm_90a");
  const KeptSwitch kept(ctx.warpgroups);
  double largest = 0;
  for (const auto& [c, k] : {std::pair{64, 128}, {128, 64}}) {
    const int rows = 128 * ctx.card.multiprocessors;  // tiles of warpgroups are for products that fill the card
    const ConvShape shape{rows / 64, 8, 8, c, k, 1, 1, 1, 0, 1, 8, 8};
    ctx.warpgroups = false;
    const auto by_warps = run_layer(ctx, shape);
    ctx.warpgroups = true;
    const auto by_groups = run_layer(ctx, shape);
    LGD_CHECK(run_layer(ctx, shape) == by_groups, "DEVICE_ERROR", "the same product by warpgroups gives another result the second time");
    for (size_t i = 0; i < by_warps.size(); ++i) largest = std::max(largest, difference(by_groups[i], by_warps[i]));
  }
  return largest;
}

}  // namespace lgd
