#include "ops/conv.h"

#include "ops/common_cpu.h"
#include "ops/gemm_cpu.h"
#include "ops/pool.h"

namespace lgd {

namespace {

// The taps of a kernel: where each reads relative to a grid's pixel, and where its weights stand.
struct Taps {
  std::vector<int> y, x;
  std::vector<int64_t> weight;
  int count() const { return int(y.size()); }
};

// Pairs of pixels one by one, for checks: no plan for the CPU has them.
ConvShape by_pixels(ConvShape s) {
  if (!s.pair_taps) return s;
  s.w *= 2;
  s.c /= 2;
  s.s *= 2;
  return s;
}

Taps forward_taps(const ConvShape& s) {
  Taps taps;
  const int left = s.pair_taps ? 2 * s.pad_x() : s.pad;
  for (int r = 0; r < s.r; ++r)
    for (int q = 0; q < s.s; ++q) {
      taps.y.push_back(r * s.dilation - s.pad);
      taps.x.push_back(q * s.dilation - left);
      taps.weight.push_back((int64_t(r) * s.s + q) * s.c);
    }
  return taps;
}

Patches input_patches(const ConvShape& s, const float* x, const Taps& taps) {
  return {x, s.n, s.h, s.w, s.c, s.oh, s.ow, s.stride, taps.count(), taps.y.data(), taps.x.data()};
}

// Input pixels (py + stride * i, px + stride * j) meet output pixels through the taps with p + pad - r * dilation
// divisible by the stride, and then at (p + pad - r * dilation) / stride + i: for each of the stride^2 phases a
// convolution of stride 1.
Taps phase_taps(const ConvShape& s, int py, int px) {
  Taps taps;
  for (int r = 0; r < s.r; ++r)
    for (int q = 0; q < s.s; ++q) {
      const int y = py + s.pad - r * s.dilation, x = px + s.pad - q * s.dilation;
      if (y % s.stride || x % s.stride) continue;
      taps.y.push_back(y / s.stride);
      taps.x.push_back(x / s.stride);
      taps.weight.push_back((int64_t(r) * s.s + q) * s.c);
    }
  return taps;
}

void zero_phase(const ConvShape& s, int py, int px, float* dx) {
  for (int64_t n = 0; n < s.n; ++n)
    for (int y = py; y < s.h; y += s.stride)
      for (int x = px; x < s.w; x += s.stride) std::fill_n(dx + ((n * s.h + y) * s.w + x) * s.c, s.c, 0.0f);
}

}  // namespace

void conv_forward_cpu(Context& ctx, const ConvShape& shape, DType type, const void* x, const void* w,
                      const Epilogue& epilogue, void* y) {
  const ConvShape s = by_pixels(shape);
  if (epilogue.mean) {  // for checks: no plan for the CPU has it
    std::vector<float> discarded(y ? 0 : size_t(s.rows()) * s.k);
    void* whole = y ? y : discarded.data();
    Epilogue each = epilogue;
    each.mean = nullptr;
    conv_forward_cpu(ctx, shape, type, x, w, each, whole);
    return avg_pool_forward_cpu(ctx, {s.n, s.oh, s.ow, s.k, 2, 2, 0, s.oh / 2, s.ow / 2}, type, whole, epilogue.mean);
  }
  const Taps taps = forward_taps(s);
  patch_gemm(ctx, {.patches = input_patches(s, as_f32(type, x), taps),
                   .w = as_f32(type, w),
                   .tap_weight = taps.weight.data(),
                   .w_depth = 1,
                   .w_column = int64_t(s.r) * s.s * s.c,
                   .out = as_f32(type, y),
                   .columns = s.k,
                   .out_h = s.oh,
                   .out_w = s.ow,
                   .out_step = 1,
                   .out_y = 0,
                   .out_x = 0,
                   .accumulate = false,
                   .epilogue = epilogue});
}

// For checks: no plan for the CPU has it.
void conv_sum_fold_cpu(Context&, const ConvSumShape& s, DType type, const FoldedConv& first, const FoldedConv& second,
                       void* w, float* shift) {
  float* to = as_f32(type, w);
  for (int k = 0; k < s.k; ++k) {
    for (int c = 0; c < s.c; ++c) *to++ = first.scale[k] * first.w[int64_t(k) * s.c + c];
    for (int c = 0; c < s.c2; ++c) *to++ = second.scale[k] * second.w[int64_t(k) * s.c2 + c];
    shift[k] = first.shift[k] + second.shift[k];
  }
}

void conv_sum_forward_cpu(Context& ctx, const ConvSumShape& s, DType type, const void* x, const void* x2, const void* w,
                          const float* shift, Act act, void* y) {
  const int64_t width = s.c + s.c2;
  std::vector<float> both(size_t(s.rows * width));
  const float *first = as_f32(type, x), *second = as_f32(type, x2);
  for (int64_t row = 0; row < s.rows; ++row) {
    std::copy_n(first + row * s.c, s.c, both.data() + row * width);
    std::copy_n(second + row * s.c2, s.c2, both.data() + row * width + s.c);
  }
  conv_forward_cpu(ctx, linear_shape(int(s.rows), int(width), s.k), type, both.data(), w,
                   {nullptr, shift, nullptr, act}, y);
}

void conv_backward_data_cpu(Context& ctx, const ConvShape& s, DType type, const void* dy_, const void* w_, void* dx_,
                            bool accumulate) {
  LGD_CHECK(!s.pair_taps, "BAD_SHAPE", "images have no gradient");
  const float *dy = as_f32(type, dy_), *w = as_f32(type, w_);
  float* dx = as_f32(type, dx_);
  for (int py = 0; py < std::min(s.stride, s.h); ++py) {
    for (int px = 0; px < std::min(s.stride, s.w); ++px) {
      const Taps taps = phase_taps(s, py, px);
      if (taps.count() == 0) {
        if (!accumulate) zero_phase(s, py, px, dx);
        continue;
      }
      const int grid_h = int(ceil_div(s.h - py, s.stride)), grid_w = int(ceil_div(s.w - px, s.stride));
      patch_gemm(ctx,
                 {.patches = {dy, s.n, s.oh, s.ow, s.k, grid_h, grid_w, 1, taps.count(), taps.y.data(), taps.x.data()},
                  .w = w,
                  .tap_weight = taps.weight.data(),
                  .w_depth = int64_t(s.r) * s.s * s.c,
                  .w_column = 1,
                  .out = dx,
                  .columns = s.c,
                  .out_h = s.h,
                  .out_w = s.w,
                  .out_step = s.stride,
                  .out_y = py,
                  .out_x = px,
                  .accumulate = accumulate,
                  .epilogue = {}});
    }
  }
}

void conv_backward_weight_cpu(Context& ctx, const ConvShape& shape, DType type, const void* x, const void* dy_,
                              float* dw, float* d_bias) {
  const ConvShape s = by_pixels(shape);
  const float* dy = as_f32(type, dy_);
  const Taps taps = forward_taps(s);
  std::vector<float> padded;  // of pairs: with pixels that are no taps
  if (s.pair_taps) padded.resize(size_t(s.k) * s.taps() * s.c);
  patch_outer(ctx, {input_patches(s, as_f32(type, x), taps), dy, s.k, padded.empty() ? dw : padded.data()});
  for (size_t i = 0; i < padded.size(); ++i) {
    const int tap = int(i / size_t(s.c)) % s.s - s.pad % 2;
    if (tap >= 0 && tap < s.pair_taps) dw[i] += padded[i];
  }
  if (d_bias) column_sums(ctx, s.rows(), s.k, dy, d_bias);
}

}  // namespace lgd
