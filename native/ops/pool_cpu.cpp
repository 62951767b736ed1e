#include "ops/pool.h"

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

#define LGD_ISA_FILE "ops/pool_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

// Images a thread takes at least, so that it handles some thousands of elements.
static int64_t images(int64_t elements) { return ceil_div(16384, std::max<int64_t>(elements, 1)); }

static void require_window(const PoolShape& s) {
  LGD_CHECK(s.kernel >= 1 && s.kernel <= 8 && s.pad < s.kernel, "BAD_SHAPE",
            "max pooling takes windows of 1 to 8 and less padding than that; found a window of ", s.kernel,
            " and padding ", s.pad);
}

void max_pool_forward_cpu(Context& ctx, const PoolShape& s, DType type, const void* x_, void* y_) {
  const float* x = as_f32(type, x_);
  float* y = as_f32(type, y_);
  require_window(s);
  const int64_t in = int64_t(s.h) * s.w * s.c, out = int64_t(s.oh) * s.ow * s.c;
  ctx.pool.for_range(s.n, images(in), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) LGD_DISPATCH(max_pool_image)(s, x + n * in, y + n * out);
  });
}

void max_pool_backward_cpu(Context& ctx, const PoolShape& s, DType type, const void* x_, const void* dy_, void* dx_,
                           bool accumulate) {
  const float *x = as_f32(type, x_), *dy = as_f32(type, dy_);
  float* dx = as_f32(type, dx_);
  require_window(s);
  const int64_t in = int64_t(s.h) * s.w * s.c, out = int64_t(s.oh) * s.ow * s.c;
  ctx.pool.for_range(s.n, images(in), [&](int64_t begin, int64_t end) {
    if (!accumulate) std::fill(dx + begin * in, dx + end * in, 0.0f);
    for (int64_t n = begin; n < end; ++n)
      LGD_DISPATCH(max_pool_gradient_image)(s, x + n * in, dy + n * out, dx + n * in);
  });
}

void avg_pool_forward_cpu(Context& ctx, const PoolShape& s, DType type, const void* x_, void* y_) {
  const float* x = as_f32(type, x_);
  float* y = as_f32(type, y_);
  const int64_t in = int64_t(s.h) * s.w * s.c, out = int64_t(s.oh) * s.ow * s.c;
  ctx.pool.for_range(s.n, images(in), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) LGD_DISPATCH(avg_pool_image)(s, x + n * in, y + n * out);
  });
}

void avg_pool_backward_cpu(Context& ctx, const PoolShape& s, DType type, const void* dy_, void* dx_, bool accumulate) {
  const float* dy = as_f32(type, dy_);
  float* dx = as_f32(type, dx_);
  const int64_t in = int64_t(s.h) * s.w * s.c, out = int64_t(s.oh) * s.ow * s.c;
  ctx.pool.for_range(s.n, images(in), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      LGD_DISPATCH(avg_pool_gradient_image)(s, dy + n * out, dx + n * in, accumulate);
  });
}

void global_pool_forward_cpu(Context& ctx, int n, int64_t pixels, int c, DType type, const void* x_, void* y_) {
  const float* x = as_f32(type, x_);
  float* y = as_f32(type, y_);
  ctx.pool.for_range(n, images(pixels * c), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) LGD_DISPATCH(global_pool_image)(pixels, c, x + i * pixels * c, y + i * c);
  });
}

void global_pool_backward_cpu(Context& ctx, int n, int64_t pixels, int c, DType type, const void* dy_, void* dx_,
                              bool accumulate) {
  const float* dy = as_f32(type, dy_);
  float* dx = as_f32(type, dx_);
  ctx.pool.for_range(n, images(pixels * c), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      LGD_DISPATCH(global_pool_gradient_image)(pixels, c, dy + i * c, dx + i * pixels * c, accumulate);
  });
}

}  // namespace lgd
