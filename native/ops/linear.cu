// Layers on single positions with the GELUs between them (ops/linear.h), on the matrix core.
//
// Bytes at least, in bfloat16, a row: forward 2 C (x) + 4 K (slope and y); the data gradient through a GELU 2 K (dy) +
// 4 C (slope and du). With the GELU's two passes and the sums of the bias as kernels of their own it would be 2 K more
// forward and 6 C more backward. Memory limits the layers of ConvNeXts, but a GELU is an exponential, a division and
// some twenty other instructions: so backward reads its slope, not what it was taken of.
#include "ops/linear.h"
#include "ops/conv_epilogues.cuh"
#include "ops/conv_gradients.h"
#include "ops/conv_loaders.cuh"
#include "ops/lazy_operands.cuh"
#include "ops/matrix_core.cuh"
#include "ops/partial_sums.h"

namespace lgd {
namespace {

void check_linear(const ConvShape& s) {
  check_dense(s);
  LGD_CHECK(is_pointwise(s), "BAD_SHAPE", "a layer on single positions is 1x1 of stride 1; found ", s.r, "x", s.s,
            " of stride ", s.stride);
}

}  // namespace

void linear_act_forward_cuda(Context& ctx, const ConvShape& s, DType type, const void* x, const void* w,
                             const float* bias, Act act, void* slope, void* y) {
  check_linear(s);
  LGD_CHECK(is_gelu(act), "BAD_SHAPE", "a layer takes in a GELU alone; found activation ", int(act));
  with_type(type, [&]<class T>(T) {
    const Loader a{where::Rows{int(s.rows()), s.c}, read::Stored<T>{static_cast<const T*>(x)}};
    const Loader b{where::Rows{s.k, s.c}, read::Stored<T>{static_cast<const T*>(w)}};
    const StoreActivated<T> out{static_cast<T*>(slope), static_cast<T*>(y), s.k, bias, act};
    matrix::with_tile<T, 4, false>(ctx, s.rows(), s.k, s.c, [&](auto tile) {
      matrix::launch_walking<T, decltype(tile)>(ctx, a, b, out, s.rows(), s.k, s.c);
    });
  });
}

void linear_act_backward_cuda(Context& ctx, const ConvShape& s, DType type, const void* dy, const void* w,
                              const void* slope, void* du, float* d_bias) {
  check_linear(s);
  with_type(type, [&]<class T>(T) {
    const Loader a{where::Rows{int(s.rows()), s.k}, read::Stored<T>{static_cast<const T*>(dy)}};
    const Loader b{where::Columns{s.k, s.c}, read::Stored<T>{static_cast<const T*>(w)}};
    const TimesSlope<T> out{static_cast<T*>(du), static_cast<const T*>(slope), s.c, nullptr};
    matrix::with_tile<T, 4, false>(ctx, s.rows(), s.c, s.k, [&](auto tile) {
      float* partial = nullptr;
      int parts = 0;
      matrix::launch_walking<T, decltype(tile)>(ctx, a, b, out, s.rows(), s.c, s.k, [&](auto& store, int blocks) {
        parts = blocks;
        store.partial = partial = partial_sums(ctx).take(ctx, parts, s.c);
      });
      partial_sums(ctx).add(ctx, {{partial, d_bias, s.c, parts}});
    });
  });
}

}  // namespace lgd
