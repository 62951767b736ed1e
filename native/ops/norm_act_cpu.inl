// Vector code of ops/norm_act.h, once per instruction set.
//
// Rows are seen through NormView: `fold` rows side by side make one wide row whose length is a multiple of the vector,
// so that 24 channels cost no half-empty vectors; per-channel arrays are repeated `fold` times. What is left over is
// less than a wide row.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

int64_t norm_fold_count(int64_t channels) {
  int64_t fold = 1;
  while (fold * channels % lanes) fold *= 2;
  return fold;
}

// Batch statistics of wide rows [begin, end), a column each: mean and sum of squared distances from it. Short blocks
// are summed relative to their first row and merged by Chan's formula, so that a large mean costs no precision.
void norm_statistics(int64_t wide, int64_t begin, int64_t end, const float* x, float* mean, float* spread) {
  constexpr int64_t block = 32;
  for (int64_t first = begin; first < end; first += block) {
    const int64_t rows = end - first < block ? end - first : block;
    const float before = float(first - begin), share = float(rows) / (before + float(rows)), cross = before * share;
    for (int64_t c = 0; c < wide; c += 2 * lanes) {
      const bool two = c + lanes < wide;
      const int64_t d = two ? c + lanes : c;
      const float* row = x + first * wide;
      const Vec shift0 = load(row + c), shift1 = load(row + d);
      Vec sum0 = {}, sum1 = {}, square0 = {}, square1 = {};
      for (int64_t r = 0; r < rows; ++r, row += wide) {
        __builtin_prefetch(row + c + block * wide);  // the next block: columns are too far apart to be foreseen
        __builtin_prefetch(row + d + block * wide);
        const Vec e0 = load(row + c) - shift0, e1 = load(row + d) - shift1;
        sum0 += e0;
        sum1 += e1;
        square0 += e0 * e0;
        square1 += e1 * e1;
      }
      auto merge = [&](int64_t at, Vec shift, Vec sum, Vec square) {
        const Vec offset = sum * (1.0f / float(rows));
        const Vec own_spread = square - offset * sum, own_mean = shift + offset;
        if (first == begin) {
          store(mean + at, own_mean);
          store(spread + at, own_spread);
        } else {
          const Vec delta = own_mean - load(mean + at);
          store(mean + at, load(mean + at) + delta * share);
          store(spread + at, load(spread + at) + own_spread + delta * delta * cross);
        }
      };
      merge(c, shift0, sum0, square0);
      if (two) merge(d, shift1, sum1, square1);
    }
  }
}

// One vector of y = act((x - mean) * scale + shift + residual).
template <Act act>
static inline __attribute__((always_inline)) Vec norm_value(Vec x, Vec mean, Vec scale, Vec shift, Vec residual) {
  return act_value<act>((x - mean) * scale + (shift + residual));
}

// `count` elements from a column 0 on; `count` may end within a wide row.
template <Act act>
void norm_apply_of(int64_t wide, int64_t count, const float* x, const float* residual, const float* mean,
                   const float* scale, const float* shift, float* y) {
  for (; count >= wide; count -= wide, x += wide, y += wide) {
    for (int64_t c = 0; c < wide; c += lanes) {
      const Vec add = residual ? load(residual + c) : Vec{};
      store(y + c, norm_value<act>(load(x + c), load(mean + c), load(scale + c), load(shift + c), add));
    }
    if (residual) residual += wide;
  }
  LGD_FOR_VECTORS(c, width, count) {
    const Vec add = residual ? load_n(residual + c, width) : Vec{};
    store_n(y + c, norm_value<act>(load_n(x + c, width), load(mean + c), load(scale + c), load(shift + c), add), width);
  }
}

void norm_apply(Act act, int64_t wide, int64_t count, const float* x, const float* residual, const float* mean,
                const float* scale, const float* shift, float* y) {
  with_act(act, [&](auto tag) { norm_apply_of<tag.value>(wide, count, x, residual, mean, scale, shift, y); });
}

template <Act act>
static inline __attribute__((always_inline)) Vec norm_gradient(const NormGradient& in, Vec x, Vec dy, Vec residual,
                                                               int64_t c) {
  if constexpr (act == Act::none) return dy;
  return act_gradient<act>((x - load(in.mean + c)) * load(in.scale + c) + (load(in.shift + c) + residual), dy);
}

// sum_g[c] = sum of g, sum_gx[c] = sum of g * (x - mean), over `rows` wide rows. Partial sums of 32 rows keep the
// rounding small.
template <Act act>
void norm_sums_of(int64_t wide, int64_t rows, const NormGradient& in, float* sum_g, float* sum_gx) {
  constexpr int64_t block = 32;
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t last = rows - first < block ? rows : first + block;
    for (int64_t c = 0; c < wide; c += lanes) {
      const Vec mean = load(in.mean + c);
      Vec g_sum = {}, gx_sum = {};
      for (int64_t r = first; r < last; ++r) {
        const int64_t at = r * wide + c;
        __builtin_prefetch(in.x + at + block * wide);  // the next block: columns are too far apart to be foreseen
        __builtin_prefetch(in.dy + at + block * wide);
        const Vec x = load(in.x + at);
        const Vec g = norm_gradient<act>(in, x, load(in.dy + at), in.residual ? load(in.residual + at) : Vec{}, c);
        g_sum += g;
        gx_sum += g * (x - mean);
      }
      store(sum_g + c, first ? load(sum_g + c) + g_sum : g_sum);
      store(sum_gx + c, first ? load(sum_gx + c) + gx_sum : gx_sum);
    }
  }
}

void norm_sums(Act act, int64_t wide, int64_t rows, const NormGradient& in, float* sum_g, float* sum_gx) {
  with_act(act, [&](auto tag) { norm_sums_of<tag.value>(wide, rows, in, sum_g, sum_gx); });
}

// The same sums over `count` elements that are less than a wide row: one element a column.
void norm_sums_rest(Act act, int64_t count, const NormGradient& in, float* sum_g, float* sum_gx) {
  with_act(act, [&](auto tag) {
    LGD_FOR_VECTORS(c, width, count) {
      const Vec x = load_n(in.x + c, width);
      const Vec g = norm_gradient<tag.value>(in, x, load_n(in.dy + c, width),
                                             in.residual ? load_n(in.residual + c, width) : Vec{}, c);
      store_n(sum_g + c, g, width);
      store_n(sum_gx + c, g * (x - load(in.mean + c)), width);
    }
  });
}

template <Act act>
static inline __attribute__((always_inline)) void norm_gradient_store(const NormGradient& in,
                                                                      const NormGradientOut& out, int64_t at, int64_t c,
                                                                      int64_t width) {
  auto get = [&](const float* p) { return width == lanes ? load(p + at) : load_n(p + at, width); };
  auto put = [&](float* p, Vec v, bool accumulate) {
    if (accumulate) v += get(p);
    if (width == lanes) store(p + at, v);
    else store_n(p + at, v, width);
  };
  const Vec x = get(in.x);
  const Vec g = norm_gradient<act>(in, x, get(in.dy), in.residual ? get(in.residual) : Vec{}, c);
  put(out.dx, load(in.scale + c) * g + (load(out.slope + c) * (x - load(in.mean + c)) + load(out.offset + c)),
      out.accumulate_dx);
  if (out.d_residual) put(out.d_residual, g, out.accumulate_residual);
}

void norm_apply_gradient(Act act, int64_t wide, int64_t count, const NormGradient& in, const NormGradientOut& out) {
  with_act(act, [&](auto tag) {
    int64_t first = 0;
    for (; first + wide <= count; first += wide)
      for (int64_t c = 0; c < wide; c += lanes) norm_gradient_store<tag.value>(in, out, first + c, c, lanes);
    LGD_FOR_VECTORS(c, width, count - first) norm_gradient_store<tag.value>(in, out, first + c, c, width);
  });
}

}  // namespace
}  // namespace lgd::LGD_ISA
