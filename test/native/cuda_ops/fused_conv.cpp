// The fused dense convolutions against their plain references (native/ops/fused_cpu.cpp). Reductions are several k
// tiles long and no size is a multiple of a tile.
#include "ops/conv_gradients.h"
#include "run.h"

namespace lgd::testing {

namespace {

struct Sizes {
  size_t x, y, w;
  float fan;
  explicit Sizes(const ConvShape& s)
      : x(size_t(s.n) * s.h * s.w * s.c),
        y(size_t(s.rows()) * s.k),
        w(size_t(s.k) * s.r * s.s * s.c),
        fan(1 / std::sqrt(float(s.r * s.s * s.c))) {}
};

LazyInput lazy_input(Run& t, const ConvShape& s, Act act, bool gated) {
  LazyInput x;
  x.y = t.stored(t.draw(Sizes(s).x, 1, 0.5f));
  x.scale = t.input32(size_t(s.c), 0.3f, 1);
  x.shift = t.input32(size_t(s.c), 0.5f, 0.2f);
  x.act = act;
  if (gated) x.gate = t.stored(t.draw(size_t(s.n) * s.c, 0.3f, 0.6f));
  return x;
}

LazyInput plain_input(Run& t, const ConvShape& s) {
  LazyInput x;
  x.y = t.input(Sizes(s).x);
  return x;
}

LazyGradient lazy_gradient(Run& t, const ConvShape& s) {
  LazyGradient dy;
  dy.g = t.input(Sizes(s).y);
  dy.y = t.stored(t.draw(Sizes(s).y, 1, 0.5f));
  dy.a = t.input32(size_t(s.k), 0.3f, 1);
  dy.b = t.input32(size_t(s.k), 0.1f);
  dy.c = t.input32(size_t(s.k), 0.1f);
  return dy;
}

NormTarget norm_target(Run& t, int channels) {
  const size_t count = size_t(channels);
  NormTarget norm;
  norm.eps = 1e-3f;
  norm.momentum = 0.1f;
  norm.gamma = t.input32(count, 0.3f, 1);
  norm.beta = t.input32(count);
  norm.running_mean = t.sum32(count);
  norm.running_var = t.sum32(count);
  norm.mean = t.output32(count);
  norm.rstd = t.output32(count);
  norm.scale = t.output32(count);
  norm.shift = t.output32(count);
  return norm;
}

enum class Into { plain, sum, norm, norm_sum, activated };
const char* name_of(Into into) {
  const char* names[] = {"plain", "+=", "norm", "norm +=", "activated +="};
  return names[int(into)];
}

GradientTarget gradient_target(Run& t, const ConvShape& s, Into into, Act act) {
  const size_t count = Sizes(s).x, channels = size_t(s.c);
  GradientTarget target;
  target.accumulate = into == Into::sum || into == Into::norm_sum || into == Into::activated;
  target.g = target.accumulate ? t.sum(count) : t.output(count);
  if (into == Into::plain || into == Into::sum) return target;
  target.y = t.stored(t.draw(count, 1, 0.5f));
  target.act = act;
  if (into == Into::activated) {
    target.activated = t.stored(t.draw(count, 3, 1));
  } else if (act != Act::none) {
    target.scale = t.input32(channels, 0.3f, 1);
    target.shift = t.input32(channels, 0.5f);
  }
  target.norm.gamma = t.input32(channels, 0.3f, 1);
  target.norm.mean = t.input32(channels, 0.2f, 0.5f);
  target.norm.rstd = t.input32(channels, 0.1f, 1);
  target.norm.d_gamma = t.sum32(channels);
  target.norm.d_beta = t.sum32(channels);
  target.norm.a = t.output32(channels);
  target.norm.b = t.output32(channels);
  target.norm.c = t.output32(channels);
  return target;
}

std::string with_act(const char* what, Act act) { return std::string(what) + " act " + std::to_string(int(act)); }

void forward(const ConvShape& s, const std::string& what, const std::function<LazyInput(Run&)>& input,
             Act act = Act::none) {
  // One value a channel: its variance is what rounding leaves of a square less itself, which counts beside an epsilon
  // of 1e-5; more where the two are one fused multiply-add. What a sigmoid gives lies close together, so that little is
  // left, too: the difference was 1.6e-5 by PTX and 1.3e-5 by the host's code, and another card rounds in its own way.
  const bool has_little_variance = s.rows() == 1 || act == Act::sigmoid || act == Act::hardsigmoid;
  const double tolerance = has_little_variance ? 1e-4 : 2e-5;
  check(
      describe(("conv_norm_forward " + what).c_str(), s),
      [=](Run& t) {
        const LazyInput x = input(t);
        void* w = t.input(Sizes(s).w, Sizes(s).fan);
        const NormTarget norm = norm_target(t, s.k);
        t.ops.conv_norm_forward(*t.device, s, t.type, x, w, norm, t.output(Sizes(s).y));
      },
      tolerance);
}

void backward(const ConvShape& s, const std::string& what, const std::function<LazyInput(Run&)>& input, bool lazy,
              const Into* into, Act act) {
  const std::string full = "conv_norm_backward " + what + (lazy ? ", lazy dy" : "") +
                           (into ? std::string(", ") + name_of(*into) + with_act("", act) : ", no target");
  const bool wanted = into != nullptr;
  const Into where = into ? *into : Into::plain;
  check(describe(full.c_str(), s), [=](Run& t) {
    const LazyInput x = input(t);
    LazyGradient dy;
    if (lazy) dy = lazy_gradient(t, s);
    else dy.g = t.input(Sizes(s).y);
    void* w = t.input(Sizes(s).w, Sizes(s).fan);
    float* dw = t.sum32(Sizes(s).w);
    GradientTarget target;
    if (wanted) target = gradient_target(t, s, where, act);
    t.ops.conv_norm_backward(*t.device, s, t.type, x, dy, w, dw, wanted ? &target : nullptr);
  });
}

// Both gradients in one pass, whether or not the product would choose it for so few pixels.
void one_pass(const ConvShape& s, Act act, bool gated, bool lazy, Into into) {
  const std::string what = std::string("pointwise_backward") + (gated ? " gated" : "") + (lazy ? "" : ", plain dy") +
                           ", " + name_of(into) + with_act("", act);
  check(describe(what.c_str(), s), [=](Run& t) {
    const LazyInput x = act == Act::none && !gated ? plain_input(t, s) : lazy_input(t, s, act, gated);
    LazyGradient dy;
    if (lazy) dy = lazy_gradient(t, s);
    else dy.g = t.input(Sizes(s).y);
    void* w = t.input(Sizes(s).w, Sizes(s).fan);
    float* dw = t.sum32(Sizes(s).w);
    const GradientTarget target = gradient_target(t, s, into, act);
    if (t.device->kind == DeviceKind::cuda && fits_pointwise(*t.device, s, t.type))
      pointwise_backward(*t.device, s, x, dy, w, dw, target);
    else t.ops.conv_norm_backward(*t.device, s, t.type, x, dy, w, dw, &target);
  });
}

// Every way to come in and go out on one shape.
void all_ways(const ConvShape& s, bool gates) {
  const auto plain = [s](Run& t) { return plain_input(t, s); };
  const auto lazy = [s](Act act) { return [s, act](Run& t) { return lazy_input(t, s, act, false); }; };
  const auto gated = [s](Act act) { return [s, act](Run& t) { return lazy_input(t, s, act, true); }; };
  forward(s, "plain", plain);
  for (Act act : {Act::none, Act::relu, Act::relu6, Act::silu, Act::hardswish, Act::sigmoid, Act::hardsigmoid})
    forward(s, with_act("lazy", act), lazy(act), act);
  backward(s, "plain", plain, false, nullptr, Act::none);
  backward(s, "plain", plain, true, nullptr, Act::none);
  for (Into into : {Into::plain, Into::sum})
    backward(s, with_act("lazy", Act::relu6), lazy(Act::relu6), into == Into::sum, &into, Act::none);
  for (Act act : {Act::none, Act::relu, Act::relu6, Act::silu, Act::hardswish, Act::sigmoid, Act::hardsigmoid})
    for (Into into : {Into::norm, Into::norm_sum}) backward(s, with_act("lazy", act), lazy(act), true, &into, act);
  for (Act act : {Act::none, Act::relu, Act::relu6}) {
    const Into into = Into::activated;
    backward(s, "plain", plain, true, &into, act);
  }
  if (!gates) return;
  for (Act act : {Act::silu, Act::hardswish}) {
    const Into into = Into::plain;
    forward(s, with_act("gated", act), gated(act));
    backward(s, with_act("gated", act), gated(act), true, &into, Act::none);
  }
}

// A convolution that would leave its input's gate out, without a word.
void refused_gates(const ConvShape& s) {
  const char* const reason = "multiplies by a gate on the way only where it is 1x1 of stride 1";
  refuse(describe("conv_norm_forward of a gate", s), reason, [s](Run& t) {
    const LazyInput x = lazy_input(t, s, Act::silu, true);
    t.ops.conv_norm_forward(*t.device, s, t.type, x, t.input(Sizes(s).w), norm_target(t, s.k), t.output(Sizes(s).y));
  });
  refuse(describe("conv_norm_backward of a gate", s), reason, [s](Run& t) {
    const LazyInput x = lazy_input(t, s, Act::silu, true);
    const GradientTarget target = gradient_target(t, s, Into::plain, Act::none);
    t.ops.conv_norm_backward(*t.device, s, t.type, x, lazy_gradient(t, s), t.input(Sizes(s).w), t.sum32(Sizes(s).w),
                             &target);
  });
  refuse(describe("weight_gradient of a gate", s), reason, [s](Run& t) {
    const LazyInput x = lazy_input(t, s, Act::silu, true);
    weight_gradient(*t.device, s, t.type, x, lazy_gradient(t, s), t.sum32(Sizes(s).w));
  });
}

}  // namespace

void fused_convolutions() {
  all_ways(conv(3, 11, 9, 104, 40, 1, 1, 0), true);
  all_ways(conv(2, 13, 9, 24, 72, 3, 2, 1), false);
  const Into norm = Into::norm, norm_sum = Into::norm_sum, sum = Into::sum, plain_into = Into::plain;
  for (const ConvShape& s :
       {conv(2, 9, 11, 40, 24, 3, 1, 1), conv(3, 8, 10, 136, 72, 1, 2, 0), conv(2, 21, 19, 8, 72, 7, 2, 3),
        conv(2, 10, 9, 24, 136, 3, 1, 2, 2), conv(1, 14, 11, 32, 24, 3, 2, 2, 2), conv(2, 13, 10, 16, 24, 3, 3, 1),
        conv(150, 1, 1, 200, 104, 1, 1, 0), conv(1, 1, 1, 8, 8, 1, 1, 0), conv(40, 21, 20, 40, 136, 1, 1, 0),
        conv(29, 14, 14, 104, 24, 1, 1, 0), conv(6, 28, 28, 24, 72, 1, 1, 0), conv(4, 14, 15, 8, 264, 3, 1, 1),
        conv_same(3, 14, 12, 24, 72, 3, 2)}) {
    if (small && double(s.rows()) * s.k * s.r * s.s * s.c > 3e7) continue;
    forward(s, "plain", [s](Run& t) { return plain_input(t, s); });
    const auto lazy = [s](Run& t) { return lazy_input(t, s, Act::relu, false); };
    forward(s, with_act("lazy", Act::relu), lazy);
    backward(s, "lazy", lazy, true, &norm, Act::relu);
    backward(s, "lazy", lazy, true, &norm_sum, Act::silu);
    backward(s, "lazy", lazy, false, &sum, Act::none);
    backward(s, "lazy", lazy, true, &plain_into, Act::none);
  }

  const FewMultiprocessors few;
  for (const ConvShape& s :
       {conv(9, 15, 13, 40, 24, 1, 1, 0), conv(7, 15, 13, 24, 72, 1, 1, 0), conv(5, 15, 13, 40, 136, 1, 1, 0),
        conv(2, 23, 19, 24, 40, 3, 1, 1), conv(3, 27, 25, 24, 72, 3, 2, 1), conv_same(3, 26, 24, 24, 72, 3, 2)}) {
    forward(s, with_act("walking, lazy", Act::hardswish),
            [s](Run& t) { return lazy_input(t, s, Act::hardswish, false); });
    backward(s, "walking", [s](Run& t) { return lazy_input(t, s, Act::relu, false); }, true, &norm_sum, Act::hardswish);
  }
  // of so many channels the numbers leave no room for the widest tiles on most GPUs
  const ConvShape many = conv(2, 11, 13, 200, 1280, 1, 1, 0);
  backward(
      many, "many channels", [many](Run& t) { return lazy_input(t, many, Act::relu, false); }, true, &norm_sum,
      Act::hardswish);
  for (auto [k, c] : {std::pair{72, 24}, {24, 104}, {40, 120}, {240, 40}, {200, 80}, {384, 64}, {64, 384}}) {
    const ConvShape s = conv(3, 15, 13, c, k, 1, 1, 0);
    one_pass(s, Act::relu6, false, true, Into::norm);
    one_pass(s, Act::silu, true, true, Into::sum);
  }
  const ConvShape s = conv(5, 11, 13, 24, 72, 1, 1, 0);
  for (Act act : {Act::none, Act::relu, Act::hardswish, Act::hardsigmoid})
    one_pass(s, act, false, act != Act::relu, Into::norm_sum);
  one_pass(s, Act::relu, false, true, Into::activated);
  one_pass(s, Act::relu, false, true, Into::plain);
  for (const ConvShape& refused : {conv(1, 6, 5, 8, 16, 3, 1, 1), conv(1, 6, 5, 8, 16, 1, 2, 0)})
    refused_gates(refused);
}

}  // namespace lgd::testing
