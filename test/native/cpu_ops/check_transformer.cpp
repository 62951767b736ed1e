// Transformers' operations against plain loops in double.
#include <complex>

#include "check.h"

using namespace lgd;

static void check_layer_norm(Check& check, int64_t rows, int channels, float eps) {
  const Floats x = check.normal(rows * channels, 3, 2), weight = check.normal(channels, 1, 0.3f),
               bias = check.normal(channels);
  Doubles expected(x.size());
  for (int64_t r = 0; r < rows; ++r) {
    double mean = 0, variance = 0;
    for (int c = 0; c < channels; ++c) mean += x[r * channels + c] / double(channels);
    for (int c = 0; c < channels; ++c) variance += std::pow(x[r * channels + c] - mean, 2) / channels;
    for (int c = 0; c < channels; ++c)
      expected[r * channels + c] = (x[r * channels + c] - mean) / std::sqrt(variance + eps) * weight[c] + bias[c];
  }
  const std::string name = "layer_norm " + std::to_string(rows) + "x" + std::to_string(channels);
  Floats y = Check::poisoned(x.size());
  layer_norm_forward_cpu(check.device, {rows, channels, eps}, F32, x.data(), weight.data(), bias.data(), y.data());
  check.equal(name, y, expected);
}

static void check_layer_norm_backward(Check& check, int64_t rows, int channels, float eps) {
  const Floats x = check.normal(rows * channels, 3, 2), weight = check.normal(channels, 1, 0.3f),
               dy = check.normal(rows * channels, 0.5f), before = check.normal(rows * channels),
               sums = check.normal(channels);
  Doubles dx(x.size()), added(x.size()), d_weight(sums.begin(), sums.end()), d_bias = d_weight;
  for (int64_t r = 0; r < rows; ++r) {
    const float *row = x.data() + r * channels, *gradient = dy.data() + r * channels;
    double mean = 0, variance = 0, of_g = 0, of_product = 0;
    for (int c = 0; c < channels; ++c) mean += row[c] / double(channels);
    for (int c = 0; c < channels; ++c) variance += std::pow(row[c] - mean, 2) / channels;
    const double deviation = std::sqrt(variance + eps);
    const auto normed = [&](int c) { return (row[c] - mean) / deviation; };
    const auto g = [&](int c) { return double(gradient[c]) * weight[c]; };
    for (int c = 0; c < channels; ++c) {
      of_g += g(c) / channels;
      of_product += g(c) * normed(c) / channels;
      d_weight[c] += gradient[c] * normed(c);
      d_bias[c] += gradient[c];
    }
    for (int c = 0; c < channels; ++c) {
      dx[r * channels + c] = (g(c) - of_g - normed(c) * of_product) / deviation;
      added[r * channels + c] = dx[r * channels + c] + before[r * channels + c];
    }
  }
  const std::string name = "layer_norm_backward " + std::to_string(rows) + "x" + std::to_string(channels);
  for (const bool accumulate : {false, true}) {
    Floats found = accumulate ? before : Check::poisoned(x.size()), of_weight = sums, of_bias = sums;
    layer_norm_backward_cpu(check.device, {rows, channels, eps}, F32, x.data(), dy.data(), weight.data(), found.data(),
                            accumulate, of_weight.data(), of_bias.data());
    // of one channel the gradient is rounding: none
    if (channels > 1) check.equal(name, found, accumulate ? added : dx, 5e-6);
    check.equal(name + ", weight", of_weight, d_weight, 5e-6);
    check.equal(name + ", bias", of_bias, d_bias);
  }
}

static void check_layer_scale(Check& check, const RowsShape& s, bool drops) {
  const int64_t count = s.rows() * s.channels;
  const Floats x = check.normal(count), gamma = check.normal(s.channels), residual = check.normal(count),
               dy = check.normal(count), sums = check.normal(s.channels);
  const DropShape drop{count, count / s.images, 0.4f, 7, 3, 5};
  Floats keep(count, 1.0f), ones(count, 1.0f);
  if (drops) drop_forward_cpu(check.device, drop, F32, ones.data(), keep.data());
  Doubles y(count), with_residual(count), dx(count), added(count), d_gamma(sums.begin(), sums.end());
  for (int64_t i = 0; i < count; ++i) {
    const int c = int(i % s.channels);
    y[i] = double(keep[i]) * gamma[c] * x[i];
    with_residual[i] = y[i] + residual[i];
    dx[i] = double(keep[i]) * gamma[c] * dy[i];
    added[i] = dx[i] + residual[i];
    d_gamma[c] += double(keep[i]) * dy[i] * x[i];
  }
  const std::string name = "layer_scale " + std::to_string(s.rows()) + "x" + std::to_string(s.channels);
  const DropShape* of = drops ? &drop : nullptr;
  Floats found = Check::poisoned(count);
  layer_scale_forward_cpu(check.device, s, F32, x.data(), gamma.data(), of, nullptr, found.data());
  check.equal(name, found, y);
  layer_scale_forward_cpu(check.device, s, F32, x.data(), gamma.data(), of, residual.data(), found.data());
  check.equal(name + ", residual", found, with_residual);
  for (const bool accumulate : {false, true}) {
    Floats gradient = accumulate ? residual : Check::poisoned(count), of_gamma = sums;
    layer_scale_backward_cpu(check.device, s, F32, x.data(), gamma.data(), of, dy.data(), gradient.data(), accumulate,
                             of_gamma.data());
    check.equal(name + " backward", gradient, accumulate ? added : dx);
    check.equal(name + " backward, gamma", of_gamma, d_gamma);
  }
}

// Forward, and backward as written and as added to.
static void check_self_attention(Check& check, const SelfAttentionShape& s) {
  const int width = s.channels / s.heads;
  const int64_t row = 3 * int64_t(s.channels), all = int64_t(s.n) * s.tokens;
  const Floats qkv = check.normal(all * row, 0, 1.5f), d_out = check.normal(all * s.channels),
               before = check.normal(all * row);
  Doubles expected(all * s.channels), gradient(all * row);
  const double scale = 1 / std::sqrt(double(width));
  for (int64_t n = 0; n < s.n; ++n)
    for (int h = 0; h < s.heads; ++h)
      for (int i = 0; i < s.tokens; ++i) {
        const auto place = [&](int which, int j) { return (n * s.tokens + j) * row + which * s.channels + h * width; };
        const int64_t at = (n * s.tokens + i) * s.channels + h * width;
        const int reach = s.causal ? i + 1 : s.tokens;
        Doubles weight(reach), slope(reach);
        double most = -1e300, total = 0, mean = 0;
        for (int j = 0; j < reach; ++j) {
          for (int c = 0; c < width; ++c) {
            weight[j] += double(qkv[place(0, i) + c]) * qkv[place(1, j) + c] * scale;
            slope[j] += double(d_out[at + c]) * qkv[place(2, j) + c];
          }
          most = std::max(most, weight[j]);
        }
        for (double& value : weight) total += value = std::exp(value - most);
        for (int j = 0; j < reach; ++j) mean += (weight[j] /= total) * slope[j];
        for (int j = 0; j < reach; ++j)
          for (int c = 0; c < width; ++c) {
            const double through = weight[j] * (slope[j] - mean) * scale;
            expected[at + c] += weight[j] * qkv[place(2, j) + c];
            gradient[place(0, i) + c] += through * qkv[place(1, j) + c];
            gradient[place(1, j) + c] += through * qkv[place(0, i) + c];
            gradient[place(2, j) + c] += weight[j] * d_out[at + c];
          }
      }
  const std::string name = "self_attention " + std::to_string(s.n) + " of " + std::to_string(s.tokens) + "x" +
                           std::to_string(s.channels) + " heads " + std::to_string(s.heads) +
                           (s.causal ? " causal" : "");
  Floats out = Check::poisoned(expected.size()), d_qkv = Check::poisoned(gradient.size()), sum = before;
  self_attention_forward_cpu(check.device, s, F32, qkv.data(), out.data());
  check.equal(name, out, expected);
  self_attention_backward_cpu(check.device, s, F32, qkv.data(), out.data(), d_out.data(), d_qkv.data(), false);
  check.equal(name + " backward", d_qkv, gradient);
  self_attention_backward_cpu(check.device, s, F32, qkv.data(), out.data(), d_out.data(), sum.data(), true);
  for (size_t e = 0; e < gradient.size(); ++e) gradient[e] += before[e];
  check.equal(name + " backward, added", sum, gradient);
}

static void check_rotary(Check& check, const RotaryShape& s) {
  const int width = s.channels / s.heads, half = width / 2;
  const int64_t row = 3 * int64_t(s.channels);
  const Floats qkv = check.normal(s.n * s.tokens * row), angle = check.normal((s.tokens - s.first) * half, 0, 3);
  Floats table(size_t(s.tokens - s.first) * width);
  for (size_t i = 0; i < angle.size(); ++i) {
    table[i / half * width + i % half] = std::cos(angle[i]);
    table[i / half * width + half + i % half] = std::sin(angle[i]);
  }
  Doubles expected(qkv.begin(), qkv.end());
  for (int64_t r = 0; r < int64_t(s.n) * s.tokens; ++r)
    for (int c = 0; c < 2 * s.channels; ++c) {  // queries and keys, as complex numbers times e^(i angle)
      const int t = int(r % s.tokens) - s.first, d = c % width;
      if (t < 0 || d >= half) continue;
      const std::complex<double> turned = std::complex<double>(qkv[r * row + c], qkv[r * row + c + half]) *
                                          std::polar(1.0, double(angle[t * half + d]));
      expected[r * row + c] = turned.real();
      expected[r * row + c + half] = turned.imag();
    }
  const std::string name = "rotary " + std::to_string(s.tokens) + "x" + std::to_string(s.channels) + " heads " +
                           std::to_string(s.heads) + " behind " + std::to_string(s.first);
  Floats y = Check::poisoned(qkv.size());
  rotary_forward_cpu(check.device, s, F32, qkv.data(), table.data(), y.data());
  check.equal(name, y, expected);
  y = qkv;
  rotary_forward_cpu(check.device, s, F32, y.data(), table.data(), y.data());
  check.equal(name + " in place", y, expected);
}

static void check_swiglu(Check& check, int64_t rows, int channels) {
  const Floats x = check.normal(rows * 2 * channels, 0, 3);
  Doubles expected(size_t(rows) * channels);
  for (int64_t e = 0; e < int64_t(expected.size()); ++e) {
    const int64_t at = e / channels * 2 * channels + e % channels;
    expected[e] = x[at] / (1 + std::exp(-double(x[at]))) * x[at + channels];
  }
  Floats y = Check::poisoned(expected.size());
  swiglu_forward_cpu(check.device, rows, channels, F32, x.data(), y.data());
  check.equal("swiglu " + std::to_string(rows) + "x" + std::to_string(channels), y, expected);
}

static void check_sequences(Check& check, int n, int tokens, int channels) {
  const SequenceShape s{n, tokens, channels};
  const Floats position = check.normal(tokens * channels), value = check.normal(channels),
               word = check.normal(700 * channels);
  for (const int first : {0, 1, 5}) {
    const int pixels = tokens - first;
    if (pixels < 1) continue;
    const Floats x = check.normal(int64_t(n) * pixels * channels);
    const Floats constant = check.normal(int64_t(first) * channels + 1),
                 dy = check.normal(int64_t(n) * tokens * channels);
    for (const bool has_constant : {false, true}) {
      Floats y = Check::poisoned(dy.size()), dx = Check::poisoned(x.size()), d_position = position,
             d_constant = constant, sum = x;
      Doubles expected(y.size()), to_x(x.size()), added(x.begin(), x.end()),
          to_position(position.begin(), position.end()), to_constant(constant.begin(), constant.end());
      for (int64_t e = 0; e < int64_t(y.size()); ++e) {
        const int64_t c = e % channels, t = e / channels % tokens, image = e / channels / tokens,
                      at = (image * pixels + t - first) * channels + c;
        expected[e] = double(position[t * channels + c]);
        if (t >= first) expected[e] += x[at], to_x[at] = dy[e], added[at] += dy[e];
        else if (has_constant) expected[e] += constant[t * channels + c], to_constant[t * channels + c] += dy[e];
        to_position[t * channels + c] += dy[e];
      }
      const std::string name = "positions behind " + std::to_string(first) + (has_constant ? " constant" : "");
      positions_forward_cpu(check.device, s, F32, first, x.data(), position.data(),
                            has_constant ? constant.data() : nullptr, y.data());
      check.equal(name, y, expected, 1e-7);
      positions_backward_cpu(check.device, s, F32, first, dy.data(), dx.data(), false, d_position.data(),
                             has_constant ? d_constant.data() : nullptr);
      check.equal(name + " dx", dx, to_x, 1e-9);
      check.equal(name + " d_position", d_position, to_position);
      check.equal(name + " d_constant", d_constant, to_constant);
      positions_backward_cpu(check.device, s, F32, first, dy.data(), sum.data(), true, d_position.data(), nullptr);
      check.equal(name + " dx, added", sum, added, 1e-7);
    }
  }
  {
    const Floats dy = check.normal(int64_t(n) * channels), before = check.normal(int64_t(n) * tokens * channels);
    Floats d_tokens = Check::poisoned(before.size()), sum = before;
    Doubles written(before.size()), added(before.begin(), before.end());
    for (int64_t e = 0; e < int64_t(dy.size()); ++e) {
      const int64_t at = e / channels * tokens * channels + e % channels;
      written[at] = dy[e];
      added[at] += dy[e];
    }
    first_token_backward_cpu(check.device, n, tokens, channels, F32, dy.data(), d_tokens.data(), false);
    check.equal("first_token backward", d_tokens, written, 1e-9);
    first_token_backward_cpu(check.device, n, tokens, channels, F32, dy.data(), sum.data(), true);
    check.equal("first_token backward, added", sum, added, 1e-7);
  }
  Floats ids(int64_t(n) * tokens * 3), y = Check::poisoned(int64_t(n) * tokens * channels);
  Doubles expected(y.size());
  for (int64_t row = 0; row < int64_t(n) * tokens; ++row) {
    const int id = int(check.random() % 700);
    ids[row * 3] = float(id % 256), ids[row * 3 + 1] = float(id / 256);
    for (int c = 0; c < channels; ++c)
      expected[row * channels + c] = double(word[id * channels + c]) + position[row % tokens * channels + c];
  }
  words_forward_cpu(check.device, s, F32, 3, 700, ids.data(), word.data(), position.data(), y.data());
  check.equal("words", y, expected, 1e-7);

  Floats found = Check::poisoned(int64_t(n) * channels);
  Doubles wanted(found.size());
  for (int64_t image = 0; image < n; ++image) {
    const int t = image == 0 ? tokens - 1 : int(image * 5 % tokens);  // the first has none: the last token is taken
    if (image > 0)
      ids[(image * tokens + t) * 3] = 1, ids[(image * tokens + t) * 3 + 1] = 2, ids[(image * tokens + t) * 3 + 2] = 3;
    // a second one counts for nothing
    if (image > 0 && t < tokens - 1)
      std::copy_n(&ids[(image * tokens + t) * 3], 3, &ids[(image * tokens + tokens - 1) * 3]);
    for (int c = 0; c < channels; ++c) wanted[image * channels + c] = y[(image * tokens + t) * channels + c];
  }
  end_token_forward_cpu(check.device, s, F32, 3, 1 + 2 * 256 + 3 * 65536, y.data(), ids.data(), found.data());
  check.equal("end_token", found, wanted, 1e-9);

  Floats repeated = Check::poisoned(int64_t(n) * channels);
  for (size_t e = 0; e < repeated.size(); ++e) wanted[e] = value[e % channels];
  repeat_forward_cpu(check.device, n, channels, F32, value.data(), repeated.data());
  check.equal("repeat", repeated, wanted, 1e-9);
}

static void check_gelu(Check& check, int64_t count) {
  Floats x = check.normal(count, 0, 3);
  if (count == 1) x[0] = 1.5f;  // alone, a value in the tail shows that erfc is good to 1.5e-7 of 1, not of itself
  if (count > 100) x[0] = 1000, x[1] = -1000, x[2] = 90, x[3] = -90, x[4] = 0, x[5] = -5;
  for (Act act : {Act::gelu, Act::gelu_tanh, Act::quick_gelu}) {
    Floats y = Check::poisoned(count);
    Doubles expected(count);
    for (int64_t i = 0; i < count; ++i) expected[i] = reference_act(act, x[i]);
    act_forward_cpu(check.device, count, F32, act, x.data(), y.data());
    check.equal("gelu " + std::to_string(int(act)), y, expected, 5e-7);
    const ConvShape s = conv_shape(int(count), 1, 1, 5, 9, 1, 1, 0);
    const Floats rows = check.normal(count * 5), w = check.normal(45), shift = check.normal(9),
                 residual = check.normal(count * 9);
    Floats out = Check::poisoned(count * 9);
    Doubles sum(out.size());
    for (int64_t e = 0; e < int64_t(sum.size()); ++e) {
      double u = double(shift[e % 9]) + residual[e];
      for (int c = 0; c < 5; ++c) u += double(rows[e / 9 * 5 + c]) * w[e % 9 * 5 + c];
      sum[e] = reference_act(act, u);
    }
    conv_forward_cpu(check.device, s, F32, rows.data(), w.data(), {nullptr, shift.data(), residual.data(), act},
                     out.data());
    check.equal("linear and gelu " + std::to_string(int(act)), out, sum);
    const Floats dy = check.normal(count);
    for (int64_t i = 0; i < count; ++i) expected[i] = reference_slope(act, x[i]) * dy[i];
    act_backward_cpu(check.device, count, F32, act, x.data(), dy.data(), y.data(), false);
    check.equal("gelu backward " + std::to_string(int(act)), y, expected);
    for (int64_t i = 0; i < count; ++i) expected[i] += reference_slope(act, x[i]) * dy[i];
    act_backward_cpu(check.device, count, F32, act, x.data(), dy.data(), y.data(), true);
    check.equal("gelu backward, added " + std::to_string(int(act)), y, expected);
  }
}

void check_transformer(Check& check) {
  for (const auto& [rows, channels, eps] : {std::tuple<int64_t, int, float>{1, 1, 1e-5f},
                                            {7, 3, 1e-5f},
                                            {33, 64, 1e-6f},
                                            {1500, 40, 1e-6f},
                                            {100, 1001, 1e-5f}}) {
    check_layer_norm(check, rows, channels, eps);
    check_layer_norm_backward(check, rows, channels, eps);
  }
  for (const bool drops : {false, true}) {
    check_layer_scale(check, {1, 1, 1}, drops);
    check_layer_scale(check, {9, 35, 17}, drops);
    check_layer_scale(check, {6, 900, 40}, drops);
  }
  for (const bool causal : {false, true})
    for (const SelfAttentionShape& s : {SelfAttentionShape{1, 1, 8, 1, causal},
                                        {2, 5, 24, 3, causal},
                                        {1, 50, 128, 2, causal},
                                        {3, 33, 70, 2, causal},
                                        {1, 77, 144, 2, causal},
                                        {1, 197, 16, 16, causal},
                                        {2, 197, 64, 1, causal},
                                        {3, 17, 192, 3, causal}})
      check_self_attention(check, s);
  for (const RotaryShape& s : {RotaryShape{1, 1, 2, 1, 0}, {3, 7, 36, 3, 5}, {2, 40, 128, 2, 1}, {2, 9, 96, 2, 0}})
    check_rotary(check, s);
  check_swiglu(check, 1, 1);
  check_swiglu(check, 100, 33);
  check_swiglu(check, 9, 1536);
  check_sequences(check, 3, 7, 12);
  check_sequences(check, 2, 2, 5);
  check_sequences(check, 40, 17, 64);
  check_gelu(check, 1);
  check_gelu(check, 1003);
}
