#include "ops/norm_act.h"

#include <cmath>

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

namespace lgd {

// What backward reads, at the first element of a range. scale = gamma * rstd; shift = beta. Repeated per column.
struct NormGradient {
  const float *x, *residual, *dy;
  const float *mean, *scale, *shift;
};

// dx = scale * g + slope * (x - mean) + offset, d_residual = g.
struct NormGradientOut {
  const float *slope, *offset;  // repeated per column
  float *dx, *d_residual;
  bool accumulate_dx, accumulate_residual;
};

}  // namespace lgd

#define LGD_ISA_FILE "ops/norm_act_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

namespace {

// The tensor as wide rows (see the .inl) cut into parts for threads and partial sums.
struct NormView {
  int64_t channels, fold, wide, wide_rows, rest;  // rest: elements behind the last wide row
  Partition parts;
  NormView(int64_t rows, int channels_)
      : channels(channels_),
        fold(LGD_DISPATCH(norm_fold_count)(channels_)),
        wide(fold * channels),
        wide_rows(rows / fold),
        rest(rows % fold * channels),
        parts(wide_rows, ceil_div(32768, wide), 64) {}

  int64_t begin(int64_t part) const { return parts.begin(part) * wide; }
  int64_t end(int64_t part) const { return part + 1 == parts.parts ? wide_rows * wide + rest : parts.end(part) * wide; }
  int64_t tail() const { return wide_rows * wide; }
};

template <class Value>
void repeat(const NormView& view, float* out, Value&& value) {
  for (int64_t c = 0; c < view.channels; ++c)
    for (int64_t f = 0; f < view.fold; ++f) out[f * view.channels + c] = value(c);
}

// Mean and biased variance of one channel from the columns of all parts and the rest, in order, in double.
struct Moments {
  double count = 0, mean = 0, spread = 0;
  void merge(double n, double its_mean, double its_spread) {
    if (n == 0) return;
    const double total = count + n, delta = its_mean - mean;
    mean += delta * (n / total);
    spread += its_spread + delta * delta * (count * n / total);
    count = total;
  }
};

}  // namespace

void norm_act_forward_cpu(Context& ctx, const NormShape& shape, DType type, const NormForward& op) {
  const float *x = as_f32(type, op.x), *residual = as_f32(type, op.residual);
  float* y = as_f32(type, op.y);
  const NormView view(shape.rows, shape.channels);
  thread_local Workspace workspace;
  float* partial = workspace.floats((2 * view.parts.parts + 3) * view.wide);
  float* repeated = partial + 2 * view.parts.parts * view.wide;

  ctx.pool.for_each(view.parts.parts, [&](int, int64_t part) {
    float* own = partial + 2 * part * view.wide;
    LGD_DISPATCH(norm_statistics)(view.wide, view.parts.begin(part), view.parts.end(part), x, own, own + view.wide);
  });
  for (int64_t c = 0; c < view.channels; ++c) {
    Moments all;
    for (int64_t part = 0; part < view.parts.parts; ++part) {
      const float* own = partial + 2 * part * view.wide;
      const double rows = double(view.parts.end(part) - view.parts.begin(part));
      for (int64_t f = c; f < view.wide; f += view.channels) all.merge(rows, own[f], own[f + view.wide]);
    }
    for (int64_t i = c; i < view.rest; i += view.channels) all.merge(1, x[view.tail() + i], 0);
    const double variance = std::max(all.spread / all.count, 0.0);
    const double unbiased = all.count > 1 ? all.spread / (all.count - 1) : variance;
    op.mean[c] = float(all.mean);
    op.rstd[c] = float(1.0 / std::sqrt(variance + shape.eps));
    op.running_mean[c] = float((1.0 - shape.momentum) * op.running_mean[c] + shape.momentum * all.mean);
    op.running_var[c] = float((1.0 - shape.momentum) * op.running_var[c] + shape.momentum * unbiased);
  }
  float *mean = repeated, *scale = mean + view.wide, *shift = scale + view.wide;
  repeat(view, mean, [&](int64_t c) { return op.mean[c]; });
  repeat(view, scale, [&](int64_t c) { return op.gamma[c] * op.rstd[c]; });
  repeat(view, shift, [&](int64_t c) { return op.beta[c]; });
  // Backwards: the parts that the statistics read last are still in the caches.
  ctx.pool.for_each(view.parts.parts, [&](int, int64_t index) {
    const int64_t part = view.parts.parts - 1 - index, at = view.begin(part);
    LGD_DISPATCH(norm_apply)(shape.act, view.wide, view.end(part) - at, x + at, residual ? residual + at : nullptr,
                             mean, scale, shift, y + at);
  });
}

void norm_act_backward_cpu(Context& ctx, const NormShape& shape, DType type, const NormBackward& op) {
  const float *x = as_f32(type, op.x), *residual = as_f32(type, op.residual), *dy = as_f32(type, op.dy);
  const NormView view(shape.rows, shape.channels);
  thread_local Workspace workspace;
  float* partial = workspace.floats((2 * view.parts.parts + 7) * view.wide);
  float* rest = partial + 2 * view.parts.parts * view.wide;
  float *mean = rest + 2 * view.wide, *scale = mean + view.wide, *shift = scale + view.wide, *slope = shift + view.wide,
        *offset = slope + view.wide;
  repeat(view, mean, [&](int64_t c) { return op.mean[c]; });
  repeat(view, scale, [&](int64_t c) { return op.gamma[c] * op.rstd[c]; });
  repeat(view, shift, [&](int64_t c) { return op.beta[c]; });
  auto input_at = [&](int64_t at) {
    return NormGradient{x + at, residual ? residual + at : nullptr, dy + at, mean, scale, shift};
  };
  float *dx = as_f32(type, op.dx), *d_residual = as_f32(type, op.d_residual);
  auto output_at = [&](int64_t at) {
    return NormGradientOut{
        slope, offset, dx + at, d_residual ? d_residual + at : nullptr, op.accumulate_dx, op.accumulate_residual};
  };

  ctx.pool.for_each(view.parts.parts, [&](int, int64_t part) {
    float* own = partial + 2 * part * view.wide;
    LGD_DISPATCH(norm_sums)(shape.act, view.wide, view.parts.end(part) - view.parts.begin(part),
                            input_at(view.begin(part)), own, own + view.wide);
  });
  LGD_DISPATCH(norm_sums_rest)(shape.act, view.rest, input_at(view.tail()), rest, rest + view.wide);
  for (int64_t c = 0; c < view.channels; ++c) {
    double g = 0, gx = 0;
    for (int64_t part = 0; part < view.parts.parts; ++part) {
      if (view.parts.begin(part) == view.parts.end(part)) continue;
      const float* own = partial + 2 * part * view.wide;
      for (int64_t f = c; f < view.wide; f += view.channels) g += own[f], gx += own[f + view.wide];
    }
    for (int64_t i = c; i < view.rest; i += view.channels) g += rest[i], gx += rest[i + view.wide];
    const double rstd = op.rstd[c], m = double(shape.rows), scale_c = op.gamma[c] * rstd;
    op.d_beta[c] += float(g);
    op.d_gamma[c] += float(gx * rstd);
    for (int64_t f = c; f < view.wide; f += view.channels) {
      slope[f] = float(-scale_c * gx * rstd * rstd / m);
      offset[f] = float(-scale_c * g / m);
    }
  }
  ctx.pool.for_each(view.parts.parts, [&](int, int64_t index) {
    const int64_t part = view.parts.parts - 1 - index, at = view.begin(part);
    LGD_DISPATCH(norm_apply_gradient)(shape.act, view.wide, view.end(part) - at, input_at(at), output_at(at));
  });
}

void norm_fold_cpu(Context&, int channels, float eps, const float* gamma, const float* beta, const float* running_mean,
                   const float* running_var, float* scale, float* shift) {
  for (int c = 0; c < channels; ++c) {
    scale[c] = float(gamma[c] / std::sqrt(double(running_var[c]) + eps));
    shift[c] = beta[c] - running_mean[c] * scale[c];
  }
}

void affine_act_forward_cpu(Context& ctx, int64_t rows, int channels, DType type, const void* x_, const float* scale_,
                            const float* shift_, const void* residual_, Act act, void* y_) {
  const float *x = as_f32(type, x_), *residual = as_f32(type, residual_);
  float* y = as_f32(type, y_);
  const NormView view(rows, channels);
  thread_local Workspace workspace;
  float *mean = workspace.floats(3 * view.wide), *scale = mean + view.wide, *shift = scale + view.wide;
  repeat(view, mean, [](int64_t) { return 0.0f; });
  repeat(view, scale, [&](int64_t c) { return scale_ ? scale_[c] : 1.0f; });
  repeat(view, shift, [&](int64_t c) { return shift_ ? shift_[c] : 0.0f; });
  ctx.pool.for_each(view.parts.parts, [&](int, int64_t part) {
    const int64_t at = view.begin(part);
    LGD_DISPATCH(norm_apply)(act, view.wide, view.end(part) - at, x + at, residual ? residual + at : nullptr, mean,
                             scale, shift, y + at);
  });
}

}  // namespace lgd
