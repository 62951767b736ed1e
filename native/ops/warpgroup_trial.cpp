#include "ops/warpgroup_trial.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/device.h"
#include "ops/kernels.h"
#include "ops/trial_numbers.h"

namespace lgd {

namespace {

using Results = std::vector<std::vector<float>>;

// One layer forward and backward; what it leaves: y, g, dw.
Results run_layer(Context& ctx, const ConvShape& s) {
  const size_t in = size_t(s.n) * size_t(s.h * s.w) * size_t(s.c), out = size_t(s.rows()) * size_t(s.k),
               weights = size_t(s.k) * size_t(s.taps() * s.c);
  Numbers x(ctx, in, DType::bf16), w(ctx, weights, DType::bf16), y(ctx, out, DType::bf16), g(ctx, out, DType::bf16),
      dx(ctx, in, DType::bf16);
  x.fill_halves(1), w.fill_halves(2), g.fill_halves(3);
  Numbers dw(ctx, weights, DType::f32), k(ctx, size_t(10 * s.k), DType::f32), c(ctx, size_t(4 * s.c), DType::f32);
  dw.clear(), k.fill(4, 0.5f, 1), c.fill(5, 0.5f, 1);
  const auto of_k = [&](int i) { return k.floats() + i * s.k; };
  LazyInput input;
  input.y = x, input.scale = c.floats(), input.shift = c.floats() + s.c, input.act = Act::relu;
  NormTarget norm;
  norm.gamma = of_k(0), norm.beta = of_k(1), norm.running_mean = of_k(2), norm.running_var = of_k(3);
  norm.mean = of_k(4), norm.rstd = of_k(5), norm.scale = of_k(6), norm.shift = of_k(7), norm.eps = 1e-5f,
  norm.momentum = 0.1f;
  ctx.kernels->conv_norm_forward(ctx, s, DType::bf16, input, w, norm, y);
  LazyGradient gradient;
  gradient.g = g, gradient.y = y, gradient.a = of_k(8), gradient.b = of_k(9), gradient.c = of_k(1);
  GradientTarget target;
  target.g = dx;
  ctx.kernels->conv_norm_backward(ctx, s, DType::bf16, input, gradient, w, dw.floats(), &target);
  ctx.kernels->finish_sums(ctx);
  return {y.floats_of(DType::bf16), dx.floats_of(DType::bf16), dw.floats_of(DType::f32)};
}

// What only a teacher has: a sum of two layers, and the mean of 2x2 windows behind a layer.
Results run_sum(Context& ctx, const ConvSumShape& s) {
  const size_t rows = size_t(s.rows);
  Numbers x(ctx, rows * size_t(s.c), DType::bf16), x2(ctx, rows * size_t(s.c2), DType::bf16),
      w(ctx, size_t(s.weights()), DType::bf16);
  Numbers y(ctx, rows * size_t(s.k), DType::bf16), shift(ctx, size_t(s.k), DType::f32);
  x.fill_halves(1), x2.fill_halves(2), w.fill_halves(3), shift.fill(4, -1, 1);
  ctx.kernels->conv_sum_forward(ctx, s, DType::bf16, x, x2, w, shift.floats(), Act::relu, y);
  return {y.floats_of(DType::bf16)};
}

Results run_mean(Context& ctx, const ConvShape& s) {
  const size_t in = size_t(s.n) * size_t(s.h * s.w) * size_t(s.c), weights = size_t(s.k) * size_t(s.taps() * s.c);
  Numbers x(ctx, in, DType::bf16), w(ctx, weights, DType::bf16),
      mean(ctx, size_t(s.rows() / 4) * size_t(s.k), DType::bf16);
  x.fill_halves(1), w.fill_halves(2);
  Epilogue epilogue;
  epilogue.mean = mean;
  ctx.kernels->conv_forward(ctx, s, DType::bf16, x, w, epilogue, nullptr);
  return {mean.floats_of(DType::bf16)};
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
  LGD_CHECK(ctx.kind == DeviceKind::cuda && cuda::has_warpgroups(ctx.index), "DEVICE_UNAVAILABLE",
            "products by warpgroups need compute capability 9.0 and code for sm_90a");
  const KeptSwitch kept(ctx.warpgroups);
  double largest = 0;
  const auto compare = [&](auto&& run, const auto& shape) {
    ctx.warpgroups = false;
    const Results by_warps = run(ctx, shape);
    ctx.warpgroups = true;
    const Results by_groups = run(ctx, shape);
    LGD_CHECK(run(ctx, shape) == by_groups, "DEVICE_ERROR",
              "the same product by warpgroups gives another result the second time");
    for (size_t i = 0; i < by_warps.size(); ++i) largest = std::max(largest, difference(by_groups[i], by_warps[i]));
  };
  // of 8 x 8: their products fill the card, for which the wide tiles are
  const int images = 2 * ctx.card.multiprocessors;
  for (const auto& [c, k] : {std::pair{64, 128}, {128, 64}})
    compare(run_layer, ConvShape{images, 8, 8, c, k, 1, 1, 1, 0, 1, 8, 8});
  // Few blocks, and so the small tile, with more tiles of k than it has stages, and edges that fill no tile; operands
  // that are gathered, and of two tensors.
  compare(run_layer, ConvShape{17, 7, 7, 264, 200, 1, 1, 1, 0, 1, 7, 7});
  const ConvShape of_taps{6, 8, 8, 64, 64, 3, 3, 1, 1, 1, 8, 8};
  compare(run_layer, of_taps);
  compare(run_mean, of_taps);
  compare(run_sum, ConvSumShape{17 * 49, 192, 40, 200});
  return largest;
}

}  // namespace lgd
