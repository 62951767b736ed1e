// Element-wise operations, dropping, layout, attention pooling and the optimiser against plain loops in double.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "check.h"
#include "core/philox.h"

using namespace lgd;

static void check_act(Check& check, int64_t count) {
  Floats x = check.normal(count, 0, 3);
  if (count > 100) x[0] = 1000, x[1] = -1000, x[2] = 90, x[3] = -90;
  const Floats dy = check.normal(count), before = check.normal(count);
  for (Act act : all_acts) {
    const std::string name = "act " + std::to_string(int(act)) + " count " + std::to_string(count);
    Floats y = Check::poisoned(count), dx = Check::poisoned(count), sum = before;
    act_forward_cpu(check.device, count, F32, act, x.data(), y.data());
    act_backward_cpu(check.device, count, F32, act, x.data(), dy.data(), dx.data(), false);
    act_backward_cpu(check.device, count, F32, act, x.data(), dy.data(), sum.data(), true);
    Doubles expected(count), gradient(count), total(count);
    for (int64_t i = 0; i < count; ++i) {
      expected[i] = reference_act(act, x[i]);
      gradient[i] = dy[i] * reference_slope(act, x[i]);
      total[i] = gradient[i] + before[i];
    }
    check.equal(name, y, expected, 3e-7);
    check.equal(name + " backward", dx, gradient, 5e-7);
    check.equal(name + " backward added", sum, total, 5e-7);
  }
  // NaNs of any sign and payload, in whole vectors and behind them.
  Floats bad;
  for (const uint32_t bits : {0x7fc00000u, 0xffc00000u, 0x7fc00001u, 0xffc00001u, 0x7fc00155u, 0xffc000aau, 0x7fc001ffu,
                              0x7fffffffu, 0xffffffffu, 0x7f800001u, 0xffbfffffu})
    bad.insert(bad.end(), 3, std::bit_cast<float>(bits));
  const int64_t bad_count = int64_t(bad.size());
  for (Act act : all_acts) {
    Floats out(bad.size(), 0);
    act_forward_cpu(check.device, bad_count, F32, act, bad.data(), out.data());
    const auto kept = std::count_if(out.begin(), out.end(), [](float value) { return std::isnan(value); });
    check.equal("NaN through act " + std::to_string(int(act)), {float(kept)}, {double(bad_count)});
  }
}

static void check_add(Check& check, int64_t count) {
  Floats a = check.normal(count), y = Check::poisoned(count);
  const Floats b = check.normal(count);
  Doubles expected(count);
  for (int64_t i = 0; i < count; ++i) expected[i] = double(a[i]) + b[i];
  add_forward_cpu(check.device, count, F32, a.data(), b.data(), y.data());
  check.equal("add", y, expected, 1e-7);
  add_forward_cpu(check.device, count, F32, a.data(), b.data(), a.data());
  check.equal("add in place", a, expected, 1e-7);
}

static void check_scale(Check& check, int n, int64_t pixels, int channels) {
  const std::string name = "channel_scale n " + std::to_string(n) + " pixels " + std::to_string(pixels) + " channels " +
                           std::to_string(channels);
  const int64_t count = n * pixels * channels;
  const Floats x = check.normal(count), s = check.normal(n * channels), dy = check.normal(count),
               before = check.normal(count);
  Doubles y(count), dx(count), sum(count), ds(n * channels);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t at = i / (pixels * channels) * channels + i % channels;
    y[i] = double(x[i]) * s[at];
    dx[i] = double(dy[i]) * s[at];
    sum[i] = dx[i] + before[i];
    ds[at] += double(dy[i]) * x[i];
  }
  Floats out = Check::poisoned(count), d_x = Check::poisoned(count), d_s = Check::poisoned(n * channels),
         d_sum = before;
  const ScaleShape shape{n, pixels, channels};
  channel_scale_forward_cpu(check.device, shape, F32, x.data(), s.data(), out.data());
  check.equal(name, out, y, 1e-7);
  channel_scale_backward_cpu(check.device, shape, F32, x.data(), s.data(), dy.data(), d_x.data(), false, d_s.data());
  check.equal(name + " dx", d_x, dx, 1e-7);
  check.equal(name + " ds", d_s, ds);
  channel_scale_backward_cpu(check.device, shape, F32, x.data(), s.data(), dy.data(), d_sum.data(), true, d_s.data());
  check.equal(name + " dx added", d_sum, sum, 2e-7);
}

static void check_drop(Check& check, int64_t count, int64_t unit, float p) {
  const DropShape shape{count, unit, p, 77, 5, 9};
  const Floats x = check.normal(count), before = check.normal(count);
  Doubles y(count), sum(count);
  int64_t kept = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t u = i / unit;
    const bool keep = unit_float(philox(77, 5 * (uint64_t(1) << 20) + 9, u / 4).word[u % 4]) >= p;
    kept += keep;
    y[i] = keep ? x[i] / (1.0 - p) : 0;
    sum[i] = before[i] + y[i];
  }
  const std::string name =
      "drop count " + std::to_string(count) + " unit " + std::to_string(unit) + " kept " + std::to_string(kept);
  Floats out = Check::poisoned(count), added = before, in_place = x;
  drop_forward_cpu(check.device, shape, F32, x.data(), out.data());
  check.equal(name, out, y, 2e-7);
  drop_forward_cpu(check.device, shape, F32, in_place.data(), in_place.data());
  check.identical(name + " in place", in_place, out);
  drop_backward_cpu(check.device, shape, F32, x.data(), added.data(), true);
  check.equal(name + " backward added", added, sum, 2e-7);
}

static void check_attention(Check& check, int n, int pixels, int channels, int heads) {
  const int tokens = pixels + 1, width = channels / heads;
  const Floats x = check.normal(int64_t(n) * pixels * channels), position = check.normal(int64_t(tokens) * channels);
  Floats t = Check::poisoned(int64_t(n) * tokens * channels), first = Check::poisoned(int64_t(n) * channels),
         out = first;
  tokens_forward_cpu(check.device, n, pixels, channels, F32, x.data(), position.data(), t.data());
  Doubles expected(t.size()), expected_first(first.size()), attended(first.size());
  for (int i = 0; i < n; ++i)
    for (int c = 0; c < channels; ++c) {
      double mean = 0;
      for (int p = 0; p < pixels; ++p) {
        const double v = x[(int64_t(i) * pixels + p) * channels + c];
        mean += v / pixels;
        expected[(int64_t(i) * tokens + 1 + p) * channels + c] = v + position[int64_t(1 + p) * channels + c];
      }
      expected[int64_t(i) * tokens * channels + c] = expected_first[int64_t(i) * channels + c] = mean + position[c];
    }
  check.equal("tokens", t, expected);
  first_token_forward_cpu(check.device, n, tokens, channels, F32, t.data(), first.data());
  check.equal("first_token", first, expected_first);

  const Floats q = check.normal(first.size(), 0, 3), k = check.normal(t.size()), v = check.normal(t.size());
  for (int i = 0; i < n; ++i)
    for (int h = 0; h < heads; ++h) {
      Doubles weight(tokens);
      double total = 0;
      for (int j = 0; j < tokens; ++j) {
        double dot = 0;
        for (int c = h * width; c < (h + 1) * width; ++c)
          dot += double(q[int64_t(i) * channels + c]) * k[(int64_t(i) * tokens + j) * channels + c];
        total += weight[j] = std::exp(dot / std::sqrt(double(width)));
      }
      for (int j = 0; j < tokens; ++j)
        for (int c = h * width; c < (h + 1) * width; ++c)
          attended[int64_t(i) * channels + c] += weight[j] / total * v[(int64_t(i) * tokens + j) * channels + c];
    }
  query_attention_forward_cpu(check.device, {n, tokens, channels, heads}, F32, q.data(), k.data(), v.data(),
                              out.data());
  check.equal("query_attention channels " + std::to_string(channels) + " heads " + std::to_string(heads), out,
              attended);
}

static void check_layout(Check& check) {
  const Floats x = check.normal(7 * 24), d = check.normal(7 * 21);
  Floats out = Check::poisoned(7 * 21), dx = Check::poisoned(7 * 24), copy = Check::poisoned(x.size());
  unpack_output_cpu(check.device, 7, 21, 24, F32, x.data(), out.data());
  pack_gradient_cpu(check.device, 7, 21, 24, F32, d.data(), dx.data());
  cast_cpu(check.device, x.size(), F32, x.data(), copy.data());
  Floats expected_out(out.size()), expected_dx(dx.size(), 0.0f);
  for (int i = 0; i < 7 * 21; ++i) {
    expected_out[i] = x[i / 21 * 24 + i % 21];
    expected_dx[i / 21 * 24 + i % 21] = d[i];
  }
  check.identical("unpack_output", out, expected_out);
  check.identical("pack_gradient", dx, expected_dx);
  check.identical("cast", copy, x);
  // Down, up, ties to even either way, signed zero, denormals, past the largest, infinity.
  const std::pair<uint32_t, uint32_t> rounded[] = {
      {0x3f807fffu, 0x3f800000u}, {0x3f808001u, 0x3f810000u}, {0x3f808000u, 0x3f800000u}, {0x3f818000u, 0x3f820000u},
      {0xbf808001u, 0xbf810000u}, {0x80000000u, 0x80000000u}, {0x00008001u, 0x00010000u}, {0x3fffffffu, 0x40000000u},
      {0x7f7fffffu, 0x7f800000u}, {0xff800000u, 0xff800000u}};
  Floats numbers, nearest;
  for (const auto& [from, to] : rounded) {
    numbers.push_back(std::bit_cast<float>(from));
    nearest.push_back(std::bit_cast<float>(to));
  }
  cast_cpu(check.device, int64_t(numbers.size()), DType::bf16, numbers.data(), numbers.data());
  check.identical("cast to bfloat16", numbers, nearest);
  Floats nan(3, std::bit_cast<float>(0xff800001u));
  cast_cpu(check.device, 3, DType::bf16, nan.data(), nan.data());
  check.equal("cast of NaN",
              {float(std::count_if(nan.begin(), nan.end(), [](float value) { return std::isnan(value); }))}, {3.0});
}

static void check_sgd(Check& check, int64_t count) {
  const Floats g = check.normal(count), v = check.normal(count), w = check.normal(count);
  Floats velocity = v, value = w;
  const SgdStep step{0.03f, 0.9f, 1e-2f, 0.5f};
  sgd_cpu(check.device, count, step, g.data(), velocity.data(), value.data(), nullptr);
  Doubles expected_v(count), expected_w(count);
  for (int64_t i = 0; i < count; ++i) {
    expected_v[i] =
        double(step.momentum) * v[i] + double(step.gradient_scale) * g[i] + double(step.weight_decay) * w[i];
    expected_w[i] = w[i] - double(step.learning_rate) * expected_v[i];
  }
  check.equal("sgd velocity", velocity, expected_v, 2e-6);  // where it is one value, its terms may cancel
  check.equal("sgd value", value, expected_w, 2e-7);
}

// Against the formula of optimizer/adamw.h in float64; the decay ends in the midst, and the moments are those of steps
// before.
static void check_adamw(Check& check, int64_t count) {
  const Floats g = check.normal(count), m = check.normal(count), w = check.normal(count);
  Floats v = check.normal(count);
  for (float& value : v) value *= value;
  const double rate = 0.003, beta1 = 0.8, beta2 = 0.97, epsilon = 0.01, decay = 0.3, scale = 0.5;
  const int64_t t = 3, decayed = count / 3;
  Floats first_moment = m, second_moment = v, value = w;
  adamw_cpu(check.device, count, adamw_step(rate, beta1, beta2, epsilon, decay, scale, t, decayed), g.data(),
            first_moment.data(), second_moment.data(), value.data(), nullptr);
  Doubles expected_m(count), expected_v(count), expected_w(count);
  for (int64_t i = 0; i < count; ++i) {
    expected_m[i] = beta1 * m[i] + (1 - beta1) * scale * g[i];
    expected_v[i] = beta2 * v[i] + (1 - beta2) * std::pow(scale * g[i], 2);
    expected_w[i] = w[i] - (i < decayed ? rate * decay * w[i] : 0) -
                    rate * (expected_m[i] / (1 - std::pow(beta1, t))) /
                        (std::sqrt(expected_v[i] / (1 - std::pow(beta2, t))) + epsilon);
  }
  check.equal("adamw first moment", first_moment, expected_m, 2e-7);
  check.equal("adamw second moment", second_moment, expected_v, 2e-7);
  check.equal("adamw value", value, expected_w, 2e-7);
}

// The norm in an order of its own, and both optimisers with the factor: as without it of gradients that are so much
// smaller.
static void check_clip(Check& check, int64_t count) {
  const double scale = 0.5;
  for (const float size : {1.f, 1e30f}) {
    Floats g = check.normal(count);
    for (float& value : g) value *= size;
    double squares = 0;
    for (int64_t i = count; i-- > 0;) squares += double(g[i]) * g[i];
    const double expected = scale * std::sqrt(squares);
    for (const double most : {expected / 3, expected * 1.5}) {
      float factor = 0;
      double norm = 0;
      clip_norm_cpu(check.device, count, g.data(), {scale, most}, &factor, &norm);
      check.equal("norm", {float(norm / expected)}, {1.0}, 1e-7);
      check.equal("clip factor", {factor}, {std::min(1.0, most / (expected + 1e-6))}, 1e-7);
      if (size > 1) continue;
      const Floats v = check.normal(count), w = check.normal(count);
      Floats v1 = v, w1 = w, v2 = v, w2 = w;
      sgd_cpu(check.device, count, {0.03f, 0.9f, 1e-2f, 0.5f, &factor}, g.data(), v1.data(), w1.data(), nullptr);
      sgd_cpu(check.device, count, {0.03f, 0.9f, 1e-2f, 0.5f * factor}, g.data(), v2.data(), w2.data(), nullptr);
      check.identical("clipped sgd velocity", v1, v2);
      check.identical("clipped sgd value", w1, w2);
      Floats m1 = v, m2 = v, s1(size_t(count), 0.1f), s2 = s1;
      AdamwStep step = adamw_step(0.003, 0.8, 0.97, 0.01, 0.3, scale, 3, count / 3);
      AdamwStep smaller = step;
      step.clip = &factor;
      smaller.gradient_scale *= factor;
      adamw_cpu(check.device, count, step, g.data(), m1.data(), s1.data(), w1.data(), nullptr);
      adamw_cpu(check.device, count, smaller, g.data(), m2.data(), s2.data(), w2.data(), nullptr);
      check.identical("clipped adamw first moment", m1, m2);
      check.identical("clipped adamw second moment", s1, s2);
      check.identical("clipped adamw value", w1, w2);
    }
  }
  for (const float wrong : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    Floats g = check.normal(count);
    g[size_t(count / 2)] = wrong;
    float factor = 0;
    double norm = 0;
    clip_norm_cpu(check.device, count, g.data(), {scale, 1}, &factor, &norm);
    check.equal("gradients that are not finite are not clipped", {factor, std::isfinite(norm) ? 1.f : 0.f}, {1.0, 0.0});
  }
}

static void check_refusal(Check& check) {
  float x = 0;
  bool refused = false;
  try {
    act_forward_cpu(check.device, 1, DType::bf16, Act::relu, &x, &x);
  } catch (const Error& error) { refused = error.code == "BAD_OPTION"; }
  check.equal("bfloat16 is refused", {refused ? 1.0f : 0.0f}, {1.0});
}

void check_elements(Check& check) {
  for (int64_t count : {1, 5, 16, 1003, 70001})
    check_act(check, count), check_add(check, count), check_sgd(check, count), check_adamw(check, count),
        check_clip(check, count);
  check_scale(check, 1, 1, 1);
  check_scale(check, 3, 7, 17);
  check_scale(check, 5, 64, 96);
  check_drop(check, 10007, 1, 0.2f);
  check_drop(check, 40 * 1000, 1000, 0.5f);
  check_drop(check, 7 * 3, 3, 0.3f);
  check_attention(check, 3, 4, 24, 3);
  check_attention(check, 2, 49, 130, 2);
  check_layout(check);
  check_refusal(check);
}
