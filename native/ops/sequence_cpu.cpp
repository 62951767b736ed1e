// ops/sequence.h. These move bytes: the compiler's vectors do.
#include "ops/sequence.h"

#include "ops/common_cpu.h"

namespace lgd {
namespace {

void add_rows(int channels, const float* a, const float* b, float* y) {
  for (int c = 0; c < channels; ++c) y[c] = a[c] + b[c];
}

// Of what is no digit, a NaN too, the nearest: the table is not left.
int digit_of(float value) { return value > 0 ? int(std::min(value, 255.0f)) : 0; }
int id_at(const float* ids, int64_t row, int id_channels) {
  const float* digits = ids + row * id_channels;
  return digit_of(digits[0]) + 256 * digit_of(digits[1]) + 65536 * digit_of(digits[2]);
}

// Calls body(n, t, row) for every position.
template <class Body>
void for_positions(Context& ctx, const SequenceShape& s, Body&& body) {
  ctx.pool.for_range(int64_t(s.n) * s.tokens, ceil_div(16384, s.channels), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row / s.tokens, row % s.tokens, row);
  });
}

}  // namespace

void positions_forward_cpu(Context& ctx, const SequenceShape& s, DType type, int first, const void* x_,
                           const float* position, const float* constant, void* y_) {
  const float* x = as_f32(type, x_);
  float* y = as_f32(type, y_);
  for_positions(ctx, s, [&](int64_t n, int64_t t, int64_t row) {
    const float* at = position + t * s.channels;
    const float* other = t >= first ? x + (n * (s.tokens - first) + t - first) * s.channels
                         : constant ? constant + t * s.channels
                                    : nullptr;
    if (other) add_rows(s.channels, other, at, y + row * s.channels);
    else std::copy_n(at, s.channels, y + row * s.channels);
  });
}

void positions_backward_cpu(Context& ctx, const SequenceShape& s, DType type, int first, const void* dy_, void* dx_,
                            bool accumulate, float* d_position, float* d_constant) {
  const float* dy = as_f32(type, dy_);
  float* dx = as_f32(type, dx_);
  const int64_t count = int64_t(s.tokens) * s.channels, behind = int64_t(first) * s.channels;
  ctx.pool.for_range(count, ceil_div(16384, s.n), [&](int64_t begin, int64_t end) {
    for (int64_t n = 0; n < s.n; ++n) {
      const float* from = dy + n * count;
      for (int64_t e = begin; e < end; ++e) d_position[e] += from[e];
      if (d_constant)
        for (int64_t e = begin; e < std::min(end, behind); ++e) d_constant[e] += from[e];
      float* to = dx + n * (count - behind) - behind;
      for (int64_t e = std::max(begin, behind); dx && e < end; ++e) to[e] = accumulate ? to[e] + from[e] : from[e];
    }
  });
}

void words_forward_cpu(Context& ctx, const SequenceShape& s, DType type, int id_channels, int words, const void* ids,
                       const float* word, const float* position, void* y_) {
  float* y = as_f32(type, y_);
  for_positions(ctx, s, [&](int64_t, int64_t t, int64_t row) {
    const int id = std::min(id_at(static_cast<const float*>(ids), row, id_channels), words - 1);
    add_rows(s.channels, word + int64_t(id) * s.channels, position + t * s.channels, y + row * s.channels);
  });
}

void end_token_forward_cpu(Context&, const SequenceShape& s, DType type, int id_channels, int end, const void* x_,
                           const void* ids, void* y_) {
  const float* x = as_f32(type, x_);
  float* y = as_f32(type, y_);
  for (int64_t n = 0; n < s.n; ++n) {
    int t = 0;
    while (t < s.tokens - 1 && id_at(static_cast<const float*>(ids), n * s.tokens + t, id_channels) != end) ++t;
    std::copy_n(x + (n * s.tokens + t) * s.channels, s.channels, y + n * s.channels);
  }
}

void repeat_forward_cpu(Context&, int n, int channels, DType type, const float* value, void* y_) {
  float* y = as_f32(type, y_);
  for (int64_t i = 0; i < n; ++i) std::copy_n(value, channels, y + i * channels);
}

}  // namespace lgd
