// Layers on single positions with the GELUs between them (ops/linear.h): CUDA against CPU. No size is a multiple of a
// tile.
#include "run.h"

namespace lgd::testing {
namespace {

struct Sizes {
  size_t x, y, w;
  explicit Sizes(const ConvShape& s) : x(size_t(s.rows()) * s.c), y(size_t(s.rows()) * s.k), w(size_t(s.k) * s.c) {}
};

void* weights(Run& t, const ConvShape& s) { return t.input(Sizes(s).w, 1 / std::sqrt(float(s.c))); }

void forward(const ConvShape& s, Act act) {
  const char* const names[] = {"linear_act_forward gelu", "linear_act_forward gelu_tanh",
                               "linear_act_forward quick_gelu"};
  check(describe(names[int(act) - int(Act::gelu)], s), [=](Run& t) {
    const void *x = t.input(Sizes(s).x, 2), *w = weights(t, s);
    t.ops.linear_act_forward(*t.device, s, t.type, x, w, t.input32(size_t(s.k)), act, t.output(Sizes(s).y),
                             t.output(Sizes(s).y));
  });
}

void backward(const ConvShape& s) {
  check(describe("linear_act_backward", s), [=](Run& t) {
    const void *dy = t.input(Sizes(s).y), *w = weights(t, s), *slope = t.input(Sizes(s).x);
    t.ops.linear_act_backward(*t.device, s, t.type, dy, w, slope, t.output(Sizes(s).x), t.sum32(size_t(s.c)));
  });
}

void refused(const ConvShape& s, Act act, const char* reason) {
  refuse(describe("linear_act_forward", s), reason, [=](Run& t) {
    const size_t y = Sizes(s).y, x = size_t(s.n) * s.h * s.w * s.c;
    t.ops.linear_act_forward(*t.device, s, t.type, t.input(x), t.input(Sizes(s).w * s.taps()), t.input32(size_t(s.k)),
                             act, t.output(y), t.output(y));
  });
}

}  // namespace

void linear_layers() {
  const ConvShape all = conv(3, 11, 9, 104, 40, 1, 1, 0);
  for (const Act act : {Act::gelu, Act::gelu_tanh, Act::quick_gelu}) forward(all, act);
  backward(all);
  for (const ConvShape& s : {linear_shape(1, 8, 8), linear_shape(150, 104, 200), conv(29, 14, 14, 40, 160, 1, 1, 0),
                             conv(29, 14, 14, 160, 40, 1, 1, 0), conv(4, 7, 7, 320, 1280, 1, 1, 0)}) {
    if (small && double(s.rows()) * s.k * s.c > 3e7) continue;
    forward(s, Act::gelu);
    backward(s);
  }
  const FewMultiprocessors few;
  for (const ConvShape& s : {conv(9, 15, 13, 24, 40, 1, 1, 0), conv(7, 15, 13, 72, 24, 1, 1, 0),
                             conv(5, 15, 13, 136, 40, 1, 1, 0), conv(3, 15, 13, 40, 264, 1, 1, 0)}) {
    forward(s, Act::gelu);
    backward(s);
  }
  refused(conv(1, 6, 5, 8, 16, 3, 1, 1), Act::gelu, "is 1x1 of stride 1");
  refused(conv(1, 6, 5, 8, 16, 1, 1, 0), Act::relu, "takes in a GELU alone");
}

}  // namespace lgd::testing
