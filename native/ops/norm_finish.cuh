// How the sums that fused kernels leave become a norm's numbers: one small kernel behind each of them. Partial sums lie
// as partial[part][2][channels], one part a block of the kernel that made them; parts are added in a fixed order. There
// are about a hundred such launches in a step and each moves next to nothing: what counts is that all loads of a thread
// are in flight at once, those of the norm's own numbers too. A block has 8 channels (32 bytes of a part, one sector)
// and 64 parts at a time. Channels are a multiple of 8.
#pragma once
#include "ops/fused.h"
#include "ops/reduce.cuh"

namespace lgd {

constexpr int finish_threads = 512, finish_channels = 8;

struct SumPair {
  float sum, product;
};

__device__ __forceinline__ int finish_channel() {
  return int(blockIdx.x * finish_channels + threadIdx.x % finish_channels);
}

// Adds up what load(part, pair) adds for every part < parts; threads 0-7 get the sums of the block's channels. Every
// thread calls it.
template <class Load>
__device__ __forceinline__ SumPair sum_pairs(int parts, const Load& load) {
  SumPair mine{0, 0};
#pragma unroll 4
  for (int part = threadIdx.x / finish_channels; part < parts; part += finish_threads / finish_channels)
    load(part, mine);
  for (int lanes = finish_channels; lanes < 32; lanes *= 2) {
    mine.sum += shfl_xor(mine.sum, lanes);
    mine.product += shfl_xor(mine.product, lanes);
  }
  __shared__ SumPair warps[finish_threads / 32][finish_channels];
  if (threadIdx.x % 32 < finish_channels) warps[threadIdx.x / 32][threadIdx.x % 32] = mine;
  __syncthreads();
  SumPair total{0, 0};
  if (threadIdx.x < finish_channels)
#pragma unroll
    for (int warp = 0; warp < finish_threads / 32; ++warp) {
      total.sum += warps[warp][threadIdx.x].sum;
      total.product += warps[warp][threadIdx.x].product;
    }
  return total;
}

__device__ __forceinline__ SumPair sum_partial_pairs(const float* partial, int parts, int channels) {
  const float* column = partial + finish_channel();
  return sum_pairs(parts, [=](int part, SumPair& pair) {
    pair.sum += column[int64_t(2 * part) * channels];
    pair.product += column[int64_t(2 * part + 1) * channels];
  });
}

// ops/fused.h, NormGradient, of channel c; made before the sums are known.
struct GradientWriter {
  const NormGradient& norm;
  int c;
  float gamma = 0, mean = 0, rstd = 0, d_beta = 0, d_gamma = 0;
  __device__ __forceinline__ GradientWriter(const NormGradient& of, int channel) : norm(of), c(channel) {
    if (threadIdx.x >= finish_channels) return;
    gamma = norm.gamma[c];
    mean = norm.mean[c];
    rstd = norm.rstd[c];
    d_beta = norm.d_beta[c];
    d_gamma = norm.d_gamma[c];
  }
  __device__ __forceinline__ void write(const SumPair& sums, float rows) const {
    if (threadIdx.x >= finish_channels) return;
    const float a = gamma * rstd, b = -a * rstd * sums.product / rows;
    norm.d_beta[c] = d_beta + sums.sum;
    norm.d_gamma[c] = d_gamma + sums.product;
    norm.a[c] = a;
    norm.b[c] = b;
    norm.c[c] = -a * sums.sum / rows - b * mean;
  }
};

// partial: sums over rows of d and of d^2, d = y - running_mean (as it stands before this call): near the mean, so that
// float32 does not cancel.
static __global__ void __launch_bounds__(finish_threads)
    finish_statistics_kernel(const float* partial, int parts, int channels, float rows,
                             const __grid_constant__ NormTarget norm) {
  wait_for_inputs();
  const int c = finish_channel();
  float gamma = 0, beta = 0, running_mean = 0, running_var = 0;
  if (threadIdx.x < finish_channels) {
    gamma = norm.gamma[c];
    beta = norm.beta[c];
    running_mean = norm.running_mean[c];
    running_var = norm.running_var[c];
  }
  const SumPair sums = sum_partial_pairs(partial, parts, channels);
  if (threadIdx.x >= finish_channels) return;
  const float off = sums.sum / rows, deviations = max_or_nan(sums.product - off * sums.sum, 0.f),
              variance = deviations / rows;
  const float mean = running_mean + off, rstd = rsqrtf(variance + norm.eps), scale = gamma * rstd;
  norm.mean[c] = mean;
  norm.rstd[c] = rstd;
  norm.scale[c] = scale;
  norm.shift[c] = beta - mean * scale;
  norm.running_mean[c] = running_mean + norm.momentum * off;
  norm.running_var[c] = running_var + norm.momentum * ((rows > 1 ? deviations / (rows - 1.f) : variance) - running_var);
}

// partial: sums over rows of g and of g xhat.
static __global__ void __launch_bounds__(finish_threads)
    finish_gradient_kernel(const float* partial, int parts, int channels, float rows,
                           const __grid_constant__ NormGradient norm) {
  wait_for_inputs();
  const GradientWriter writer(norm, finish_channel());
  writer.write(sum_partial_pairs(partial, parts, channels), rows);
}

inline void finish_statistics(Context& ctx, const float* partial, int parts, int channels, int64_t rows,
                              const NormTarget& norm) {
  LGD_LAUNCH(ctx, finish_statistics_kernel, channels / finish_channels, finish_threads, 0, partial, parts, channels,
             float(rows), norm);
}
inline void finish_gradient(Context& ctx, const float* partial, int parts, int channels, int64_t rows,
                            const NormGradient& norm) {
  LGD_LAUNCH(ctx, finish_gradient_kernel, channels / finish_channels, finish_threads, 0, partial, parts, channels,
             float(rows), norm);
}

}  // namespace lgd
