#include "ops/depthwise.h"

#include "ops/common_cpu.h"
#include "ops/gemm_cpu.h"
#include "ops/vector_cpu.h"

#define LGD_ISA_FILE "ops/depthwise_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

namespace {

void require_kernel(const ConvShape& s) {
  constexpr int largest = 7;
  LGD_CHECK(s.r == s.s && s.r >= 3 && s.r <= largest && s.r % 2 == 1 && (s.stride == 1 || s.stride == 2) && s.k == s.c,
            "BAD_SHAPE", "depthwise convolutions are 3x3 to ", largest, "x", largest, " with stride 1 or 2; found ",
            s.r, "x", s.s, ", stride ", s.stride);
}

const float* zeros_of(Workspace& workspace, int64_t count) {
  float* zeros = workspace.floats(count);
  std::fill_n(zeros, count, 0.0f);
  return zeros;
}

// Rows of an image that make a task worth handing out.
int64_t task_rows(int64_t row_elements) { return ceil_div(16384, row_elements); }

}  // namespace

void depthwise_forward_cpu(Context& ctx, const ConvShape& s, DType type, const void* x_, const void* w_,
                           const Epilogue& epilogue, void* y_) {
  const float *x = as_f32(type, x_), *w = as_f32(type, w_);
  float* y = as_f32(type, y_);
  require_kernel(s);
  thread_local Workspace workspace;
  const float* zeros = zeros_of(workspace, s.c);
  const int64_t rows = int64_t(s.n) * s.oh, step = task_rows(int64_t(s.ow) * s.c);
  ctx.pool.for_each(ceil_div(rows, step), [&](int, int64_t task) {
    LGD_DISPATCH(depthwise_rows)(s, task * step, std::min(rows, (task + 1) * step), x, w, zeros, epilogue, y);
  });
}

void depthwise_backward_data_cpu(Context& ctx, const ConvShape& s, DType type, const void* dy_, const void* w_,
                                 void* dx_, bool accumulate) {
  const float *dy = as_f32(type, dy_), *w = as_f32(type, w_);
  float* dx = as_f32(type, dx_);
  require_kernel(s);
  thread_local Workspace workspace, turned;
  const float* zeros = zeros_of(workspace, s.c);
  if (s.stride == 1 && s.dilation == 1) {
    float* out = turned.floats(int64_t(s.r) * s.s * s.c);
    for (int r = 0; r < s.r; ++r)
      for (int q = 0; q < s.s; ++q)
        std::copy_n(w + (int64_t(r) * s.s + s.s - 1 - q) * s.c, s.c, out + (int64_t(r) * s.s + q) * s.c);
    w = out;
  }
  const int64_t rows = int64_t(s.n) * s.h, step = task_rows(int64_t(s.w) * s.c);
  ctx.pool.for_each(ceil_div(rows, step), [&](int, int64_t task) {
    LGD_DISPATCH(depthwise_gradient_rows)(s, task * step, std::min(rows, (task + 1) * step), dy, w, zeros, dx,
                                          accumulate);
  });
}

void depthwise_backward_weight_cpu(Context& ctx, const ConvShape& s, DType type, const void* x_, const void* dy_,
                                   float* dw, float* d_bias) {
  const float *x = as_f32(type, x_), *dy = as_f32(type, dy_);
  require_kernel(s);
  const int64_t weights = int64_t(s.r) * s.s * s.c, row = int64_t(s.ow) * s.c + int64_t(s.stride) * s.w * s.c;
  thread_local Workspace workspace, sums;
  const float* zeros = zeros_of(workspace, ((s.s - 1) * s.dilation + 1) * int64_t(s.c));
  // Parts and blocks of whole images, where an image is not too much for one.
  const int64_t image = s.oh * row, unit = image <= (128 << 10) ? s.oh : 1;
  const Partition parts(int64_t(s.n) * s.oh / unit, ceil_div(1 << 17, row * unit), 16);
  const int64_t block = std::max<int64_t>((64 << 10) / (row * unit), unit == 1 ? 4 : 1) * unit;
  float* partial = sums.floats(parts.parts * weights);
  ctx.pool.for_each(parts.parts, [&](int, int64_t part) {
    LGD_DISPATCH(depthwise_weight_rows)(s, parts.begin(part) * unit, parts.end(part) * unit, block, x, dy, zeros,
                                        partial + part * weights);
  });
  for (int64_t part = 0; part < parts.parts; ++part)
    for (int64_t i = 0; i < weights; ++i) dw[i] += partial[part * weights + i];
  if (d_bias) column_sums(ctx, s.rows(), s.c, dy, d_bias);
}

}  // namespace lgd
