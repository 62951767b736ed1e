// Convolutions, dense and depthwise, against plain loops in double.
#include "check.h"

using namespace lgd;

ConvShape conv_shape(int n, int h, int w, int c, int k, int kernel, int stride, int pad, int dilation) {
  const int reach = dilation * (kernel - 1) + 1;
  return {n,
          h,
          w,
          c,
          k,
          kernel,
          kernel,
          stride,
          pad,
          dilation,
          (h + 2 * pad - reach) / stride + 1,
          (w + 2 * pad - reach) / stride + 1};
}

// With TensorFlow's padding `same`: windows may reach further beyond the end of the image than before its start.
static ConvShape conv_same(int n, int h, int w, int c, int k, int kernel, int stride) {
  const int missing = (h - 1) / stride * stride + kernel - h;
  ConvShape s = conv_shape(n, h, w, c, k, kernel, stride, missing > 0 ? missing / 2 : 0);
  s.oh = (h - 1) / stride + 1;
  s.ow = (w - 1) / stride + 1;
  return s;
}

std::string name_of(const ConvShape& s) {
  char text[128];
  std::snprintf(text, sizeof text, "n%d %dx%d c%d k%d %dx%d stride %d pad %d dilation %d", s.n, s.h, s.w, s.c, s.k, s.r,
                s.s, s.stride, s.pad, s.dilation);
  return text;
}

// body(output pixel, tap, input pixel), pixels counted over the batch.
template <class Body>
static void each_tap(const ConvShape& s, Body&& body) {
  for (int n = 0; n < s.n; ++n)
    for (int oy = 0; oy < s.oh; ++oy)
      for (int ox = 0; ox < s.ow; ++ox)
        for (int r = 0; r < s.r; ++r)
          for (int q = 0; q < s.s; ++q) {
            const int iy = oy * s.stride - s.pad + r * s.dilation, ix = ox * s.stride - s.pad + q * s.dilation;
            if (iy < 0 || iy >= s.h || ix < 0 || ix >= s.w) continue;
            body((int64_t(n) * s.oh + oy) * s.ow + ox, int64_t(r) * s.s + q, (int64_t(n) * s.h + iy) * s.w + ix);
          }
}

static Doubles with_epilogue(const ConvShape& s, const Doubles& y, const Epilogue& epilogue) {
  Doubles out(y.size());
  for (size_t i = 0; i < y.size(); ++i) {
    const size_t k = i % s.k;
    double u = y[i] * (epilogue.scale ? epilogue.scale[k] : 1) + (epilogue.shift ? epilogue.shift[k] : 0);
    if (epilogue.residual) u += static_cast<const float*>(epilogue.residual)[i];
    out[i] = reference_act(epilogue.act, u);
  }
  return out;
}

static Doubles plus(Doubles a, const Floats& b) {
  for (size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

struct Reference {
  Doubles y, dx, dw, bias;
};

static Reference dense(const ConvShape& s, const Floats& x, const Floats& w, const Floats& dy) {
  const int64_t taps = int64_t(s.r) * s.s;
  Reference out{Doubles(dy.size()), Doubles(x.size()), Doubles(w.size()), Doubles(s.k)};
  each_tap(s, [&](int64_t o, int64_t tap, int64_t i) {
    for (int k = 0; k < s.k; ++k) {
      const int64_t at = (k * taps + tap) * s.c;
      double sum = 0;
      for (int c = 0; c < s.c; ++c) {
        sum += double(x[i * s.c + c]) * w[at + c];
        out.dx[i * s.c + c] += double(dy[o * s.k + k]) * w[at + c];
        out.dw[at + c] += double(dy[o * s.k + k]) * x[i * s.c + c];
      }
      out.y[o * s.k + k] += sum;
    }
  });
  for (size_t i = 0; i < dy.size(); ++i) out.bias[i % s.k] += dy[i];
  return out;
}

static void check_dense(Check& check, const ConvShape& s, const Epilogue& shape_of_epilogue) {
  const std::string name = "conv " + name_of(s);
  const Floats x = check.normal(int64_t(s.n) * s.h * s.w * s.c), w = check.normal(int64_t(s.k) * s.r * s.s * s.c),
               dy = check.normal(s.rows() * s.k);
  const Floats scale = check.normal(s.k), shift = check.normal(s.k), residual = check.normal(s.rows() * s.k),
               before = check.normal(x.size());
  const Reference expected = dense(s, x, w, dy);
  Epilogue epilogue{shape_of_epilogue.scale ? scale.data() : nullptr, shape_of_epilogue.shift ? shift.data() : nullptr,
                    shape_of_epilogue.residual ? residual.data() : nullptr, shape_of_epilogue.act};
  Floats y = Check::poisoned(dy.size());
  conv_forward_cpu(check.device, s, F32, x.data(), w.data(), epilogue, y.data());
  check.equal(name + " forward", y, with_epilogue(s, expected.y, epilogue));

  Floats dx = Check::poisoned(x.size());
  conv_backward_data_cpu(check.device, s, F32, dy.data(), w.data(), dx.data(), false);
  check.equal(name + " data", dx, expected.dx);
  dx = before;
  conv_backward_data_cpu(check.device, s, F32, dy.data(), w.data(), dx.data(), true);
  check.equal(name + " data added", dx, plus(expected.dx, before));

  const Floats dw_before = check.normal(w.size()), bias_before = check.normal(s.k);
  Floats dw = dw_before, bias = bias_before;
  conv_backward_weight_cpu(check.device, s, F32, x.data(), dy.data(), dw.data(), bias.data());
  check.equal(name + " weight", dw, plus(expected.dw, dw_before));
  check.equal(name + " bias", bias, plus(expected.bias, bias_before));
  dw = dw_before;
  conv_backward_weight_cpu(check.device, s, F32, x.data(), dy.data(), dw.data(), nullptr);
  check.equal(name + " weight alone", dw, plus(expected.dw, dw_before));
}

void check_conv(Check& check) {
  const float set = 1;  // marks the parts of an epilogue that are present
  const Epilogue none{}, folded{&set, &set, nullptr, Act::relu6}, bias{nullptr, &set, nullptr, Act::hardswish},
      whole{&set, &set, &set, Act::silu}, sum{nullptr, nullptr, &set, Act::relu};
  const std::pair<ConvShape, Epilogue> cases[] = {
      {conv_shape(1, 1, 1, 1, 1, 1, 1, 0), none},
      {conv_shape(1, 1, 1, 5, 3, 1, 1, 0), bias},
      {conv_shape(3, 7, 5, 17, 19, 1, 1, 0), whole},
      {conv_shape(2, 9, 9, 24, 144, 1, 1, 0), folded},
      {conv_shape(64, 1, 1, 320, 130, 1, 1, 0), bias},
      {conv_shape(2, 13, 11, 33, 40, 1, 2, 0), sum},
      {conv_shape(4, 16, 16, 16, 96, 1, 1, 0), none},
      {conv_shape(1, 40, 40, 96, 16, 1, 1, 0), none},
      {conv_shape(2, 8, 8, 3, 16, 3, 2, 1), folded},
      {conv_shape(1, 11, 13, 3, 33, 7, 2, 3), folded},
      {conv_shape(2, 9, 7, 16, 24, 3, 1, 1), whole},
      {conv_shape(2, 9, 8, 20, 37, 3, 2, 1), sum},
      {conv_shape(1, 10, 12, 19, 18, 3, 1, 2, 2), none},
      {conv_shape(2, 11, 9, 32, 32, 3, 2, 2, 2), none},
      {conv_shape(1, 2, 2, 64, 64, 3, 1, 1), none},
      {conv_shape(1, 5, 6, 7, 9, 5, 3, 2), none},
      {conv_shape(1, 4, 4, 12, 4, 4, 4, 0), none},
      {conv_shape(3, 6, 5, 130, 70, 3, 1, 1), folded},
      {conv_shape(1, 6, 6, 8, 8, 3, 1, 0), none},
      {conv_shape(1, 7, 7, 40, 24, 3, 3, 0), none},
      {conv_shape(5, 3, 3, 520, 260, 1, 1, 0), none},
      {conv_shape(2, 33, 31, 4, 6, 3, 2, 1), none},
      {conv_shape(2, 4, 4, 256, 48, 3, 2, 1), none},
      {conv_shape(20, 3, 3, 33, 20, 3, 1, 1), none},
      {conv_same(2, 8, 12, 3, 16, 3, 2), folded},
      {conv_same(2, 14, 10, 24, 40, 3, 2), whole},
      {conv_same(1, 16, 14, 17, 9, 5, 2), none},
      // So many rows that weight gradients are summed in parts.
      {conv_shape(1, 128, 130, 24, 16, 1, 1, 0), none},
      {conv_shape(4, 65, 64, 16, 24, 3, 1, 1), none},
      {conv_shape(2, 96, 96, 3, 8, 3, 1, 1), none},
  };
  for (const auto& [shape, epilogue] : cases) check_dense(check, shape, epilogue);
}

static Reference depthwise(const ConvShape& s, const Floats& x, const Floats& w, const Floats& dy) {
  Reference out{Doubles(dy.size()), Doubles(x.size()), Doubles(w.size()), {}};
  each_tap(s, [&](int64_t o, int64_t tap, int64_t i) {
    for (int c = 0; c < s.c; ++c) {
      out.y[o * s.c + c] += double(x[i * s.c + c]) * w[tap * s.c + c];
      out.dx[i * s.c + c] += double(dy[o * s.c + c]) * w[tap * s.c + c];
      out.dw[tap * s.c + c] += double(dy[o * s.c + c]) * x[i * s.c + c];
    }
  });
  return out;
}

static void check_one_depthwise(Check& check, const ConvShape& s, const Epilogue& shape_of_epilogue) {
  const std::string name = "depthwise " + name_of(s);
  const Floats x = check.normal(int64_t(s.n) * s.h * s.w * s.c), w = check.normal(int64_t(s.r) * s.s * s.c),
               dy = check.normal(s.rows() * s.c);
  const Floats scale = check.normal(s.c), shift = check.normal(s.c), residual = check.normal(dy.size()),
               before = check.normal(x.size());
  const Reference expected = depthwise(s, x, w, dy);
  Epilogue epilogue{shape_of_epilogue.scale ? scale.data() : nullptr, shape_of_epilogue.shift ? shift.data() : nullptr,
                    shape_of_epilogue.residual ? residual.data() : nullptr, shape_of_epilogue.act};
  Floats y = Check::poisoned(dy.size());
  depthwise_forward_cpu(check.device, s, F32, x.data(), w.data(), epilogue, y.data());
  check.equal(name + " forward", y, with_epilogue(s, expected.y, epilogue));

  Floats dx = Check::poisoned(x.size());
  depthwise_backward_data_cpu(check.device, s, F32, dy.data(), w.data(), dx.data(), false);
  check.equal(name + " data", dx, expected.dx);
  dx = before;
  depthwise_backward_data_cpu(check.device, s, F32, dy.data(), w.data(), dx.data(), true);
  check.equal(name + " data added", dx, plus(expected.dx, before));

  const Floats dw_before = check.normal(w.size());
  Floats dw = dw_before;
  depthwise_backward_weight_cpu(check.device, s, F32, x.data(), dy.data(), dw.data(), nullptr);
  check.equal(name + " weight", dw, plus(expected.dw, dw_before));
  const Floats bias_before = check.normal(s.c);
  Floats d_bias = bias_before;
  Doubles sums(bias_before.begin(), bias_before.end());
  for (size_t i = 0; i < dy.size(); ++i) sums[i % size_t(s.c)] += dy[i];
  depthwise_backward_weight_cpu(check.device, s, F32, x.data(), dy.data(), dw.data(), d_bias.data());
  check.equal(name + " bias", d_bias, sums);
}

void check_depthwise(Check& check) {
  const float set = 1;
  const Epilogue none{}, folded{&set, &set, nullptr, Act::relu6}, bias{nullptr, &set, nullptr, Act::hardswish},
      whole{&set, &set, &set, Act::silu};
  for (int kernel : {3, 5, 7}) {
    for (int stride : {1, 2}) {
      const int pad = kernel / 2;
      const ConvShape shapes[] = {
          conv_shape(1, 1, 1, 1, 1, kernel, stride, pad),
          conv_shape(2, 2, 2, 40, 40, kernel, stride, pad),
          conv_shape(2, 4, 4, 96, 96, kernel, stride, pad),
          conv_shape(3, 9, 11, 17, 17, kernel, stride, pad),
          conv_shape(1, 16, 15, 24, 24, kernel, stride, pad),
          conv_shape(1, 32, 33, 12, 12, kernel, stride, pad),
          conv_shape(70, 3, 5, 8, 8, kernel, stride, pad),
          conv_shape(1, 13, 12, 130, 130, kernel, stride, pad),
          conv_shape(1, 12, 14, 19, 19, kernel, stride, 2 * pad, 2),
          conv_shape(2, 9, 10, 21, 21, kernel, stride, 0),
          conv_shape(1, 5, 1, 16, 16, kernel, stride, pad),
          conv_same(2, 2, 4, 40, 40, kernel, stride),
          conv_same(3, 14, 16, 17, 17, kernel, stride),
          conv_same(1, 64, 62, 8, 8, kernel, stride),
      };
      int index = 0;
      for (const ConvShape& shape : shapes) {
        const Epilogue epilogues[] = {none, folded, bias, whole};
        check_one_depthwise(check, shape, epilogues[index++ % 4]);
      }
    }
  }
}
