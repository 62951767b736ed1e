// Layer scale (ops/layer_scale.h). Bytes at least, in bfloat16: forward x and the residual are read and y is written, 6
// a value; backward x and dy are read and dx is written, 6 a value. Forward is a join's (ops/fused.h). Backward a
// thread has 8 channels and rows of a strip, and leaves d_gamma in one part a block (ops/partial_sums.h).
#include "ops/layer_scale.h"

#include "ops/drop.cuh"
#include "ops/partial_sums.h"
#include "ops/reduce.cuh"

namespace lgd {
namespace {

template <class T>
__global__ void __launch_bounds__(256)
    layer_scale_backward_kernel(const __grid_constant__ DropShape drop, int rows, int pixels,
                                const __grid_constant__ ColumnWalk walk, const T* x, const float* gamma, const T* dy,
                                T* dx, bool accumulate, float* partial) {
  wait_for_inputs();
  int chunk;
  F8 sum = zero8();
  if (chunk_of(walk, chunk)) {
    const F8 factor = load8(gamma + chunk * 8);
    const int strip = (rows + int(gridDim.x) - 1) / int(gridDim.x);
    const int begin = int(blockIdx.x) * strip, end = min(rows, begin + strip);
    Keep keep(drop, pixels);
    for (int row = begin + int(threadIdx.x) / walk.width; row < end; row += walk.rows_per_pass) {
      float kept[1];
      keep.of(row, 0, kept);
      const int64_t at = (int64_t(row) * walk.chunks + chunk) * 8;
      const F8 v = load8(x + at);
      F8 g = load8(dy + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        g.v[i] *= kept[0];
        sum.v[i] = fmaf(g.v[i], v.v[i], sum.v[i]);
        g.v[i] *= factor.v[i];
      }
      put8(dx + at, g, accumulate);
    }
  }
  write_column_sums(sum, walk, partial, int64_t(walk.chunks) * 8, 0);
}

}  // namespace

void layer_scale_forward_cuda(Context& ctx, const RowsShape& s, DType type, const void* x, const float* gamma,
                              const DropShape* drop, const void* residual, void* y) {
  LazyInput input, beside;
  input.y = x;
  input.scale = gamma;
  beside.y = residual;
  join_forward_cuda(ctx, s, type, input, residual ? &beside : nullptr, drop, Act::none, y);
}

void layer_scale_backward_cuda(Context& ctx, const RowsShape& s, DType type, const void* x, const float* gamma,
                               const DropShape* drop, const void* dy, void* dx, bool accumulate, float* d_gamma) {
  const ColumnWalk walk = column_walk(ctx, s.rows(), s.channels);
  float* partial = partial_sums(ctx).take(ctx, walk.splits, s.channels);
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, layer_scale_backward_kernel<T>, dim3(walk.splits, walk.groups), 256, 0, drop ? *drop : DropShape{},
               int(s.rows()), int(s.pixels), walk, static_cast<const T*>(x), gamma, static_cast<const T*>(dy),
               static_cast<T*>(dx), accumulate, partial);
  });
  partial_sums(ctx).add(ctx, {{partial, d_gamma, s.channels, walk.splits}});
}

}  // namespace lgd
