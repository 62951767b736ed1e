#include "ops/layout.h"

#include <bit>

#include "ops/common_cpu.h"

namespace lgd {

static constexpr int64_t grain = 65536;  // elements of a plain copy that are worth a thread

static float rounded_to_bfloat16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return x;  // a NaN stays one
  return std::bit_cast<float>((bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u);
}

// For checks: no plan for the CPU has it.
void widen_images_cpu(Context&, int64_t pixels, DType type, const void* x_, void* out_) {
  const float* x = as_f32(type, x_);
  float* out = as_f32(type, out_);
  for (int64_t p = 0; p < pixels; ++p) {
    std::copy_n(x + p * 4, 4, out + p * 8);
    std::fill_n(out + p * 8 + 4, 4, 0.0f);
  }
}

void unpack_output_cpu(Context& ctx, int64_t rows, int channels, int stored, DType type, const void* x_, float* out) {
  const float* x = as_f32(type, x_);
  ctx.pool.for_range(rows, ceil_div(grain, channels), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) std::copy_n(x + row * stored, channels, out + row * channels);
  });
}

void pack_gradient_cpu(Context& ctx, int64_t rows, int channels, int stored, DType type, const float* d_out,
                       void* dx_) {
  float* dx = as_f32(type, dx_);
  ctx.pool.for_range(rows, ceil_div(grain, stored), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::copy_n(d_out + row * channels, channels, dx + row * stored);
      std::fill_n(dx + row * stored + channels, stored - channels, 0.0f);
    }
  });
}

void cast_cpu(Context& ctx, int64_t count, DType to, const float* from, void* out_) {
  float* out = static_cast<float*>(out_);
  ctx.pool.for_range(count, grain, [&](int64_t begin, int64_t end) {
    if (to == DType::bf16) std::transform(from + begin, from + end, out + begin, rounded_to_bfloat16);
    else if (out != from) std::copy(from + begin, from + end, out + begin);
  });
}

}  // namespace lgd
