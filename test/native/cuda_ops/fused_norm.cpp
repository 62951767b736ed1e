// Checks of joins, norm gradients, squeeze and excitation, and max-pooling through a norm (ops/fused.h).
#include "run.h"

namespace lgd::testing {

namespace {

constexpr Act all_acts[] = {Act::none,      Act::relu,    Act::relu6,      Act::silu,
                            Act::hardswish, Act::sigmoid, Act::hardsigmoid};

size_t elements(const RowsShape& s) { return size_t(s.rows()) * s.channels; }

std::string describe(const char* op, const RowsShape& s, Act act) {
  char text[120];
  std::snprintf(text, sizeof text, "%s %dx%dx%d act %d", op, s.images, int(s.pixels), s.channels, int(act));
  return text;
}

DropShape depth(const RowsShape& s) {
  return {int64_t(elements(s)), s.pixels * s.channels, 0.4f, 98765432101234ull, 41, 3};
}

// The statistics that go with values drawn with this mean and deviation, and room for what a gradient makes of them.
NormGradient norm_of(Run& t, int channels, float mean, float deviation) {
  NormGradient norm;
  norm.gamma = t.input32(channels, 0.3f, 1);
  norm.mean = t.input32(channels, 0.1f * deviation, mean);
  norm.rstd = t.input32(channels, 0.2f / deviation, 1 / deviation);
  norm.d_gamma = t.sum32(channels);
  norm.d_beta = t.sum32(channels);
  norm.a = t.output32(channels);
  norm.b = t.output32(channels);
  norm.c = t.output32(channels);
  return norm;
}

LazyInput lazy(Run& t, void* y, int channels, Act act) {
  return {y, t.input32(channels, 0.5f, 1), t.input32(channels), act, nullptr};
}

void joins(const RowsShape& s, Act act) {
  const size_t count = elements(s);
  check(describe("join", s, act), [=](Run& t) {
    const DropShape drop = depth(s);
    void* y = t.input(count);
    const LazyInput stored{t.input(count)}, made = lazy(t, t.input(count), s.channels, Act::none);
    t.ops.join_forward(*t.device, s, t.type, lazy(t, y, s.channels, Act::none), &stored, nullptr, act, t.output(count));
    t.ops.join_forward(*t.device, s, t.type, lazy(t, y, s.channels, act), &made, &drop, Act::relu, t.output(count));
    t.ops.join_forward(*t.device, s, t.type, lazy(t, y, s.channels, act), nullptr, nullptr, Act::none, t.output(count));
    t.ops.join_forward(*t.device, s, t.type, {y}, &stored, &drop, act, t.output(count));
    LazyInput gated = lazy(t, y, s.channels, act);
    gated.gate = t.input(size_t(s.images) * s.channels);
    t.ops.join_forward(*t.device, s, t.type, gated, nullptr, nullptr, Act::none, t.output(count));
  });
}

GradientTarget target(Run& t, void* y, int channels, Act act, float mean = 0, float deviation = 1) {
  GradientTarget to;
  to.y = y;
  to.act = act;
  to.norm = norm_of(t, channels, mean, deviation);
  const std::vector<float> scale = t.draw(channels, 0.2f, 1 / deviation);
  std::vector<float> shift = t.draw(channels);
  for (int c = 0; c < channels; ++c) shift[c] -= mean * scale[c];
  to.scale = t.f32(scale);
  to.shift = t.f32(shift);
  return to;
}

void gradients(const RowsShape& s, Act act) {
  const size_t count = elements(s);
  check(describe("norm_gradient", s, act), [=](Run& t) {
    void* dy = t.input(count);
    GradientTarget to = target(t, t.input(count), s.channels, act);
    to.g = t.output(count);
    t.ops.norm_gradient(*t.device, s, t.type, dy, nullptr, to);
    const DropShape drop = depth(s);
    to = target(t, t.input(count), s.channels, act);
    if (act == Act::none || act == Act::relu || act == Act::relu6) to.activated = t.input(count, 4);
    to.g = t.sum(count);  // in place
    t.ops.norm_gradient(*t.device, s, t.type, to.g, &drop, to);
    to = target(t, t.input(count), s.channels, act);
    to.g = t.sum(count);
    t.ops.norm_gradient(*t.device, s, t.type, to.g, nullptr, to);
  });
}

void squeezes(const RowsShape& s, Act act) {
  const size_t count = elements(s), images = size_t(s.images) * s.channels;
  check(describe("squeeze and gate", s, act), [=](Run& t) {
    void *y = t.input(count), *g = t.input(count);
    const LazyInput x = lazy(t, y, s.channels, act);
    t.ops.squeeze_forward(*t.device, s, t.type, x, t.output(images));
    t.ops.squeeze_forward(*t.device, s, t.type, {g}, t.output(images));
    const NormGradient norm = norm_of(t, s.channels, 0, 1);
    float* sums = t.output32(4 * images);
    t.ops.gate_backward(*t.device, s, t.type, x, norm.mean, norm.rstd, g, t.output(images), sums);
    t.ops.gate_finish(*t.device, s, t.type, t.input(images, 0.5f), t.input(images), sums, t.output32(images), norm);
  });
}

void excitations(int images, int channels, int squeezed, Act inner, Act outer) {
  char name[100];
  std::snprintf(name, sizeof name, "excitation %dx%d squeezed %d act %d %d", images, channels, squeezed, int(inner),
                int(outer));
  check(name, [=](Run& t) {
    const size_t wide = size_t(images) * channels, narrow = size_t(images) * squeezed,
                 weights = size_t(channels) * squeezed;
    Excitation e{images, channels, squeezed, inner, outer, nullptr, nullptr, nullptr, nullptr};
    e.w1 = t.input(weights, float(std::sqrt(1.0 / channels)));
    e.w2 = t.input(weights, float(std::sqrt(1.0 / squeezed)));
    e.b1 = t.input32(squeezed);
    e.b2 = t.input32(channels);
    const void* x = t.input(wide);
    t.ops.excitation_forward(*t.device, e, t.type, x, t.output(narrow), t.output(wide), t.output(wide));
    const ExcitationGradients gradients{t.sum32(weights), t.sum32(squeezed), t.sum32(weights), t.sum32(channels)};
    t.ops.excitation_backward(*t.device, e, t.type, x, t.input(narrow), t.input(wide), t.input(wide), t.output(wide),
                              gradients);
  });
}

// A mean a hundred deviations away from zero: nothing may be lost in float32. bfloat16 cannot hold such values, so few
// of them are used.
void far_means() {
  const RowsShape s{3, 77, 24};
  const size_t count = elements(s);
  const auto far = [](Run& t, size_t values) {
    std::vector<float> y = t.draw(values);
    for (float& v : y) v = 128 + std::round(v);
    return t.stored(y);
  };
  check("norm_gradient, mean 128 deviations", [=](Run& t) {
    void* dy = t.input(count);
    GradientTarget to = target(t, far(t, count), s.channels, Act::silu, 128, 1);
    to.g = t.output(count);
    t.ops.norm_gradient(*t.device, s, t.type, dy, nullptr, to);
  });
  check("gate, mean 128 deviations", [=](Run& t) {
    const size_t images = size_t(s.images) * s.channels;
    const GradientTarget to = target(t, far(t, count), s.channels, Act::hardswish, 128, 1);
    float* sums = t.output32(4 * images);
    t.ops.gate_backward(*t.device, s, t.type, {to.y, to.scale, to.shift, to.act, nullptr}, to.norm.mean, to.norm.rstd,
                        t.input(count), t.output(images), sums);
    t.ops.gate_finish(*t.device, s, t.type, t.input(images), t.input(images), sums, t.output32(images), to.norm);
  });
  const ConvShape conv1 = conv(3, 11, 7, 8, 24, 1, 1, 0);
  check("conv_norm_forward, mean 128 deviations", [=](Run& t) {  // each output sums eight inputs with weights 1 or 0
    const size_t outputs = size_t(conv1.rows()) * conv1.k;
    std::vector<float> weights(size_t(conv1.k) * conv1.c);
    for (int k = 0; k < conv1.k; ++k) weights[size_t(k) * conv1.c + k % conv1.c] = 1;
    void *x = far(t, size_t(conv1.n) * conv1.h * conv1.w * conv1.c), *w = t.stored(weights);
    NormTarget norm{
        1e-5f,   0.1f,   t.input32(conv1.k, 0.3f, 1), t.input32(conv1.k), nullptr, nullptr, nullptr, nullptr,
        nullptr, nullptr};
    norm.running_mean = t.sum32(conv1.k, 0.3f, 127);
    norm.running_var = t.sum32(conv1.k);
    norm.mean = t.output32(conv1.k);
    norm.rstd = t.output32(conv1.k);
    norm.scale = t.output32(conv1.k);
    norm.shift = t.output32(conv1.k);
    t.ops.conv_norm_forward(*t.device, conv1, t.type, {x}, w, norm, t.output(outputs));
  });
}

void max_pools(const PoolShape& s, Act act) {
  const size_t x = size_t(s.n) * s.h * s.w * s.c, y = size_t(s.n) * s.oh * s.ow * s.c;
  char name[100];
  std::snprintf(name, sizeof name, "lazy_max_pool %dx%dx%dx%d k%d s%d act %d", s.n, s.h, s.w, s.c, s.kernel, s.stride,
                int(act));
  check(name, [=](Run& t) {
    std::vector<float> few = t.draw(x), scale = t.draw(s.c), shift = t.draw(s.c);
    for (float& v : few) v = std::round(2 * v) / 2;  // many ties; with these factors every value is exact on both sides
    for (float& v : scale) v = v < 0 ? -1.f : 0.5f;
    for (float& v : shift) v = std::round(v);
    void* few_stored = t.stored(few);
    const LazyInput input{few_stored, t.f32(scale), t.f32(shift), act, nullptr};
    void* dy = t.input(y);
    t.ops.lazy_max_pool_forward(*t.device, s, t.type, input, t.output(y));
    for (const bool accumulate : {false, true}) {
      GradientTarget to;
      to.g = accumulate ? t.sum(x) : t.output(x);
      to.accumulate = accumulate;
      t.ops.lazy_max_pool_backward(*t.device, s, t.type, accumulate ? LazyInput{input.y} : input, dy, to);
      GradientTarget finished = target(t, few_stored, s.c, act);
      finished.scale = input.scale;
      finished.shift = input.shift;
      finished.g = accumulate ? t.sum(x) : t.output(x);
      finished.accumulate = accumulate;
      t.ops.lazy_max_pool_backward(*t.device, s, t.type, input, dy, finished);
    }
  });
}

}  // namespace

void fused_norms() {
  const RowsShape few{3, 1, 8}, ragged{5, 35, 40}, image{2, 400, 16};
  for (const RowsShape& s : {few, ragged, image, RowsShape{2, 49, 1160}}) {
    joins(s, Act::relu);
    gradients(s, Act::none);
    gradients(s, Act::relu);
    squeezes(s, Act::silu);
  }
  for (Act act : all_acts) {
    joins(ragged, act);
    gradients(ragged, act);
    squeezes(ragged, act);
  }
  gradients({70, 49, 24}, Act::hardswish);  // more images than a norm's sums have blocks
  squeezes({300, 4, 8}, Act::hardswish);    // images enough not to be split
  if (!small) {
    joins({8, 56 * 56, 64}, Act::relu);
    gradients({8, 56 * 56, 64}, Act::relu6);
    squeezes({8, 28 * 28, 240}, Act::silu);
  }
  for (Act act : all_acts) excitations(5, 40, 16, act, act);
  excitations(1, 8, 8, Act::relu, Act::hardsigmoid);
  // more images than a block of the weights' gradients has at once
  excitations(150, 72, 24, Act::relu, Act::hardsigmoid);
  excitations(3, 1152, 48, Act::silu, Act::sigmoid);  // as many groups of outputs as a block has warps
  // warps that share their reductions, and more than eight images
  excitations(9, 328, 200, Act::relu, Act::hardsigmoid);
  excitations(2, excitation_widest / int(sizeof(float)) - 96, 96, Act::silu, Act::sigmoid);  // more groups than warps
  if (!small) excitations(129, 960, 240, Act::relu, Act::hardsigmoid);
  far_means();
  for (Act act : {Act::none, Act::relu, Act::hardswish}) max_pools({2, 35, 18, 24, 3, 2, 1, 18, 9}, act);
  max_pools({1, 33, 17, 72, 3, 2, 1, 17, 9}, Act::relu);
  {
    const FewMultiprocessors few;
    max_pools({3, 35, 18, 72, 3, 2, 1, 18, 9}, Act::relu);
    // several outputs a thread, and pixels that reach past the last window
    max_pools({3, 52, 68, 72, 3, 2, 1, 26, 34}, Act::relu);
  }
  max_pools({2, 6, 20, 8, 2, 2, 0, 3, 10}, Act::relu);
  max_pools({1, 9, 9, 16, 5, 3, 2, 3, 3}, Act::silu);
  max_pools({1, 18, 17, 24, 8, 1, 4, 19, 18}, Act::relu);  // the largest window
  // Those that fill a block's shared memory most, in bfloat16 and in float32.
  max_pools({1, 17, 18, 40, 3, 1, 1, 17, 18}, Act::relu);
  max_pools({1, 18, 17, 24, 4, 1, 2, 19, 18}, Act::relu);
  max_pools({1, 18, 17, 40, 4, 2, 1, 9, 8}, Act::relu);
  max_pools({1, 17, 18, 40, 5, 2, 2, 9, 9}, Act::relu);
  max_pools({3, 8, 3, 32, 2, 1, 0, 7, 2}, Act::relu);  // nearly all of the shared memory that a block may have unasked
}

}  // namespace lgd::testing
