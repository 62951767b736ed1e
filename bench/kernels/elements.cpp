// Rows of what only moves bytes: joins, norm gradients, squeeze and excitation, pooling, attention pooling,
// transformers, optimisers.
#include "norms.h"
#include "table.h"

namespace lgd::bench {

namespace {

std::string at(const char* what, int channels, int side, const char* where) {
  return std::string(what) + " " + std::to_string(channels) + " @" + std::to_string(side) + " (" + where + ")";
}

struct Map {
  const char* where;
  int side, channels;
  Act act;
  RowsShape rows(const Table& table, int n) const {
    return {n, int64_t(table.side(side)) * table.side(side), table.channels(channels)};
  }
  size_t image(const Table& table) const {
    return size_t(table.side(side)) * table.side(side) * table.channels(channels);
  }
  int stored(const Table& table) const { return table.channels(channels); }
  double bytes(const Table& table) const { return 2.0 * table.batch() * double(image(table)); }
};

void join(Table& table, const Map& map) {
  table.operation(at("join_forward", map.channels, map.side, map.where),
                  {3 * map.bytes(table), 0, Unit::cores, "y, residual, out"}, [&](Operands& t) -> Call {
                    const RowsShape rows = map.rows(table, t.n);
                    const LazyInput x = lazy_input(t, map.image(table), map.stored(table), Act::none);
                    const LazyInput residual{t.images(map.image(table))};
                    void* out = t.out_images(map.image(table));
                    return [=, &t, act = map.act] {
                      t.ops.join_forward(*t.device, rows, t.type, x, &residual, nullptr, act, out);
                    };
                  });
}

void norm_gradients(Table& table, const Map& map) {
  table.operation(at("norm_gradient", map.channels, map.side, map.where),
                  {3 * map.bytes(table), 0, Unit::cores, "dy, y, g"}, [&](Operands& t) -> Call {
                    const RowsShape rows = map.rows(table, t.n);
                    const LazyInput x = lazy_input(t, map.image(table), map.stored(table), map.act);
                    const void* dy = t.images(map.image(table));
                    const GradientTarget target = gradient_target(t, map.image(table), map.stored(table), x);
                    return [=, &t] { t.ops.norm_gradient(*t.device, rows, t.type, dy, nullptr, target); };
                  });
}

void squeeze(Table& table, const Map& map) {
  table.operation(at("squeeze_forward", map.channels, map.side, map.where), {map.bytes(table), 0, Unit::cores, "y"},
                  [&](Operands& t) -> Call {
                    const RowsShape rows = map.rows(table, t.n);
                    const LazyInput x = lazy_input(t, map.image(table), map.stored(table), map.act);
                    void* pooled = t.out_images(size_t(map.stored(table)));
                    return [=, &t] { t.ops.squeeze_forward(*t.device, rows, t.type, x, pooled); };
                  });
}

void gate(Table& table, const Map& map) {
  table.operation(at("gate_backward", map.channels, map.side, map.where),
                  {2 * map.bytes(table), 0, Unit::cores, "y, g"}, [&](Operands& t) -> Call {
                    const RowsShape rows = map.rows(table, t.n);
                    const LazyInput x = lazy_input(t, map.image(table), map.stored(table), map.act);
                    const float *mean = t.values32(size_t(map.stored(table)), 0.1f),
                                *rstd = t.values32(size_t(map.stored(table)), 0.1f, 1);
                    const void* g = t.images(map.image(table));
                    void* d_gate = t.out_images(size_t(map.stored(table)));
                    float* sums = t.out_images32(size_t(map.stored(table)), 4);
                    return [=, &t] { t.ops.gate_backward(*t.device, rows, t.type, x, mean, rstd, g, d_gate, sums); };
                  });
  const double numbers = double(table.batch()) * map.stored(table);
  table.operation(at("gate_finish", map.channels, map.side, map.where),
                  {2 * 2 * numbers + 5 * 4 * numbers, 0, Unit::cores, "gate, d_pooled, sums, pooled"},
                  [&](Operands& t) -> Call {
                    const RowsShape rows = map.rows(table, t.n);
                    const void *gates = t.images(size_t(map.stored(table)), 0.1f, 0.6f),
                               *d_pooled = t.images(size_t(map.stored(table)));
                    const float* sums = t.images32(size_t(map.stored(table)), 1, 4);
                    float* pooled = t.out_images32(size_t(map.stored(table)));
                    const NormGradient norm = norm_gradient(t, map.stored(table));
                    return [=, &t] { t.ops.gate_finish(*t.device, rows, t.type, gates, d_pooled, sums, pooled, norm); };
                  });
}

// Least bytes: weights in bfloat16 and their float32 gradients, read and written; vectors once.
void excitation(Table& table, const char* where, int channels_of, int squeezed_of, Act inner, Act outer) {
  const int channels = table.channels(channels_of), squeezed = std::min(squeezed_of, channels);
  const double weights = 2.0 * channels * squeezed, wide = double(table.batch()) * channels,
               narrow = double(table.batch()) * squeezed;
  const std::string name = std::to_string(channels_of) + " to " + std::to_string(squeezed_of) + " (" + where + ")";
  const auto layers = [=](Operands& t) {
    const size_t count = size_t(channels) * squeezed;
    Excitation e{t.n, channels, squeezed, inner, outer, nullptr, nullptr, nullptr, nullptr};
    e.w1 = t.values(count, 0.1f);
    e.w2 = t.values(count, 0.1f);
    e.b1 = t.values32(size_t(squeezed));
    e.b2 = t.values32(size_t(channels));
    return e;
  };
  table.operation("excitation_forward " + name,
                  {2 * weights + 2 * (3 * wide + narrow), 2 * weights * table.batch(), Unit::tensor,
                   "w1, w2, x, hidden, excited, gate"},
                  [=](Operands& t) -> Call {
                    const Excitation e = layers(t);
                    const void* x = t.images(size_t(channels));
                    void *hidden = t.out_images(size_t(squeezed)), *excited = t.out_images(size_t(channels)),
                         *gate = t.out_images(size_t(channels));
                    return [=, &t] { t.ops.excitation_forward(*t.device, e, t.type, x, hidden, excited, gate); };
                  });
  table.operation("excitation_backward " + name,
                  {10 * weights + 2 * (4 * wide + narrow), 4 * weights * table.batch(), Unit::tensor,
                   "w1, w2, their gradients twice, x, hidden, excited, d_gate, d_x"},
                  [=](Operands& t) -> Call {
                    const Excitation e = layers(t);
                    const void *x = t.images(size_t(channels)), *hidden = t.images(size_t(squeezed)),
                               *excited = t.images(size_t(channels)), *d_gate = t.images(size_t(channels));
                    void* d_x = t.out_images(size_t(channels));
                    const size_t count = size_t(channels) * squeezed;
                    const ExcitationGradients gradients{t.out_sums(count), t.out_sums(size_t(squeezed)),
                                                        t.out_sums(count), t.out_sums(size_t(channels))};
                    return [=, &t] {
                      t.ops.excitation_backward(*t.device, e, t.type, x, hidden, excited, d_gate, d_x, gradients);
                    };
                  });
}

PoolShape stem_pool(const Table& table, int n) {
  const int side = std::max(table.side(112), 4);
  return {n, side, side, 64, 3, 2, 1, (side - 1) / 2 + 1, (side - 1) / 2 + 1};
}

void max_pool(Table& table) {
  const PoolShape whole = stem_pool(table, table.batch());
  const double x = 2.0 * whole.n * whole.h * whole.w * whole.c, y = 2.0 * whole.n * whole.oh * whole.ow * whole.c;
  const auto image_in = [](const PoolShape& s) { return size_t(s.h) * s.w * s.c; };
  const auto image_out = [](const PoolShape& s) { return size_t(s.oh) * s.ow * s.c; };
  table.operation(at("lazy_max_pool_forward", 64, 112, "resnet18"), {x + y, 0, Unit::cores, "y, out"},
                  [&](Operands& t) -> Call {
                    const PoolShape s = stem_pool(table, t.n);
                    const LazyInput in = lazy_input(t, image_in(s), s.c, Act::relu);
                    void* out = t.out_images(image_out(s));
                    return [=, &t] { t.ops.lazy_max_pool_forward(*t.device, s, t.type, in, out); };
                  });
  table.operation(at("lazy_max_pool_backward", 64, 112, "resnet18"), {2 * x + y, 0, Unit::cores, "y, d_out, dx"},
                  [&](Operands& t) -> Call {
                    const PoolShape s = stem_pool(table, t.n);
                    LazyInput in = lazy_input(t, image_in(s), s.c, Act::relu);
                    in.scale = t.values32(size_t(s.c), 0, 1);  // so that both sides see the same order of values
                    in.shift = t.values32(size_t(s.c), 0, 0);
                    const void* d_out = t.images(image_out(s));
                    const GradientTarget target = gradient_target(t, image_in(s), s.c, in);
                    return [=, &t] { t.ops.lazy_max_pool_backward(*t.device, s, t.type, in, d_out, target); };
                  });
}

void average_pool(Table& table) {
  const auto shape = [&](int n) {
    const int side = std::max(table.side(56), 2);
    return PoolShape{n, side, side, 256, 2, 2, 0, side / 2, side / 2};
  };
  const PoolShape whole = shape(table.batch());
  // 19 classes at output stride 8
  const auto maps = [](Table& table, int n) {
    return ResizeShape{n, table.side(32), table.side(32), table.channels(24), 8};
  };
  const double low = 2.0 * table.batch() * double(table.side(32)) * table.side(32) * table.channels(24),
               high = 64 * low;
  table.operation(at("resize_forward x8", 24, 32, "segmentation"), {low + high, 0, Unit::cores, "x, y"},
                  [&, maps](Operands& t) -> Call {
                    const ResizeShape s = maps(table, t.n);
                    const size_t image = size_t(s.h) * s.w * s.c;
                    const void* x = t.images(image);
                    void* y = t.out_images(64 * image);
                    return [=, &t] { t.ops.resize_forward(*t.device, s, t.type, x, y); };
                  });
  table.operation(at("resize_backward x8", 24, 32, "segmentation"), {low + high, 0, Unit::cores, "dy, dx"},
                  [&, maps](Operands& t) -> Call {
                    const ResizeShape s = maps(table, t.n);
                    const size_t image = size_t(s.h) * s.w * s.c;
                    const void* dy = t.images(64 * image);
                    void* dx = t.out_images(image);
                    return [=, &t] { t.ops.resize_backward(*t.device, s, t.type, dy, dx, false); };
                  });
  table.operation(at("avg_pool_forward", 256, 56, "teacher"),
                  {2.0 * whole.n * whole.c * (whole.h * whole.w + whole.oh * whole.ow), 0, Unit::cores, "x, y"},
                  [&](Operands& t) -> Call {
                    const PoolShape s = shape(t.n);
                    const void* x = t.images(size_t(s.h) * s.w * s.c);
                    void* y = t.out_images(size_t(s.oh) * s.ow * s.c);
                    return [=, &t] { t.ops.avg_pool_forward(*t.device, s, t.type, x, y); };
                  });
}

void attention(Table& table) {
  const int tokens = table.options.small ? 5 : 50, channels = table.options.small ? 256 : 2048, heads = channels / 64;
  const double token = 2.0 * table.batch() * channels;
  table.operation("query_attention_forward 50 x 2048, 32 heads (teacher)",
                  {token * (2 + 2 * tokens), 4.0 * table.batch() * tokens * channels, Unit::cores, "q, k, v, out"},
                  [=](Operands& t) -> Call {
                    const void *q = t.images(size_t(channels)), *k = t.images(size_t(tokens) * channels),
                               *v = t.images(size_t(tokens) * channels);
                    void* out = t.out_images(size_t(channels));
                    return [=, &t] {
                      t.ops.query_attention_forward(*t.device, {t.n, tokens, channels, heads}, t.type, q, k, v, out);
                    };
                  });
  const double weights = 4.0 * heads * 64 * channels, products = 4.0 * table.batch() * channels * heads * (64 + tokens);
  table.operation(
      "absorbed_attention 50 x 2048, 32 heads (teacher)",
      {token * (2 + tokens + 4 * heads) + weights, products, Unit::tensor, "q, x, u and y twice, out, w"},
      [=](Operands& t) -> Call {
        const float fan = 1 / std::sqrt(float(channels));
        const void *q = t.images(size_t(channels), 2), *x = t.images(size_t(tokens) * channels),
                   *wk = t.values(size_t(channels) * channels, fan), *wv = t.values(size_t(channels) * channels, fan);
        const float* bv = t.values32(size_t(channels));
        void* out = t.out_images(size_t(channels));
        return [=, &t] {
          t.ops.absorbed_attention_forward(*t.device, {t.n, tokens, channels, heads}, t.type, q, x, wk, wv, bv, out);
        };
      });
  table.operation("tokens_forward 50 x 2048 (teacher)", {token * (2 * tokens - 1), 0, Unit::cores, "x, tokens"},
                  [=](Operands& t) -> Call {
                    const void* x = t.images(size_t(tokens - 1) * channels);
                    const float* position = t.values32(size_t(tokens) * channels);
                    void* out = t.out_images(size_t(tokens) * channels);
                    return [=, &t] {
                      t.ops.tokens_forward(*t.device, t.n, tokens - 1, channels, t.type, x, position, out);
                    };
                  });
}

// Of a ViT-S/16 at 224 px, a block of the student.
void self_attention(Table& table) {
  const int tokens = table.options.small ? 37 : 197, heads = table.options.small ? 2 : 6, channels = heads * 64;
  const double token = 2.0 * table.batch() * tokens * channels, products = token * tokens;
  table.operation("self_attention_forward 197 x 384, 6 heads", {4 * token, 2 * products, Unit::tensor, "qkv, out"},
                  [=](Operands& t) -> Call {
                    const size_t count = size_t(tokens) * channels;
                    const void* qkv = t.images(3 * count);
                    void* out = t.out_images(count);
                    return [=, &t] {
                      t.ops.self_attention_forward(*t.device, {t.n, tokens, channels, heads, false}, t.type, qkv, out);
                    };
                  });
  table.operation("self_attention_backward 197 x 384, 6 heads",
                  {8 * token, 5 * products, Unit::tensor, "qkv, out, d_out, d_qkv"}, [=](Operands& t) -> Call {
                    const size_t count = size_t(tokens) * channels;
                    const void *qkv = t.images(3 * count), *d_out = t.images(count);
                    void *out = t.out_images(count), *d_qkv = t.out_images(3 * count);
                    const SelfAttentionShape s{t.n, tokens, channels, heads, false};
                    t.ops.self_attention_forward(*t.device, s, t.type, qkv, out);
                    return
                        [=, &t] { t.ops.self_attention_backward(*t.device, s, t.type, qkv, out, d_out, d_qkv, false); };
                  });
  table.operation("positions_backward 197 x 384", {2 * token, 0, Unit::cores, "dy, dx"}, [=](Operands& t) -> Call {
    const size_t count = size_t(tokens) * channels;
    const void* dy = t.images(count);
    void* dx = t.out_images(count - size_t(channels));
    float *d_position = t.unchecked32(count), *d_constant = t.unchecked32(size_t(channels));
    return [=, &t] {
      t.ops.positions_backward(*t.device, {t.n, tokens, channels}, t.type, 1, dy, dx, false, d_position, d_constant);
    };
  });
}

// A block of DINOv3 ViT-S+/16 at 256 px.
void transformer(Table& table) {
  const int tokens = table.options.small ? 5 : 261, channels = table.options.small ? 64 : 384, heads = channels / 64;
  const double token = 2.0 * table.batch() * tokens * channels;
  table.operation("rotary_forward 261 x 384, 6 heads, of a copy (teacher)", {6 * token, 0, Unit::cores, "qkv, y"},
                  [=](Operands& t) -> Call {
                    const void* qkv = t.images(size_t(3) * tokens * channels);
                    const float* angles = t.values32(size_t(tokens - 1) * 64, 0.7f);
                    void* y = t.out_images(size_t(3) * tokens * channels);
                    return [=, &t] {
                      t.ops.rotary_forward(*t.device, {t.n, tokens, channels, heads, 1}, t.type, qkv, angles, y);
                    };
                  });
  table.operation("swiglu_forward 261 x 1536 (teacher)", {12 * token, 0, Unit::cores, "x, y"},
                  [=](Operands& t) -> Call {
                    const int hidden = 4 * channels;
                    const void* x = t.images(size_t(2) * tokens * hidden);
                    void* y = t.out_images(size_t(tokens) * hidden);
                    return [=, &t] { t.ops.swiglu_forward(*t.device, int64_t(t.n) * tokens, hidden, t.type, x, y); };
                  });
}

// Weights do not depend on the batch; they are counted once. The step's own update leaves bfloat16 copies behind, too.
void sgd(Table& table, const char* where, int64_t full) {
  const int64_t count = table.options.small ? 4096 : full;
  table.operation("sgd " + std::to_string(full / 1000) + " thousand (" + where + ")",
                  {22.0 * double(count), 0, Unit::cores, "g, v twice, w twice (float32), bfloat16 copy"},
                  [=](Operands& t) -> Call {
                    const float* g = t.values32(size_t(count));
                    float *v = t.moving32(size_t(count)), *w = t.moving32(size_t(count));
                    void* shadow = t.device->kind == DeviceKind::cuda ? t.values(size_t(count)) : nullptr;
                    return [=, &t] { t.ops.sgd(*t.device, count, {1e-4f, 0.9f, 1e-4f, 1}, g, v, w, shadow); };
                  });
}

void adamw(Table& table, const char* where, int64_t full) {
  const int64_t count = table.options.small ? 4096 : full;
  table.operation(
      "adamw " + std::to_string(full / 1000) + " thousand (" + where + ")",
      {30.0 * double(count), 0, Unit::cores, "g, m twice, v twice, w twice (float32), bfloat16 copy"},
      [=](Operands& t) -> Call {
        const float* g = t.values32(size_t(count));
        float *m = t.moving32(size_t(count)), *v = t.moving32(size_t(count), 0.1f, 1), *w = t.moving32(size_t(count));
        void* shadow = t.device->kind == DeviceKind::cuda ? t.values(size_t(count)) : nullptr;
        return [=, &t] {
          t.ops.adamw(*t.device, count, adamw_step(1e-6, 0.9, 0.999, 1e-8, 0.05, 1, 1, count), g, m, v, w, shadow);
        };
      });
}

// The gradients are read by the optimiser once more, from level-2 cache as far as they fit.
void clip_norm(Table& table, const char* where, int64_t full) {
  const int64_t count = table.options.small ? 4096 : full;
  table.operation("norm of gradients " + std::to_string(full / 1000) + " thousand (" + where + ")",
                  {4.0 * double(count), 0, Unit::cores, "g (float32)"}, [=](Operands& t) -> Call {
                    const float* g = t.values32(size_t(count));
                    float* factor = t.moving32(1);
                    auto* norm = reinterpret_cast<double*>(t.values32(2));
                    return [=, &t] { t.ops.clip_norm(*t.device, count, g, {1, 1}, factor, norm); };
                  });
}

}  // namespace

void elements(Table& table) {
  for (const Map& map : {Map{"resnet18", 56, 64, Act::relu}, Map{"resnet18", 14, 256, Act::relu},
                         Map{"mobilenet_v2", 56, 24, Act::none}, Map{"mobilenet_v2", 14, 96, Act::none}})
    join(table, map);
  for (const Map& map : {Map{"resnet18", 112, 64, Act::relu}, Map{"mobilenet_v2", 56, 24, Act::none},
                         Map{"mobilenet_v2", 7, 1280, Act::relu6}})
    norm_gradients(table, map);
  for (const Map& map :
       {Map{"efficientnet_b0", 112, 32, Act::silu}, Map{"efficientnet_b0", 28, 240, Act::silu},
        Map{"efficientnet_b0", 14, 672, Act::silu}, Map{"efficientnet_b0", 7, 1152, Act::silu},
        Map{"mobilenet_v3_large", 28, 120, Act::relu}, Map{"mobilenet_v3_large", 14, 672, Act::hardswish}})
    squeeze(table, map), gate(table, map);
  excitation(table, "efficientnet_b0", 96, 8, Act::silu, Act::sigmoid);
  excitation(table, "efficientnet_b0", 1152, 48, Act::silu, Act::sigmoid);
  excitation(table, "mobilenet_v3_large", 960, 240, Act::relu, Act::hardsigmoid);
  max_pool(table);
  average_pool(table);
  attention(table);
  transformer(table);
  self_attention(table);
  sgd(table, "resnet18", 12'226'000);
  sgd(table, "mobilenet_v2", 5'176'000);
  adamw(table, "mobilenet_v2", 5'176'000);
  clip_norm(table, "mobilenet_v2", 5'176'000);
}

}  // namespace lgd::bench
