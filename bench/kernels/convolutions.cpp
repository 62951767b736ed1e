// Rows of dense convolutions: the students' fused forward and backward passes, and the teacher's forward with folded
// norms.
#include "norms.h"
#include "ops/conv_gradients.h"
#include "table.h"

namespace lgd::bench {

namespace {

struct Layer {
  const char* where;
  int side, c, k, r, stride;
  Act act = Act::none;  // of the input, over its norm; none: the input is stored as it is
  bool gated = false;
  bool images = false;  // three channels of four, read by pairs of pixels
};

ConvShape shape_of(const Table& table, const Layer& layer, int n) {
  const int side = std::max(table.side(layer.side), layer.r == 7 ? 8 : layer.stride * 2);
  const ConvShape shape = testing::conv(n, side, side, table.channels(layer.c), table.channels(layer.k), layer.r,
                                        layer.stride, layer.r / 2);
  return layer.images ? by_pairs(shape) : shape;
}

struct Counts {
  double x, y, w, operations;
  explicit Counts(const ConvShape& s)
      : x(double(s.n) * s.h * s.w * s.c),
        y(double(s.rows()) * s.k),
        w(double(s.k) * s.taps() * s.c),
        operations(2 * y * s.r * (s.pair_taps ? 3 * s.pair_taps : s.s * s.c)) {}
};

size_t image_in(const ConvShape& s) { return size_t(s.h) * s.w * s.c; }
size_t image_out(const ConvShape& s) { return size_t(s.oh) * s.ow * s.k; }
float fan(const ConvShape& s) { return 1 / std::sqrt(float(s.taps() * s.c)); }
size_t weights(const ConvShape& s) { return size_t(s.k) * s.taps() * s.c; }

std::string name_of(const char* what, const Layer& layer) {
  char text[120];
  std::snprintf(text, sizeof text, "%s %dx%d%s %d -> %d @%d (%s)", what, layer.r, layer.r, layer.stride > 1 ? "/2" : "",
                layer.images ? 3 : layer.c, layer.k, layer.side, layer.where);
  return text;
}

LazyInput input(Operands& t, const ConvShape& s, const Layer& layer) {
  if (layer.act != Act::none) return lazy_input(t, image_in(s), s.c, layer.act, layer.gated);
  LazyInput x;
  x.y = t.images(image_in(s));
  return x;
}

void forward(Table& table, const Layer& layer) {
  const Counts counts(shape_of(table, layer, table.batch()));
  table.operation(name_of("conv_norm_forward", layer),
                  {2 * (counts.x + counts.w + counts.y), counts.operations, Unit::tensor, "x, w, y"},
                  [&](Operands& t) -> Call {
                    const ConvShape s = shape_of(table, layer, t.n);
                    const LazyInput x = input(t, s, layer);
                    const void* w = t.values(weights(s), fan(s));
                    const NormTarget norm = norm_target(t, s.k);
                    void* y = t.out_images(image_out(s));
                    return [=, &t] { t.ops.conv_norm_forward(*t.device, s, t.type, x, w, norm, y); };
                  });
}

// Both gradients, as a step takes them: the 1x1 convolutions that suit it in one kernel, the others in two.
void backward(Table& table, const Layer& layer) {
  const Counts counts(shape_of(table, layer, table.batch()));
  const bool one_pass = layer.r == 1 && layer.stride == 1 &&
                        suits_pointwise(*table.gpu, shape_of(table, layer, table.batch()), DType::bf16);
  const Work work{2 * (2 * counts.y + 2 * counts.x + counts.w) + 4 * counts.w, 2 * counts.operations, Unit::tensor,
                  "g, y, x, w, dw (float32), g of x; each once"};
  table.operation(name_of(one_pass ? "pointwise_backward" : "conv_norm_backward", layer), work,
                  [&](Operands& t) -> Call {
                    const ConvShape s = shape_of(table, layer, t.n);
                    const LazyInput x = input(t, s, layer);
                    const LazyGradient dy = lazy_gradient(t, image_out(s), s.k);
                    const void* w = t.values(weights(s), fan(s));
                    float* dw = t.out_sums(weights(s));
                    const GradientTarget target = gradient_target(t, image_in(s), s.c, x);
                    return [=, &t] { t.ops.conv_norm_backward(*t.device, s, t.type, x, dy, w, dw, &target); };
                  });
}

// The gradient of the input alone. The CPU computes both, and the other one goes nowhere.
void data(Table& table, const Layer& layer) {
  const Counts counts(shape_of(table, layer, table.batch()));
  table.operation(name_of("conv dgrad", layer),
                  {2 * (2 * counts.y + 2 * counts.x + counts.w), counts.operations, Unit::tensor, "g, y, w, x, g of x"},
                  [&](Operands& t) -> Call {
                    const ConvShape s = shape_of(table, layer, t.n);
                    const LazyInput x = input(t, s, layer);
                    const LazyGradient dy = lazy_gradient(t, image_out(s), s.k);
                    const void* w = t.values(weights(s), fan(s));
                    const GradientTarget target = gradient_target(t, image_in(s), s.c, x);
                    if (t.device->kind == DeviceKind::cuda)
                      return [=, &t] { data_gradient(*t.device, s, t.type, dy, w, target); };
                    float* dw = t.unchecked32(weights(s));
                    return [=, &t] { t.ops.conv_norm_backward(*t.device, s, t.type, x, dy, w, dw, &target); };
                  });
}

void weight(Table& table, const Layer& layer) {
  const Counts counts(shape_of(table, layer, table.batch()));
  table.operation(
      name_of("conv wgrad", layer),
      {2 * (2 * counts.y + counts.x) + 4 * counts.w, counts.operations, Unit::tensor, "g, y, x, dw (float32)"},
      [&](Operands& t) -> Call {
        const ConvShape s = shape_of(table, layer, t.n);
        const LazyInput x = input(t, s, layer);
        const LazyGradient dy = lazy_gradient(t, image_out(s), s.k);
        const void* w = t.values(weights(s), fan(s));
        float* dw = t.out_sums(weights(s));
        return [=, &t] { t.ops.conv_norm_backward(*t.device, s, t.type, x, dy, w, dw, nullptr); };
      });
}

enum class Ending { plain, residual, mean, both };

// A teacher's convolution: the folded norm and ReLU in the epilogue, the residual too where a block ends, and the mean
// of 2x2 windows instead of the output or, where a stage ends, beside it.
void teacher(Table& table, const Layer& layer, Ending ending = Ending::plain) {
  const auto shape = [&, ending](int n) {  // even where a map stands beside its means
    const ConvShape s = shape_of(table, layer, n);
    return ending == Ending::both ? testing::conv(n, s.h + s.h % 2, s.w + s.w % 2, s.c, s.k, s.r, s.stride, s.pad) : s;
  };
  const Counts counts(shape(table.batch()));
  const bool residual = ending == Ending::residual || ending == Ending::both,
             mean = ending == Ending::mean || ending == Ending::both, output = ending != Ending::mean;
  const Work work{2 * (counts.x + counts.w + (output + residual + mean * 0.25) * counts.y), counts.operations,
                  Unit::tensor,
                  ending == Ending::both ? "x, w, residual, y and a quarter"
                  : residual             ? "x, w, residual, y"
                  : mean                 ? "x, w, a quarter of y"
                                         : "x, w, y"};
  const char* const names[] = {"conv_forward", "conv_forward + residual", "conv_forward + mean",
                               "conv_forward + residual, mean"};
  table.operation(name_of(names[int(ending)], layer), work, [&, residual, mean, output](Operands& t) -> Call {
    const ConvShape s = shape(t.n);
    const void *x = t.images(image_in(s)), *w = t.values(weights(s), fan(s));
    const Epilogue epilogue{t.values32(size_t(s.k), 0.3f, 1), t.values32(size_t(s.k)),
                            residual ? t.images(image_out(s)) : nullptr, Act::relu,
                            mean ? t.out_images(size_t(s.oh / 2) * (s.ow / 2) * s.k) : nullptr};
    void* y = output ? t.out_images(image_out(s)) : nullptr;
    return [=, &t] { t.ops.conv_forward(*t.device, s, t.type, x, w, epilogue, y); };
  });
}

// The last convolution of a stage's first block and its shortcut, in one.
void teacher_sum(Table& table, int side, int c, int c2, int k) {
  const auto shape = [&, side, c, c2, k](int n) {
    const int pixels = table.side(side) * table.side(side);
    return ConvSumShape{int64_t(n) * pixels, (table.channels(c) + 31) / 32 * 32, table.channels(c2), table.channels(k)};
  };
  const ConvSumShape all = shape(table.batch());
  const double in = double(all.rows) * (all.c + all.c2), out = double(all.rows) * all.k;
  table.operation("conv_sum_forward 1x1 " + std::to_string(c) + " + " + std::to_string(c2) + " -> " +
                      std::to_string(k) + " @" + std::to_string(side) + " (teacher)",
                  {2 * (in + out + double(all.weights())), 2 * in * all.k, Unit::tensor, "x, x2, w, y"},
                  [=](Operands& t) -> Call {
                    const ConvSumShape s = shape(t.n);
                    const size_t pixels = size_t(s.rows / t.n);
                    const void *x = t.images(pixels * s.c), *x2 = t.images(pixels * s.c2),
                               *w = t.values(size_t(s.weights()), 1 / std::sqrt(float(s.c + s.c2)));
                    const float* shift = t.values32(size_t(s.k));
                    void* y = t.out_images(pixels * s.k);
                    return [=, &t] { t.ops.conv_sum_forward(*t.device, s, t.type, x, x2, w, shift, Act::relu, y); };
                  });
}

constexpr Act none = Act::none, relu = Act::relu, relu6 = Act::relu6, silu = Act::silu, hardswish = Act::hardswish;

}  // namespace

void convolutions(Table& table) {
  const Layer stems[] = {{"resnet18", 224, 4, 64, 7, 2, none, false, true},
                         {"mobilenet_v2", 224, 4, 32, 3, 2, none, false, true},
                         {"mobilenet_v3_large", 224, 4, 16, 3, 2, none, false, true}};
  const Layer spatial[] = {{"resnet18", 56, 64, 64, 3, 1, relu},
                           {"resnet18", 56, 64, 128, 3, 2},
                           {"resnet18", 28, 128, 128, 3, 1, relu},
                           {"resnet18", 14, 256, 256, 3, 1, relu},
                           {"resnet18", 7, 512, 512, 3, 1, relu}};
  const Layer pointwise[] = {
      {"resnet18", 56, 64, 128, 1, 2},
      {"mobilenet_v2", 112, 32, 16, 1, 1, relu6},
      {"mobilenet_v2", 112, 16, 96, 1, 1, none},
      {"mobilenet_v2", 56, 96, 24, 1, 1, relu6},
      {"mobilenet_v2", 56, 24, 144, 1, 1, none},
      {"mobilenet_v2", 28, 192, 32, 1, 1, relu6},
      {"mobilenet_v2", 14, 64, 384, 1, 1, none},
      {"mobilenet_v2", 14, 576, 96, 1, 1, relu6},
      {"mobilenet_v2", 7, 160, 960, 1, 1, none},
      {"mobilenet_v2", 7, 960, 320, 1, 1, relu6},
      {"mobilenet_v2", 7, 320, 1280, 1, 1, none},
      {"mobilenet_v3_large", 28, 120, 40, 1, 1, relu, true},
      {"mobilenet_v3_large", 14, 80, 480, 1, 1, none},
      {"mobilenet_v3_large", 14, 672, 112, 1, 1, hardswish, true},
      {"efficientnet_b0", 56, 144, 24, 1, 1, silu, true},
      {"efficientnet_b0", 14, 672, 112, 1, 1, silu, true},
      {"efficientnet_b0", 7, 1152, 192, 1, 1, silu, true},
  };
  for (const Layer& layer : stems) forward(table, layer), weight(table, layer);
  for (const Layer& layer : spatial) forward(table, layer), data(table, layer), weight(table, layer);
  for (const Layer& layer : pointwise) forward(table, layer), backward(table, layer);
  for (const Layer& layer : {Layer{"teacher", 112, 32, 32, 3, 1}, Layer{"teacher", 56, 64, 64, 3, 1},
                             Layer{"teacher", 56, 256, 64, 1, 1}, Layer{"teacher", 28, 128, 128, 3, 1},
                             Layer{"teacher", 14, 256, 256, 3, 1}, Layer{"teacher", 14, 1024, 256, 1, 1},
                             Layer{"teacher", 7, 512, 512, 3, 1}, Layer{"teacher", 7, 2048, 2048, 1, 1}})
    teacher(table, layer);
  for (const Layer& layer : {Layer{"teacher", 112, 32, 64, 3, 1}, Layer{"teacher", 56, 128, 128, 3, 1},
                             Layer{"teacher", 14, 512, 512, 3, 1}})
    teacher(table, layer, Ending::mean);
  for (const Layer& layer : {Layer{"teacher", 56, 64, 256, 1, 1}, Layer{"teacher", 14, 256, 1024, 1, 1},
                             Layer{"teacher", 7, 512, 2048, 1, 1}})
    teacher(table, layer, Ending::residual);
  for (const Layer& layer : {Layer{"teacher", 56, 64, 256, 1, 1}, Layer{"teacher", 14, 256, 1024, 1, 1}})
    teacher(table, layer, Ending::both);
  teacher_sum(table, 56, 64, 64, 256);
  teacher_sum(table, 14, 256, 512, 1024);
}

}  // namespace lgd::bench
