// Clipping by the norm (optimizer/clip_norm.h): two launches. The first reads the gradients, 4 bytes a parameter, and
// leaves a sum a block; the second is one block that adds those. The grid of the first is of the card, and so is the
// order of the sums.
#include "core/cuda_device.cuh"
#include "ops/block_sum.cuh"
#include "ops/grids.cuh"
#include "optimizer/clip_norm.h"

namespace lgd {
namespace {

// In float32, of which cards make up to 64 times as many as of float64; where that is too small, in float64.
__device__ __forceinline__ double sum_of_squares(const float4& g) {
  const float sum = fmaf(g.x, g.x, g.y * g.y) + fmaf(g.z, g.z, g.w * g.w);
  if (sum < __int_as_float(0x7f800000)) return sum;
  return double(g.x) * g.x + double(g.y) * g.y + (double(g.z) * g.z + double(g.w) * g.w);
}

__global__ void __launch_bounds__(reduce_threads)
    gradient_squares_kernel(int64_t count, const float* gradient, double* parts) {
  wait_for_inputs();
  constexpr int at_once = 4;  // loads on their way
  const int64_t vectors = count / 4, stride = int64_t(gridDim.x) * reduce_threads,
                first = int64_t(blockIdx.x) * reduce_threads + threadIdx.x;
  double sum[1] = {0};
  for (int64_t e = first; e < vectors; e += at_once * stride) {
    float4 g[at_once];
#pragma unroll
    for (int i = 0; i < at_once; ++i)
      g[i] = e + i * stride < vectors ? load_as<float4>(gradient + (e + i * stride) * 4) : make_float4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < at_once; ++i) sum[0] += sum_of_squares(g[i]);
  }
  if (first < count % 4) {
    const float g = gradient[vectors * 4 + first];
    sum[0] += double(g) * g;
  }
  block_sum(sum);
  if (threadIdx.x == 0) parts[blockIdx.x] = sum[0];
}

__global__ void __launch_bounds__(reduce_threads)
    clip_factor_kernel(int parts, const double* squares, ClipRule rule, float* factor, double* norm) {
  wait_for_inputs();
  double sum[1] = {0};
#pragma unroll 4
  for (int part = int(threadIdx.x); part < parts; part += reduce_threads) sum[0] += squares[part];
  block_sum(sum);
  if (threadIdx.x != 0) return;
  const double length = rule.scale * sqrt(sum[0]);
  *factor = clip_factor(rule, length);
  *norm = length;
}

}  // namespace

void clip_norm_cuda(Context& ctx, int64_t count, const float* gradient, const ClipRule& rule, float* factor,
                    double* norm) {
  // as many blocks as the card runs at once
  const unsigned blocks = blocks_for(count / 4, reduce_threads, int64_t(ctx.card.multiprocessors) * 8);
  double* const parts = static_cast<double*>(ctx.scratch(blocks * sizeof(double)));
  LGD_LAUNCH(ctx, gradient_squares_kernel, blocks, reduce_threads, 0, count, gradient, parts);
  LGD_LAUNCH(ctx, clip_factor_kernel, 1, reduce_threads, 0, int(blocks), parts, rule, factor, norm);
}

}  // namespace lgd
