#include "ops/layer_scale.h"

#include "core/philox.h"
#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

#define LGD_ISA_FILE "ops/layer_scale_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

static float keep_of(const DropShape* drop, int64_t image) {
  if (!drop) return 1;
  const Philox4 words = philox(drop->seed, (drop->step << 20) + uint64_t(drop->node), uint64_t(image / 4));
  return unit_float(words.word[image % 4]) >= drop->p ? 1.0f / (1.0f - drop->p) : 0.0f;
}

// body(row, rows, keep) for the rows of each image that lie in [begin, end).
template <class Body>
static void by_images(const RowsShape& s, const DropShape* drop, int64_t begin, int64_t end, Body&& body) {
  for (int64_t row = begin; row < end;) {
    const int64_t image = row / s.pixels, stop = std::min(end, (image + 1) * s.pixels);
    body(row, stop - row, keep_of(drop, image));
    row = stop;
  }
}

void layer_scale_forward_cpu(Context& ctx, const RowsShape& s, DType type, const void* x_, const float* gamma,
                             const DropShape* drop, const void* residual_, void* y_) {
  const float *x = as_f32(type, x_), *residual = as_f32(type, residual_);
  float* y = as_f32(type, y_);
  ctx.pool.for_range(s.rows(), ceil_div(16384, s.channels), [&](int64_t begin, int64_t end) {
    by_images(s, drop, begin, end, [&](int64_t row, int64_t rows, float keep) {
      const int64_t at = row * s.channels;
      LGD_DISPATCH(layer_scale_rows)(rows, s.channels, x + at, gamma, keep, residual ? residual + at : nullptr, y + at);
    });
  });
}

void layer_scale_backward_cpu(Context& ctx, const RowsShape& s, DType type, const void* x_, const float* gamma,
                              const DropShape* drop, const void* dy_, void* dx_, bool accumulate, float* d_gamma) {
  const float *x = as_f32(type, x_), *dy = as_f32(type, dy_);
  float* dx = as_f32(type, dx_);
  const Partition parts(s.rows(), ceil_div(16384, s.channels), 64);
  thread_local Workspace workspace;
  float* partial = workspace.floats(parts.parts * s.channels);
  ctx.pool.for_each(parts.parts, [&](int, int64_t part) {
    float* sums = partial + part * s.channels;
    std::fill_n(sums, s.channels, 0.0f);
    by_images(s, drop, parts.begin(part), parts.end(part), [&](int64_t row, int64_t rows, float keep) {
      const int64_t at = row * s.channels;
      LGD_DISPATCH(layer_scale_gradient_rows)(rows, s.channels, x + at, gamma, keep, dy + at, dx + at, accumulate,
                                              sums);
    });
  });
  for (int64_t part = 0; part < parts.parts; ++part)
    for (int c = 0; c < s.channels; ++c) d_gamma[c] += partial[part * s.channels + c];
}

}  // namespace lgd
