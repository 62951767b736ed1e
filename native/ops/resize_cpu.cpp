#include "ops/resize.h"

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

#define LGD_ISA_FILE "ops/resize_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

// Rows a thread takes at least, so that it handles some thousands of elements.
static int64_t rows(int64_t elements) { return ceil_div(16384, std::max<int64_t>(elements, 1)); }

void resize_forward_cpu(Context& ctx, const ResizeShape& s, DType type, const void* x_, void* y_) {
  const float* x = as_f32(type, x_);
  float* y = as_f32(type, y_);
  const int64_t in = int64_t(s.w) * s.c, out = int64_t(s.ow()) * s.c;
  ctx.pool.for_range(int64_t(s.n) * s.oh(), rows(out), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const ResizeTap tap = resize_tap(int(row % s.oh()), s.h, s.factor);
      const float* image = x + row / s.oh() * s.h * in;
      LGD_DISPATCH(resize_row)(s, image + tap.low * in, image + tap.high * in, tap.weight, y + row * out);
    }
  });
}

void resize_backward_cpu(Context& ctx, const ResizeShape& s, DType type, const void* dy_, void* dx_, bool accumulate) {
  const float* dy = as_f32(type, dy_);
  float* dx = as_f32(type, dx_);
  const int64_t in = int64_t(s.w) * s.c, out = int64_t(s.ow()) * s.c;
  ctx.pool.for_range(int64_t(s.n) * s.h, rows(s.factor * out), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int input = int(row % s.h);
      const float* image = dy + row / s.h * s.oh() * out;
      if (!accumulate) std::fill_n(dx + row * in, in, 0.0f);
      for (int oy = resize_first(input, s.factor); oy < resize_last(input, s.h, s.factor); ++oy) {
        const float weight = resize_tap(oy, s.h, s.factor).of(input);
        if (weight != 0) LGD_DISPATCH(resize_row_gradient)(s, weight, image + oy * out, dx + row * in);
      }
    }
  });
}

}  // namespace lgd
