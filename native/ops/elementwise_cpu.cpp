#include "ops/elementwise.h"

#include "core/philox.h"
#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

#define LGD_ISA_FILE "ops/elementwise_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

static constexpr int64_t grain = 16384;  // elements: shorter loops are not worth waking a thread

void act_forward_cpu(Context& ctx, int64_t count, DType type, Act act, const void* x_, void* y_) {
  const float* x = as_f32(type, x_);
  float* y = as_f32(type, y_);
  ctx.pool.for_range(count, grain, [&](int64_t begin, int64_t end) {
    LGD_DISPATCH(act_forward_range)(act, end - begin, x + begin, y + begin);
  });
}

void act_backward_cpu(Context& ctx, int64_t count, DType type, Act act, const void* x_, const void* dy_, void* dx_,
                      bool accumulate) {
  const float *x = as_f32(type, x_), *dy = as_f32(type, dy_);
  float* dx = as_f32(type, dx_);
  ctx.pool.for_range(count, grain, [&](int64_t begin, int64_t end) {
    LGD_DISPATCH(act_backward_range)(act, end - begin, x + begin, dy + begin, dx + begin, accumulate);
  });
}

void add_forward_cpu(Context& ctx, int64_t count, DType type, const void* a_, const void* b_, void* y_) {
  const float *a = as_f32(type, a_), *b = as_f32(type, b_);
  float* y = as_f32(type, y_);
  ctx.pool.for_range(count, grain, [&](int64_t begin, int64_t end) {
    LGD_DISPATCH(add_range)(end - begin, a + begin, b + begin, y + begin);
  });
}

void channel_scale_forward_cpu(Context& ctx, const ScaleShape& shape, DType type, const void* x_, const void* s_,
                               void* y_) {
  const float *x = as_f32(type, x_), *s = as_f32(type, s_);
  float* y = as_f32(type, y_);
  const int64_t image = shape.pixels * shape.channels;
  ctx.pool.for_range(shape.n, ceil_div(grain, image), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n)
      LGD_DISPATCH(channel_scale_image)(shape.pixels, shape.channels, x + n * image, s + n * shape.channels,
                                        y + n * image, false);
  });
}

void channel_scale_backward_cpu(Context& ctx, const ScaleShape& shape, DType type, const void* x_, const void* s_,
                                const void* dy_, void* dx_, bool accumulate_dx, void* ds_) {
  const float *x = as_f32(type, x_), *s = as_f32(type, s_), *dy = as_f32(type, dy_);
  float *dx = as_f32(type, dx_), *ds = as_f32(type, ds_);
  const int64_t image = shape.pixels * shape.channels;
  ctx.pool.for_range(shape.n, ceil_div(grain, image), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      LGD_DISPATCH(channel_scale_sum)(shape.pixels, shape.channels, x + n * image, dy + n * image,
                                      ds + n * shape.channels);
      LGD_DISPATCH(channel_scale_image)(shape.pixels, shape.channels, dy + n * image, s + n * shape.channels,
                                        dx + n * image, accumulate_dx);
    }
  });
}

static void drop(Context& ctx, const DropShape& shape, const float* x, float* y, bool accumulate) {
  ctx.pool.for_range(shape.count, grain, [&](int64_t begin, int64_t end) {
    LGD_DISPATCH(drop_range)(shape, begin, end, x, y, accumulate);
  });
}

void drop_forward_cpu(Context& ctx, const DropShape& shape, DType type, const void* x, void* y) {
  drop(ctx, shape, as_f32(type, x), as_f32(type, y), false);
}

void drop_backward_cpu(Context& ctx, const DropShape& shape, DType type, const void* dy, void* dx, bool accumulate) {
  drop(ctx, shape, as_f32(type, dy), as_f32(type, dx), accumulate);
}

}  // namespace lgd
