// Rows of what ConvNeXt's blocks have beside plain products.
#include "table.h"

namespace lgd::bench {

namespace {

struct Map {
  int side, channels;
  std::string name(const char* what) const {
    return std::string(what) + " " + std::to_string(channels) + " @" + std::to_string(side) + " (convnext_atto)";
  }
  size_t pixels(const Table& table) const { return size_t(table.side(side)) * table.side(side); }
  size_t image(const Table& table) const { return pixels(table) * table.channels(channels); }
  double bytes(const Table& table) const { return 2.0 * table.batch() * double(image(table)); }
};

void depthwise_7x7(Table& table, const Map& map) {
  const auto shape = [=, &table](int n) {
    const int side = table.side(map.side), c = table.channels(map.channels);
    return testing::conv(n, side, side, c, c, 7, 1, 3);
  };
  const size_t image = map.image(table), taps = size_t(49) * table.channels(map.channels);
  const double operations = 49 * map.bytes(table);  // two for each tap and value, of two bytes
  table.operation(map.name("depthwise_forward 7x7"), {2 * map.bytes(table), operations, Unit::cores, "x, y"},
                  [=, &table](Operands& t) -> Call {
                    const ConvShape s = shape(t.n);
                    const void *x = t.images(image), *w = t.values(taps, 0.15f);
                    void* y = t.out_images(image);
                    return [=, &t] { t.ops.depthwise_forward(*t.device, s, t.type, x, w, {}, y); };
                  });
  table.operation(map.name("depthwise_backward_data 7x7"), {2 * map.bytes(table), operations, Unit::cores, "dy, dx"},
                  [=, &table](Operands& t) -> Call {
                    const ConvShape s = shape(t.n);
                    const void *dy = t.images(image), *w = t.values(taps, 0.15f);
                    void* dx = t.out_images(image);
                    return [=, &t] { t.ops.depthwise_backward_data(*t.device, s, t.type, dy, w, dx, false); };
                  });
  table.operation(map.name("depthwise_backward_weight 7x7"), {2 * map.bytes(table), operations, Unit::cores, "x, dy"},
                  [=, &table](Operands& t) -> Call {
                    const ConvShape s = shape(t.n);
                    const void *x = t.images(image), *dy = t.images(image);
                    float *dw = t.out_sums(taps), *d_bias = t.out_sums(size_t(s.c));
                    return [=, &t] { t.ops.depthwise_backward_weight(*t.device, s, t.type, x, dy, dw, d_bias); };
                  });
}

void layer_norm(Table& table, const Map& map) {
  const size_t image = map.image(table);
  const int channels = table.channels(map.channels);
  const auto shape = [=, pixels = map.pixels(table)](int n) {
    return LayerNormShape{int64_t(n) * int64_t(pixels), channels, 1e-6f};
  };
  table.operation(map.name("layer_norm_forward"), {2 * map.bytes(table), 0, Unit::cores, "x, y"},
                  [=](Operands& t) -> Call {
                    const LayerNormShape s = shape(t.n);
                    const void* x = t.images(image);
                    const float *weight = t.values32(channels, 0.2f, 1), *bias = t.values32(channels);
                    void* y = t.out_images(image);
                    return [=, &t] { t.ops.layer_norm_forward(*t.device, s, t.type, x, weight, bias, y); };
                  });
  table.operation(
      map.name("layer_norm_backward"), {3 * map.bytes(table), 0, Unit::cores, "x, dy, dx"}, [=](Operands& t) -> Call {
        const LayerNormShape s = shape(t.n);
        const void *x = t.images(image), *dy = t.images(image);
        const float* weight = t.values32(channels, 0.2f, 1);
        void* dx = t.out_images(image);
        float *d_weight = t.out_sums(channels), *d_bias = t.out_sums(channels);
        return [=, &t] { t.ops.layer_norm_backward(*t.device, s, t.type, x, dy, weight, dx, false, d_weight, d_bias); };
      });
}

// The two layers of a block with the GELU between them: the first one forward, the second one backward.
void layers(Table& table, const Map& map) {
  const size_t image = map.image(table), hidden = 4 * image;
  const int side = table.side(map.side), c = table.channels(map.channels);
  const size_t weights = size_t(4) * c * c;
  const double bytes = map.bytes(table), operations = double(table.batch()) * double(image) * 8 * c;
  table.operation(map.name("linear_act_forward gelu"),
                  {9 * bytes + 2.0 * double(weights), operations, Unit::tensor, "x, w, slope, y"},
                  [=](Operands& t) -> Call {
                    const ConvShape s = testing::conv(t.n, side, side, c, 4 * c, 1, 1, 0);
                    const void *x = t.images(image), *w = t.values(weights, 0.1f);
                    const float* bias = t.values32(size_t(4) * c);
                    void *slope = t.out_images(hidden), *y = t.out_images(hidden);
                    return [=, &t] { t.ops.linear_act_forward(*t.device, s, t.type, x, w, bias, Act::gelu, slope, y); };
                  });
  table.operation(map.name("linear_act_backward gelu"),
                  {9 * bytes + 2.0 * double(weights), operations, Unit::tensor, "dy, w, slope, du"},
                  [=](Operands& t) -> Call {
                    const ConvShape s = testing::conv(t.n, side, side, 4 * c, c, 1, 1, 0);
                    const void *dy = t.images(image), *w = t.values(weights, 0.1f), *slope = t.images(hidden);
                    void* du = t.out_images(hidden);
                    float* d_bias = t.out_sums(size_t(4) * c);
                    return [=, &t] { t.ops.linear_act_backward(*t.device, s, t.type, dy, w, slope, du, d_bias); };
                  });
}

void layer_scale(Table& table, const Map& map) {
  const size_t image = map.image(table);
  const int channels = table.channels(map.channels);
  table.operation(map.name("layer_scale_backward"), {3 * map.bytes(table), 0, Unit::cores, "x, dy, dx"},
                  [=, pixels = map.pixels(table)](Operands& t) -> Call {
                    const RowsShape s{t.n, int64_t(pixels), channels};
                    const void *x = t.images(image), *dy = t.images(image);
                    const float* gamma = t.values32(channels);
                    void* dx = t.out_images(image);
                    float* d_gamma = t.out_sums(channels);
                    return [=, &t] {
                      t.ops.layer_scale_backward(*t.device, s, t.type, x, gamma, nullptr, dy, dx, false, d_gamma);
                    };
                  });
}

}  // namespace

void convnext(Table& table) {
  for (const Map& map : {Map{56, 40}, Map{28, 80}, Map{14, 160}, Map{7, 320}}) {
    depthwise_7x7(table, map);
    layer_norm(table, map);
    layers(table, map);
    layer_scale(table, map);
  }
}

}  // namespace lgd::bench
