#include "run.h"

// The fused depthwise convolutions: every kernel on ragged shapes, with one block for several tiles and several images
// in a tile; and every choice of the contract (ops/fused.h) on a few shapes.
namespace lgd::testing {
namespace {

struct Choice {
  const char* name;
  bool lazy = true;  // x is an activation over a norm
  Act act = Act::relu6;
  enum Gradient { plain, norm, squeezed } gradient = norm;
  Act out_act = Act::hardswish;  // of a squeezed gradient
  enum Wish { nothing, written, added, finished, finished_added, stored_activated } wish = finished;
};

size_t input_count(const ConvShape& s) { return size_t(s.n) * s.h * s.w * s.c; }
size_t output_count(const ConvShape& s) { return size_t(s.rows()) * s.c; }

LazyInput draw_input(Run& t, const ConvShape& s, const Choice& choice) {
  LazyInput x;
  x.y = t.input(input_count(s));
  if (!choice.lazy) return x;
  x.scale = t.input32(s.c, 0.5f, 1);
  x.shift = t.input32(s.c, 1, 0.5f);
  x.act = choice.act;
  return x;
}

void forward(Run& t, const ConvShape& s, const Choice& choice) {
  const LazyInput x = draw_input(t, s, choice);
  NormTarget norm;
  norm.eps = 0.05f;  // no channel so constant that its deviation is all rounding
  norm.momentum = 0.1f;
  norm.gamma = t.input32(s.c, 0.3f, 1);
  norm.beta = t.input32(s.c);
  norm.running_mean = t.sum32(s.c);
  norm.running_var = t.sum32(s.c);
  for (float** out : {&norm.mean, &norm.rstd, &norm.scale, &norm.shift}) *out = t.output32(s.c);
  t.ops.depthwise_norm_forward(*t.device, s, t.type, x, t.input(size_t(s.r) * s.s * s.c, 0.3f), norm,
                               t.output(output_count(s)));
}

LazyGradient draw_gradient(Run& t, const ConvShape& s, const Choice& choice) {
  LazyGradient dy;
  dy.g = t.input(output_count(s));
  if (choice.gradient == Choice::plain) return dy;
  dy.y = t.input(output_count(s));
  dy.a = t.input32(s.c, 0.3f, 1);
  dy.b = t.input32(s.c, 0.1f);
  dy.c = t.input32(s.c, 0.1f);
  if (choice.gradient == Choice::norm) return dy;
  dy.gate = t.stored(t.draw(size_t(s.n) * s.c, 0.3f, 0.6f));
  dy.pooled = t.input32(size_t(s.n) * s.c, 0.2f);
  dy.scale = t.input32(s.c, 0.5f, 1);
  dy.shift = t.input32(s.c);
  dy.act = choice.out_act;
  return dy;
}

GradientTarget draw_target(Run& t, const ConvShape& s, const Choice& choice, const LazyInput& x) {
  GradientTarget target;
  target.accumulate = choice.wish == Choice::added || choice.wish == Choice::finished_added;
  target.g = target.accumulate ? t.sum(input_count(s)) : t.output(input_count(s));
  if (choice.wish < Choice::finished) return target;
  target.act = choice.act;
  if (choice.wish == Choice::stored_activated) {
    target.y = t.input(input_count(s));
    target.activated = x.y;
  } else {
    target.y = x.y;
    target.scale = x.scale;
    target.shift = x.shift;
  }
  target.norm.gamma = t.input32(s.c, 0.3f, 1);
  target.norm.mean = t.input32(s.c, 0.3f);
  target.norm.rstd = t.input32(s.c, 0.1f, 1);
  target.norm.d_gamma = t.sum32(s.c);
  target.norm.d_beta = t.sum32(s.c);
  for (float** out : {&target.norm.a, &target.norm.b, &target.norm.c}) *out = t.output32(s.c);
  return target;
}

void backward(Run& t, const ConvShape& s, const Choice& choice) {
  const LazyInput x = draw_input(t, s, choice);
  const LazyGradient dy = draw_gradient(t, s, choice);
  const void* w = t.input(size_t(s.r) * s.s * s.c, 0.3f);
  float* dw = t.sum32(size_t(s.r) * s.s * s.c);
  GradientTarget target;
  if (choice.wish != Choice::nothing) target = draw_target(t, s, choice, x);
  t.ops.depthwise_norm_backward(*t.device, s, t.type, x, dy, w, dw, choice.wish == Choice::nothing ? nullptr : &target);
}

ConvShape image(int n, int h, int w, int c, int r, int stride, int pad) { return conv(n, h, w, c, c, r, stride, pad); }
ConvShape same(int n, int h, int w, int c, int r, int stride) { return image(n, h, w, c, r, stride, r / 2); }

void check_both(const ConvShape& s, const Choice& choice) {
  check(describe("depthwise_norm_forward", s) + " " + choice.name, [=](Run& t) { forward(t, s, choice); });
  check(describe("depthwise_norm_backward", s) + " " + choice.name, [=](Run& t) { backward(t, s, choice); });
}

void shapes() {
  const Choice usual{.name = "usual"};
  for (int r : {3, 5})
    for (int stride : {1, 2}) {
      for (const ConvShape& s :
           {same(3, 1, 1, 8, r, stride), same(5, 2, 2, 24, r, stride), same(9, 4, 4, 136, r, stride),
            same(5, 7, 7, 72, r, stride), same(2, 15, 13, 24, r, stride), same(1, 28, 20, 16, r, stride),
            same(2, 3, 70, 64, r, stride), same(1, 41, 2, 8, r, stride), same(2, 5, 9, 88, r, stride)})
        check_both(s, usual);
      // More tiles than blocks: tiles of several small images, and tiles of several stages.
      check_both(same(160, 2, 2, 960, r, stride), usual);
      check_both(same(1100, 5, 3, 8, r, stride), usual);
      check_both(same(420, 21, 1, 8, r, stride), usual);
      check_both(same(600, 26, 2, 8, r, stride), usual);
      if (!small) check_both(same(40, 33, 60, 96, r, stride), usual);
      // Padding that is not half the kernel.
      for (int pad = 0; pad < r; ++pad)
        if (pad != r / 2) check_both(image(2, 9, 8, 40, r, stride, pad), usual);
      for (int side : {2, 14}) check_both(conv_same(3, side, side + 2, 40, 40, r, stride), usual);
    }
}

void choices() {
  const Choice all[] = {
      {.name = "plain x, g as dy, gradient written",
       .lazy = false,
       .act = Act::none,
       .gradient = Choice::plain,
       .wish = Choice::written},
      {.name = "plain x, gradient added", .lazy = false, .act = Act::none, .wish = Choice::added},
      {.name = "relu, weights alone", .act = Act::relu, .wish = Choice::nothing},
      {.name = "silu, squeezed by silu, gradient added and finished",
       .act = Act::silu,
       .gradient = Choice::squeezed,
       .out_act = Act::silu,
       .wish = Choice::finished_added},
      {.name = "hardswish, squeezed by hardswish", .act = Act::hardswish, .gradient = Choice::squeezed},
      {.name = "relu, squeezed by relu, gradient written",
       .act = Act::relu,
       .gradient = Choice::squeezed,
       .out_act = Act::relu,
       .wish = Choice::written},
      {.name = "no act, g as dy", .act = Act::none, .gradient = Choice::plain},
      {.name = "sigmoid", .act = Act::sigmoid},
      {.name = "hardsigmoid, gradient added", .act = Act::hardsigmoid, .wish = Choice::added},
      {.name = "silu, gradient written", .act = Act::silu, .wish = Choice::written},
      {.name = "stored activation over a norm", .lazy = false, .act = Act::relu, .wish = Choice::stored_activated},
  };
  for (const Choice& choice : all)
    for (const ConvShape& s :
         {same(3, 15, 13, 24, 3, 1), same(6, 7, 7, 72, 5, 1), same(2, 14, 11, 40, 3, 2), same(3, 9, 12, 16, 5, 2)})
      check_both(s, choice);
}

// A convolution that would leave its input's gate out, without a word.
void refused_gate(const ConvShape& s) {
  const auto gated = [s](Run& t) {
    LazyInput x = draw_input(t, s, {.name = "gated"});
    x.gate = t.input(size_t(s.n) * s.c);
    return x;
  };
  const char* const reason = "does not multiply its input by a gate";
  refuse(describe("depthwise_norm_forward of a gate", s), reason, [s, gated](Run& t) {
    t.ops.depthwise_norm_forward(*t.device, s, t.type, gated(t), t.input(size_t(s.r) * s.s * s.c), NormTarget{},
                                 t.output(output_count(s)));
  });
  refuse(describe("depthwise_norm_backward of a gate", s), reason, [s, gated](Run& t) {
    t.ops.depthwise_norm_backward(*t.device, s, t.type, gated(t), draw_gradient(t, s, {.name = "gated"}),
                                  t.input(size_t(s.r) * s.s * s.c), t.sum32(size_t(s.r) * s.s * s.c), nullptr);
  });
}

}  // namespace

void fused_depthwise() {
  shapes();
  choices();
  refused_gate(same(2, 9, 8, 16, 3, 1));
}

}  // namespace lgd::testing
