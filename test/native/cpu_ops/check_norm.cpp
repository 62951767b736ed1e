// Batch normalisation with its activation against plain loops in double.
#include "check.h"

using namespace lgd;

double reference_act(Act act, double u) {
  const double gate = std::min(6.0, std::max(0.0, u + 3)) / 6;
  switch (act) {
    case Act::none: return u;
    case Act::relu: return std::max(0.0, u);
    case Act::relu6: return std::min(6.0, std::max(0.0, u));
    case Act::silu: return u / (1 + std::exp(-u));
    case Act::hardswish: return u * gate;
    case Act::sigmoid: return 1 / (1 + std::exp(-u));
    case Act::hardsigmoid: return gate;
    case Act::gelu: return u * std::erfc(-u / std::sqrt(2.0)) / 2;
    case Act::gelu_tanh: return u * (1 + std::tanh(std::sqrt(2 / M_PI) * (u + 0.044715 * u * u * u))) / 2;
    case Act::quick_gelu: return u / (1 + std::exp(-1.702 * u));
  }
  return u;
}

double reference_slope(Act act, double u) {
  const double s = 1 / (1 + std::exp(-u));
  switch (act) {
    case Act::none: return 1;
    case Act::relu: return u > 0;
    case Act::relu6: return u > 0 && u < 6;
    case Act::silu: return s * (1 + u * (1 - s));
    case Act::hardswish: return u < -3 ? 0 : u > 3 ? 1 : u / 3 + 0.5;
    case Act::sigmoid: return s * (1 - s);
    case Act::hardsigmoid: return u > -3 && u < 3 ? 1.0 / 6 : 0;
    case Act::gelu: return std::erfc(-u / std::sqrt(2.0)) / 2 + u * std::exp(-u * u / 2) / std::sqrt(2 * M_PI);
    case Act::gelu_tanh: {
      const double scale = std::sqrt(2 / M_PI), t = std::tanh(scale * (u + 0.044715 * u * u * u));
      return (1 + t) / 2 + u * (1 - t * t) / 2 * scale * (1 + 3 * 0.044715 * u * u);
    }
    case Act::quick_gelu: {
      const double gate = 1 / (1 + std::exp(-1.702 * u));
      return gate * (1 + 1.702 * u * (1 - gate));
    }
  }
  return 1;
}

namespace {

struct Case {
  int64_t rows;
  int channels;
  Act act;
  bool residual, accumulate;
  float mean;  // of the input, its deviation is 1
};

struct Reference {
  Doubles mean, rstd, variance, y, g, d_gamma, d_beta, dx;
};

Reference normalised(const Case& t, const Floats& x, const Floats& residual, const Floats& dy, const Floats& gamma,
                     const Floats& beta, double eps) {
  const int64_t c = t.channels;
  const size_t count = x.size();
  Reference r{Doubles(c),     Doubles(c), Doubles(c), Doubles(count),
              Doubles(count), Doubles(c), Doubles(c), Doubles(count)};
  for (size_t i = 0; i < count; ++i) r.mean[i % c] += x[i] / double(t.rows);
  for (size_t i = 0; i < count; ++i)
    r.variance[i % c] += (x[i] - r.mean[i % c]) * (x[i] - r.mean[i % c]) / double(t.rows);
  for (int64_t i = 0; i < c; ++i) r.rstd[i] = 1 / std::sqrt(r.variance[i] + eps);
  auto hat = [&](size_t i) { return (x[i] - r.mean[i % c]) * r.rstd[i % c]; };
  for (size_t i = 0; i < count; ++i) {
    const double u = gamma[i % c] * hat(i) + beta[i % c] + (t.residual ? residual[i] : 0);
    r.y[i] = reference_act(t.act, u);
    r.g[i] = dy[i] * reference_slope(t.act, u);
    r.d_beta[i % c] += r.g[i];
    r.d_gamma[i % c] += r.g[i] * hat(i);
  }
  for (size_t i = 0; i < count; ++i)
    r.dx[i] = gamma[i % c] * r.rstd[i % c] * (r.g[i] - r.d_beta[i % c] / t.rows - hat(i) * r.d_gamma[i % c] / t.rows);
  return r;
}

Doubles added(Doubles a, const Floats& b, bool add) {
  for (size_t i = 0; add && i < a.size(); ++i) a[i] += b[i];
  return a;
}

void check_one(Check& check, const Case& t) {
  char text[96];
  std::snprintf(text, sizeof text, "norm_act rows %lld channels %d act %d%s mean %g", (long long)t.rows, t.channels,
                int(t.act), t.residual ? " residual" : "", t.mean);
  const std::string name = text;
  const int64_t count = t.rows * t.channels;
  const Floats x = check.normal(count, t.mean), residual = check.normal(count), dy = check.normal(count),
               before = check.normal(count);
  const Floats gamma = check.normal(t.channels, 1, 0.3f), beta = check.normal(t.channels),
               running = check.normal(t.channels, 1, 0.1f);
  const NormShape shape{t.rows, t.channels, 1e-5f, 0.1f, t.act};
  const Reference expected = normalised(t, x, residual, dy, gamma, beta, shape.eps);
  // Kinks: an element whose argument is within rounding of one may take either side; the norm over all elements bears
  // it.
  const double loose = t.mean == 0 ? 1e-5 : 2e-4;

  Floats running_mean = running, running_var = running, y = Check::poisoned(count), mean = Check::poisoned(t.channels),
         rstd = mean;
  NormForward forward{x.data(),
                      t.residual ? residual.data() : nullptr,
                      gamma.data(),
                      beta.data(),
                      running_mean.data(),
                      running_var.data(),
                      mean.data(),
                      rstd.data(),
                      y.data()};
  norm_act_forward_cpu(check.device, shape, F32, forward);
  Doubles new_mean(t.channels), new_var(t.channels);
  for (int c = 0; c < t.channels; ++c) {
    const double unbiased = t.rows > 1 ? expected.variance[c] * t.rows / (t.rows - 1.0) : expected.variance[c];
    new_mean[c] = 0.9 * running[c] + 0.1 * expected.mean[c];
    new_var[c] = 0.9 * running[c] + 0.1 * unbiased;
  }
  check.equal(name + " y", y, expected.y, loose);
  check.equal(name + " mean", mean, expected.mean, t.mean == 0 ? 1e-4 : 1e-6);
  check.equal(name + " rstd", rstd, expected.rstd, t.mean == 0 ? 1e-5 : 2e-4);
  check.equal(name + " running mean", running_mean, new_mean, 1e-6);
  check.equal(name + " running variance", running_var, new_var, t.mean == 0 ? 1e-6 : 1e-4);

  Floats d_gamma = running, d_beta = running, dx = t.accumulate ? before : Check::poisoned(count),
         d_residual = t.accumulate ? before : Check::poisoned(count);
  NormBackward backward{x.data(),
                        t.residual ? residual.data() : nullptr,
                        dy.data(),
                        gamma.data(),
                        beta.data(),
                        mean.data(),
                        rstd.data(),
                        d_gamma.data(),
                        d_beta.data(),
                        dx.data(),
                        t.residual ? d_residual.data() : nullptr,
                        t.accumulate,
                        t.accumulate};
  norm_act_backward_cpu(check.device, shape, F32, backward);
  check.equal(name + " d_gamma", d_gamma, added(expected.d_gamma, running, true), loose);
  check.equal(name + " d_beta", d_beta, added(expected.d_beta, running, true), loose);
  // dx is a difference of larger terms, with two rows down to rounding: the first term is added again for a size to
  // measure against.
  Doubles expected_dx = added(expected.dx, before, t.accumulate);
  for (int64_t i = 0; i < count; ++i) {
    const double term = gamma[i % t.channels] * expected.rstd[i % t.channels] * expected.g[i];
    dx[i] += float(term);
    expected_dx[i] += term;
  }
  check.equal(name + " dx", dx, expected_dx, loose);
  if (t.residual) check.equal(name + " d_residual", d_residual, added(expected.g, before, t.accumulate), loose);
}

void check_affine(Check& check, int64_t rows, int channels, Act act, bool scaled, bool shifted, bool added_to) {
  const Floats x = check.normal(rows * channels), residual = check.normal(rows * channels);
  const Floats gamma = check.normal(channels), beta = check.normal(channels), mean = check.normal(channels),
               var = check.normal(channels, 2, 0.1f);
  Floats scale(channels), shift(channels), y = Check::poisoned(x.size());
  norm_fold_cpu(check.device, channels, 1e-3f, gamma.data(), beta.data(), mean.data(), var.data(), scale.data(),
                shift.data());
  affine_act_forward_cpu(check.device, rows, channels, F32, x.data(), scaled ? scale.data() : nullptr,
                         shifted ? shift.data() : nullptr, added_to ? residual.data() : nullptr, act, y.data());
  Doubles expected(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const size_t c = i % channels;
    const double a = gamma[c] / std::sqrt(var[c] + 1e-3);
    expected[i] = reference_act(
        act, x[i] * (scaled ? a : 1) + (shifted ? beta[c] - mean[c] * a : 0) + (added_to ? residual[i] : 0));
  }
  check.equal("affine_act rows " + std::to_string(rows) + " channels " + std::to_string(channels) + " act " +
                  std::to_string(int(act)),
              y, expected, 2e-6);
}

}  // namespace

void check_norm(Check& check) {
  for (Act act : all_acts)
    for (bool residual : {false, true}) check_one(check, {301, 24, act, residual, residual, 0});
  const int64_t rows[] = {2, 3, 7, 64, 1000, 4099};
  const int channels[] = {1, 3, 8, 12, 16, 17, 40, 96, 100, 1280};
  for (int64_t r : rows)
    for (int c : channels)
      if (r * c < 500000) check_one(check, {r, c, Act::relu6, c % 3 == 0, c % 2 == 0, 0});
  check_one(check, {1, 5, Act::none, false, false, 0});
  check_one(check, {20000, 16, Act::none, false, false, 0});
  check_one(check, {5000, 16, Act::none, false, false, 100});  // a large mean
  check_one(check, {70000, 3, Act::silu, false, true, 50});
  for (Act act : all_acts) check_affine(check, 37, 24, act, true, true, true);
  check_affine(check, 1, 1, Act::relu, true, true, false);
  check_affine(check, 5, 1280, Act::none, false, true, false);
  check_affine(check, 500, 17, Act::silu, true, false, true);
}
