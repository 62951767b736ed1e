// ops/fused.h and ops/linear.h in plain loops over the unfused operations: what the fused kernels are held to, and what
// runs on the CPU when its graphs are compiled the fused way (LGDISTILL_FUSION=layers). Written to be read, not to be
// fast: on the CPU the unfused operations are.
#include <cmath>
#include <vector>

#include "core/philox.h"
#include "ops/common_cpu.h"
#include "ops/kernels.h"

namespace lgd {
namespace {

double sigmoid(double u) { return 1 / (1 + std::exp(-u)); }

double act_of(Act act, double u) {
  switch (act) {
    case Act::none: return u;
    case Act::relu: return std::max(u, 0.0);
    case Act::relu6: return std::min(std::max(u, 0.0), 6.0);
    case Act::silu: return u * sigmoid(u);
    case Act::hardswish: return u * std::min(std::max(u + 3, 0.0), 6.0) / 6;
    case Act::sigmoid: return sigmoid(u);
    case Act::hardsigmoid: return std::min(std::max(u + 3, 0.0), 6.0) / 6;
    case Act::gelu:
    case Act::gelu_tanh:
    case Act::quick_gelu: break;  // no step has them behind a norm
  }
  return u;
}

double slope_of(Act act, double u) {
  switch (act) {
    case Act::none: return 1;
    case Act::relu: return u > 0;
    case Act::relu6: return u > 0 && u < 6;
    case Act::silu: return sigmoid(u) * (1 + u * (1 - sigmoid(u)));
    case Act::hardswish: return u < -3 ? 0 : u > 3 ? 1 : u / 3 + 0.5;
    case Act::sigmoid: return sigmoid(u) * (1 - sigmoid(u));
    case Act::hardsigmoid: return u > -3 && u < 3 ? 1.0 / 6 : 0;
    case Act::gelu:
    case Act::gelu_tanh:
    case Act::quick_gelu: break;
  }
  return 1;
}

// Calls body(n, c, at) for every element.
template <class Body>
void for_elements(const RowsShape& s, Body&& body) {
  int64_t at = 0;
  for (int n = 0; n < s.images; ++n)
    for (int64_t p = 0; p < s.pixels; ++p)
      for (int c = 0; c < s.channels; ++c) body(n, c, at++);
}

RowsShape input_rows(const ConvShape& s) { return {s.n, int64_t(s.h) * s.w, s.c}; }
RowsShape output_rows(const ConvShape& s) { return {s.n, int64_t(s.oh) * s.ow, s.k}; }

double argument(const float* y, const float* scale, const float* shift, int c, int64_t at) {
  return double(y[at]) * scale[c] + shift[c];
}

std::vector<float> activation(const RowsShape& s, DType type, const LazyInput& x) {
  const float *y = as_f32(type, x.y), *gate = x.gate ? as_f32(type, x.gate) : nullptr;
  std::vector<float> out(size_t(s.rows()) * s.channels);
  for_elements(s, [&](int n, int c, int64_t at) {
    double v = y[at];
    if (x.scale) v = act_of(x.act, argument(y, x.scale, x.shift, c, at));
    if (gate) v *= gate[int64_t(n) * s.channels + c];
    out[size_t(at)] = float(v);
  });
  return out;
}

std::vector<float> raw_gradient(const RowsShape& s, DType type, const LazyGradient& dy) {
  const float *g = as_f32(type, dy.g), *y = dy.y ? as_f32(type, dy.y) : nullptr,
              *gate = dy.gate ? as_f32(type, dy.gate) : nullptr;
  std::vector<float> out(size_t(s.rows()) * s.channels);
  for_elements(s, [&](int n, int c, int64_t at) {
    double h = g[at];
    if (gate) {
      const int64_t nc = int64_t(n) * s.channels + c;
      h = (h * gate[nc] + dy.pooled[nc]) * slope_of(dy.act, argument(y, dy.scale, dy.shift, c, at));
    }
    out[size_t(at)] = float(y ? dy.a[c] * h + dy.b[c] * double(y[at]) + dy.c[c] : h);
  });
  return out;
}

void take_statistics(const RowsShape& s, const float* y, const NormTarget& norm) {
  const int64_t rows = s.rows();
  for (int c = 0; c < s.channels; ++c) {
    double sum = 0, squares = 0;
    for (int64_t row = 0; row < rows; ++row) sum += y[row * s.channels + c];
    const double mean = sum / double(rows);
    for (int64_t row = 0; row < rows; ++row) squares += std::pow(y[row * s.channels + c] - mean, 2);
    const double variance = squares / double(rows), unbiased = rows > 1 ? squares / double(rows - 1) : variance;
    const double rstd = 1 / std::sqrt(variance + norm.eps);
    norm.mean[c] = float(mean);
    norm.rstd[c] = float(rstd);
    norm.scale[c] = float(norm.gamma[c] * rstd);
    norm.shift[c] = float(norm.beta[c] - mean * norm.gamma[c] * rstd);
    norm.running_mean[c] += norm.momentum * float(mean - norm.running_mean[c]);
    norm.running_var[c] += norm.momentum * float(unbiased - norm.running_var[c]);
  }
}

void finish(int64_t rows, int c, double sum, double product, const NormGradient& norm) {
  const double a = double(norm.gamma[c]) * norm.rstd[c], b = -a * norm.rstd[c] * product / double(rows);
  norm.d_beta[c] += float(sum);
  norm.d_gamma[c] += float(product);
  norm.a[c] = float(a);
  norm.b[c] = float(b);
  norm.c[c] = float(-a * sum / double(rows) - b * norm.mean[c]);
}

// dx is the new contribution; what the target says happens to it.
void reach_target(const RowsShape& s, DType type, const std::vector<float>& dx, const GradientTarget& target) {
  float* g = as_f32(type, target.g);
  const float *y = target.y ? as_f32(type, target.y) : nullptr,
              *activated = target.activated ? as_f32(type, target.activated) : nullptr;
  std::vector<double> sums(size_t(s.channels)), products(size_t(s.channels));
  for_elements(s, [&](int, int c, int64_t at) {
    double v = double(dx[size_t(at)]) + (target.accumulate ? g[at] : 0);
    if (y) {
      const double u = activated                 ? activated[at]
                       : target.act == Act::none ? 0
                                                 : argument(y, target.scale, target.shift, c, at);
      v *= slope_of(target.act, u);
      sums[size_t(c)] += v;
      products[size_t(c)] += v * (double(y[at]) - target.norm.mean[c]) * target.norm.rstd[c];
    }
    g[at] = float(v);
  });
  if (y)
    for (int c = 0; c < s.channels; ++c) finish(s.rows(), c, sums[size_t(c)], products[size_t(c)], target.norm);
}

double keep_of(const DropShape* drop, int image) {
  if (!drop) return 1;
  const uint32_t word =
      philox(drop->seed, (drop->step << 20) + uint64_t(drop->node), uint64_t(image) / 4).word[image % 4];
  return unit_float(word) >= drop->p ? 1 / (1 - double(drop->p)) : 0;
}

}  // namespace

void conv_norm_forward_cpu(Context& ctx, const ConvShape& s, DType type, const LazyInput& x, const void* w,
                           const NormTarget& norm, void* y) {
  conv_forward_cpu(ctx, s, type, activation(input_rows(s), type, x).data(), w, {}, y);
  take_statistics(output_rows(s), as_f32(type, y), norm);
}

void depthwise_norm_forward_cpu(Context& ctx, const ConvShape& s, DType type, const LazyInput& x, const void* w,
                                const NormTarget& norm, void* y) {
  depthwise_forward_cpu(ctx, s, type, activation(input_rows(s), type, x).data(), w, {}, y);
  take_statistics(output_rows(s), as_f32(type, y), norm);
}

void conv_norm_backward_cpu(Context& ctx, const ConvShape& s, DType type, const LazyInput& x, const LazyGradient& dy,
                            const void* w, float* dw, const GradientTarget* target) {
  const std::vector<float> gradient = raw_gradient(output_rows(s), type, dy);
  conv_backward_weight_cpu(ctx, s, type, activation(input_rows(s), type, x).data(), gradient.data(), dw, nullptr);
  if (!target) return;
  std::vector<float> dx(size_t(s.n) * s.h * s.w * s.c);
  conv_backward_data_cpu(ctx, s, type, gradient.data(), w, dx.data(), false);
  reach_target(input_rows(s), type, dx, *target);
}

void depthwise_norm_backward_cpu(Context& ctx, const ConvShape& s, DType type, const LazyInput& x,
                                 const LazyGradient& dy, const void* w, float* dw, const GradientTarget* target) {
  const std::vector<float> gradient = raw_gradient(output_rows(s), type, dy);
  depthwise_backward_weight_cpu(ctx, s, type, activation(input_rows(s), type, x).data(), gradient.data(), dw, nullptr);
  if (!target) return;
  std::vector<float> dx(size_t(s.n) * s.h * s.w * s.c);
  depthwise_backward_data_cpu(ctx, s, type, gradient.data(), w, dx.data(), false);
  reach_target(input_rows(s), type, dx, *target);
}

void linear_act_forward_cpu(Context& ctx, const ConvShape& s, DType type, const void* x, const void* w,
                            const float* bias, Act act, void* slope, void* y) {
  Epilogue epilogue;
  epilogue.shift = bias;
  const int64_t count = s.rows() * s.k;
  std::vector<float> u(static_cast<size_t>(count));
  conv_forward_cpu(ctx, s, type, x, w, epilogue, u.data());
  act_forward_cpu(ctx, count, type, act, u.data(), y);
  std::fill_n(as_f32(type, slope), count, 1.f);
  act_backward_cpu(ctx, count, type, act, u.data(), slope, slope, false);
}

void linear_act_backward_cpu(Context& ctx, const ConvShape& s, DType type, const void* dy, const void* w,
                             const void* slope_, void* du_, float* d_bias) {
  conv_backward_data_cpu(ctx, s, type, dy, w, du_, false);
  const float* slope = as_f32(type, slope_);
  float* du = as_f32(type, du_);
  std::vector<double> sums(static_cast<size_t>(s.c));
  for_elements(input_rows(s), [&](int, int c, int64_t at) { sums[size_t(c)] += du[at] *= slope[at]; });
  for (int c = 0; c < s.c; ++c) d_bias[c] += float(sums[size_t(c)]);
}

void join_forward_cpu(Context&, const RowsShape& s, DType type, const LazyInput& x, const LazyInput* residual_,
                      const DropShape* drop, Act act, void* out_) {
  const std::vector<float> main = activation(s, type, x),
                           residual = residual_ ? activation(s, type, *residual_) : std::vector<float>(main.size());
  float* out = as_f32(type, out_);
  for_elements(s, [&](int n, int, int64_t at) {
    out[at] = float(act_of(act, keep_of(drop, n) * main[size_t(at)] + residual[size_t(at)]));
  });
}

void norm_gradient_cpu(Context&, const RowsShape& s, DType type, const void* dy_, const DropShape* drop,
                       const GradientTarget& target) {
  const float* dy = as_f32(type, dy_);
  std::vector<float> kept(size_t(s.rows()) * s.channels);
  for_elements(s, [&](int n, int, int64_t at) { kept[size_t(at)] = float(keep_of(drop, n) * dy[at]); });
  GradientTarget once = target;
  once.accumulate = false;
  reach_target(s, type, kept, once);
}

void squeeze_forward_cpu(Context& ctx, const RowsShape& s, DType type, const LazyInput& x, void* pooled) {
  global_pool_forward_cpu(ctx, s.images, s.pixels, s.channels, type, activation(s, type, x).data(), pooled);
}

void gate_backward_cpu(Context&, const RowsShape& s, DType type, const LazyInput& x, const float* mean,
                       const float* rstd, const void* g_, void* d_gate_, float* sums) {
  const float *g = as_f32(type, g_), *y = as_f32(type, x.y);
  float* d_gate = as_f32(type, d_gate_);
  const int64_t plane = int64_t(s.images) * s.channels;
  std::vector<double> all(size_t(5 * plane));
  for_elements(s, [&](int n, int c, int64_t at) {
    const double u = argument(y, x.scale, x.shift, c, at), slope = slope_of(x.act, u),
                 xhat = (double(y[at]) - mean[c]) * rstd[c];
    double* sum = all.data() + int64_t(n) * s.channels + c;
    sum[0] += g[at] * slope;
    sum[plane] += g[at] * slope * xhat;
    sum[2 * plane] += slope;
    sum[3 * plane] += slope * xhat;
    sum[4 * plane] += g[at] * act_of(x.act, u);
  });
  for (int64_t i = 0; i < 4 * plane; ++i) sums[i] = float(all[size_t(i)]);
  for (int64_t i = 0; i < plane; ++i) d_gate[i] = float(all[size_t(4 * plane + i)]);
}

void gate_finish_cpu(Context&, const RowsShape& s, DType type, const void* gate_, const void* d_pooled_,
                     const float* sums, float* pooled, const NormGradient& norm) {
  const float *gate = as_f32(type, gate_), *d_pooled = as_f32(type, d_pooled_);
  const int64_t plane = int64_t(s.images) * s.channels;
  for (int64_t i = 0; i < plane; ++i) pooled[i] = d_pooled[i] / float(s.pixels);
  for (int c = 0; c < s.channels; ++c) {
    double sum = 0, product = 0;
    for (int64_t i = c; i < plane; i += s.channels) {
      sum += double(gate[i]) * sums[i] + double(pooled[i]) * sums[2 * plane + i];
      product += double(gate[i]) * sums[plane + i] + double(pooled[i]) * sums[3 * plane + i];
    }
    finish(s.rows(), c, sum, product, norm);
  }
}

void lazy_max_pool_forward_cpu(Context& ctx, const PoolShape& s, DType type, const LazyInput& x, void* out) {
  max_pool_forward_cpu(ctx, s, type, activation({s.n, int64_t(s.h) * s.w, s.c}, type, x).data(), out);
}

void lazy_max_pool_backward_cpu(Context& ctx, const PoolShape& s, DType type, const LazyInput& x, const void* d_out,
                                const GradientTarget& target) {
  const RowsShape rows{s.n, int64_t(s.h) * s.w, s.c};
  std::vector<float> dx(size_t(rows.rows()) * s.c);
  max_pool_backward_cpu(ctx, s, type, activation(rows, type, x).data(), d_out, dx.data(), false);
  reach_target(rows, type, dx, target);
}

}  // namespace lgd
