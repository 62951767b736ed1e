// Vector code of ops/elementwise.h, once per instruction set.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

template <Act act>
void act_forward_of(int64_t count, const float* x, float* y) {
  LGD_FOR_VECTORS(i, width, count) {
    if (width == lanes) store(y + i, act_value<act>(load(x + i)));
    else store_n(y + i, act_value<act>(load_n(x + i, width)), width);
  }
}

void act_forward_range(Act act, int64_t count, const float* x, float* y) {
  with_any_act(act, [&](auto tag) { act_forward_of<tag.value>(count, x, y); });
}

template <Act act>
void act_backward_of(int64_t count, const float* x, const float* dy, float* dx, bool accumulate) {
  LGD_FOR_VECTORS(i, width, count) {
    if (width == lanes) {
      const Vec g = act_gradient<act>(load(x + i), load(dy + i));
      store(dx + i, accumulate ? load(dx + i) + g : g);
    } else {
      const Vec g = act_gradient<act>(load_n(x + i, width), load_n(dy + i, width));
      store_n(dx + i, accumulate ? load_n(dx + i, width) + g : g, width);
    }
  }
}

void act_backward_range(Act act, int64_t count, const float* x, const float* dy, float* dx, bool accumulate) {
  with_any_act(act, [&](auto tag) { act_backward_of<tag.value>(count, x, dy, dx, accumulate); });
}

void add_range(int64_t count, const float* a, const float* b, float* y) {
#pragma GCC ivdep  // y may be a: no element depends on another
  for (int64_t i = 0; i < count; ++i) y[i] = a[i] + b[i];
}

// One image: y[p,c] = x[p,c] * s[c].
void channel_scale_image(int64_t pixels, int channels, const float* x, const float* s, float* y, bool accumulate) {
  for (int64_t p = 0; p < pixels; ++p, x += channels, y += channels) {
    LGD_FOR_VECTORS(c, width, channels) {
      if (width == lanes) {
        const Vec v = load(x + c) * load(s + c);
        store(y + c, accumulate ? load(y + c) + v : v);
      } else {
        const Vec v = load_n(x + c, width) * load_n(s + c, width);
        store_n(y + c, accumulate ? load_n(y + c, width) + v : v, width);
      }
    }
  }
}

// One image: ds[c] = sum_p dy[p,c] * x[p,c]. Four running sums a channel.
void channel_scale_sum(int64_t pixels, int channels, const float* x, const float* dy, float* ds) {
  LGD_FOR_VECTORS(c, width, channels) {
    Vec sum[4] = {};
    for (int64_t p = 0; p < pixels; ++p) {
      const int64_t at = p * channels + c;
      sum[p & 3] += width == lanes ? load(x + at) * load(dy + at) : load_n(x + at, width) * load_n(dy + at, width);
    }
    store_n(ds + c, (sum[0] + sum[1]) + (sum[2] + sum[3]), width);
  }
}

// Elements [begin, end): y (+)= x * factor of the element's unit.
void drop_range(const DropShape& shape, int64_t begin, int64_t end, const float* x, float* y, bool accumulate) {
  const float kept = 1.0f / (1.0f - shape.p);
  const uint64_t stream = (shape.step << 20) + uint64_t(shape.node);
  int64_t drawn = -1;
  Philox4 words = {};
  for (int64_t i = begin; i < end;) {
    const int64_t unit = i / shape.elements_per_unit;
    if (unit / 4 != drawn) {
      drawn = unit / 4;
      words = philox(shape.seed, stream, uint64_t(drawn));
    }
    const int64_t unit_end = (unit + 1) * shape.elements_per_unit < end ? (unit + 1) * shape.elements_per_unit : end;
    if (unit_float(words.word[unit % 4]) >= shape.p) {
#pragma GCC ivdep  // y may be x
      for (int64_t j = i; j < unit_end; ++j) y[j] = accumulate ? y[j] + x[j] * kept : x[j] * kept;
    } else if (!accumulate) {
      for (int64_t j = i; j < unit_end; ++j) y[j] = 0.0f;
    }
    i = unit_end;
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
