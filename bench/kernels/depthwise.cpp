// Rows of the fused depthwise convolutions.
#include "norms.h"
#include "table.h"

namespace lgd::bench {

namespace {

struct Layer {
  const char* where;
  int side, c, r, stride;
  Act act;
  // squeeze and excitation behind it: its gradient comes with a gate and a part for each image
  bool squeezed = false;
};

ConvShape shape_of(const Table& table, const Layer& layer, int n) {
  const int side = std::max(table.side(layer.side), layer.stride * 2);
  return testing::conv(n, side, side, table.channels(layer.c), table.channels(layer.c), layer.r, layer.stride,
                       layer.r / 2);
}

std::string name_of(const char* what, const Layer& layer) {
  char text[120];
  std::snprintf(text, sizeof text, "%s %dx%d%s %d @%d%s (%s)", what, layer.r, layer.r, layer.stride > 1 ? "/2" : "",
                layer.c, layer.side, layer.squeezed ? " squeezed" : "", layer.where);
  return text;
}

size_t image_in(const ConvShape& s) { return size_t(s.h) * s.w * s.c; }
size_t image_out(const ConvShape& s) { return size_t(s.oh) * s.ow * s.c; }

void both(Table& table, const Layer& layer) {
  const ConvShape whole = shape_of(table, layer, table.batch());
  const double x = double(whole.n) * double(image_in(whole)), y = double(whole.n) * double(image_out(whole)),
               operations = 2.0 * layer.r * layer.r * y;
  const size_t taps = size_t(layer.r) * layer.r * whole.c;
  const float fan = 1 / float(layer.r);
  table.operation(name_of("depthwise_norm_forward", layer), {2 * (x + y), operations, Unit::cores, "x, y"},
                  [&, taps, fan](Operands& t) -> Call {
                    const ConvShape s = shape_of(table, layer, t.n);
                    const LazyInput in = lazy_input(t, image_in(s), s.c, layer.act);
                    const void* w = t.values(taps, fan);
                    const NormTarget norm = norm_target(t, s.c);
                    void* out = t.out_images(image_out(s));
                    return [=, &t] { t.ops.depthwise_norm_forward(*t.device, s, t.type, in, w, norm, out); };
                  });
  table.operation(name_of("depthwise_norm_backward", layer),
                  {2 * (2 * y + 2 * x), 2 * operations, Unit::cores, "g, y, x, g of x; each once"},
                  [&, taps, fan](Operands& t) -> Call {
                    const ConvShape s = shape_of(table, layer, t.n);
                    const LazyInput in = lazy_input(t, image_in(s), s.c, layer.act);
                    LazyGradient dy = lazy_gradient(t, image_out(s), s.c);
                    if (layer.squeezed) {
                      dy.gate = t.images(size_t(s.c), 0.1f, 0.6f);
                      dy.pooled = t.images32(size_t(s.c), 0.2f);
                      dy.scale = t.values32(size_t(s.c), 0.2f, 1);
                      dy.shift = t.values32(size_t(s.c), 0.5f);
                      dy.act = layer.act;
                    }
                    const void* w = t.values(taps, fan);
                    float* dw = t.out_sums(taps);
                    const GradientTarget target = gradient_target(t, image_in(s), s.c, in);
                    return [=, &t] { t.ops.depthwise_norm_backward(*t.device, s, t.type, in, dy, w, dw, &target); };
                  });
}

}  // namespace

void depthwise(Table& table) {
  constexpr Act relu = Act::relu, relu6 = Act::relu6, silu = Act::silu, hardswish = Act::hardswish;
  for (const Layer& layer :
       {Layer{"mobilenet_v2", 112, 32, 3, 1, relu6}, Layer{"mobilenet_v2", 112, 96, 3, 2, relu6},
        Layer{"mobilenet_v2", 56, 144, 3, 1, relu6}, Layer{"mobilenet_v2", 56, 144, 3, 2, relu6},
        Layer{"mobilenet_v2", 28, 192, 3, 1, relu6}, Layer{"mobilenet_v2", 14, 384, 3, 1, relu6},
        Layer{"mobilenet_v2", 14, 576, 3, 1, relu6}, Layer{"mobilenet_v2", 7, 960, 3, 1, relu6},
        Layer{"mobilenet_v3_large", 56, 72, 5, 2, relu, true}, Layer{"mobilenet_v3_large", 28, 120, 5, 1, relu, true},
        Layer{"mobilenet_v3_large", 14, 672, 5, 2, hardswish, true},
        Layer{"efficientnet_b0", 112, 96, 3, 2, silu, true}, Layer{"efficientnet_b0", 56, 144, 5, 2, silu, true},
        Layer{"efficientnet_b0", 28, 240, 5, 1, silu, true}, Layer{"efficientnet_b0", 14, 672, 5, 1, silu, true},
        Layer{"efficientnet_b0", 7, 1152, 5, 1, silu, true}})
    both(table, layer);
}

}  // namespace lgd::bench
