// The two gradients of a dense convolution, for ops/conv.cu and ops/fused_conv.cu.
#pragma once
#include <algorithm>

#include "ops/fused.h"

namespace lgd {

inline void check_dense(const ConvShape& s) {
  LGD_CHECK(s.c % 8 == 0 && s.k % 8 == 0, "BAD_SHAPE", "channels must be multiples of 8 on CUDA, found ", s.c, " and ",
            s.k);
  LGD_CHECK(s.rows() < (int64_t(1) << 31) - 1024 && int64_t(s.n) * s.h * s.w < (int64_t(1) << 31) - 1024, "BAD_SHAPE",
            "too many pixels in one batch");
  // where::Place2 has 15 bits for what is beyond an image, too
  const int reach = std::max((s.r - 1) * s.dilation, (s.s - 1) * s.dilation) + s.pad;
  LGD_CHECK(std::max({s.h, s.w, s.oh, s.ow}) + reach < 30000, "BAD_SHAPE", "images of ", s.h, "x", s.w,
            " are too large");
}

inline void check_gate(const ConvShape& s, const LazyInput& x) {
  LGD_CHECK(!x.gate || is_pointwise(s), "BAD_SHAPE",
            "a dense convolution multiplies by a gate on the way only where it is 1x1 of stride 1; found ", s.r, "x",
            s.s, " of stride ", s.stride);
}

// The gradient of the input reaches `target`.
void data_gradient(Context&, const ConvShape&, DType type, const LazyGradient& dy, const void* w,
                   const GradientTarget& target);
// dw += gradient of the weights.
void weight_gradient(Context&, const ConvShape&, DType type, const LazyInput& x, const LazyGradient& dy, float* dw);

// out = dy, of [rows][channels] in the storage type, made once and for all.
void store_gradient(Context&, int64_t rows, int channels, DType type, const LazyGradient& dy, void* out);

// Both at once (ops/pointwise_backward.cu): can it be done for this shape, and is it the faster way?
bool fits_pointwise(const Context&, const ConvShape&, DType type);
bool suits_pointwise(const Context&, const ConvShape&, DType type);
void pointwise_backward(Context&, const ConvShape&, const LazyInput& x, const LazyGradient& dy, const void* w,
                        float* dw, const GradientTarget& target);

}  // namespace lgd
