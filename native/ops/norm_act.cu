// Batch normalisation with activation (ops/norm_act.h). Two passes over x forward (sums, apply), two backward (sums, apply).
// Bytes at least: forward 2 reads + 1 write of x; backward 2 (x, dy) reads twice + 1 write. A thread holds 8 channels (16 bytes of bf16)
// and walks down the rows; partial sums per block are added in a fixed order, so the same input gives the same bits.
#include "ops/norm_act.h"
#include "ops/reduce.cuh"

namespace lgd {

namespace {

// Sums of (x - shift) and (x - shift)^2 with the first row as shift: close enough to the mean that float32 does not cancel.
template <class T>
__global__ void __launch_bounds__(256) moments_kernel(const T* x, int64_t rows, ColumnWalk walk, float* partial) {
  const int chunk = int(blockIdx.y) * walk.width + threadIdx.x % walk.width, row0 = threadIdx.x / walk.width;
  F8 sum = zero8(), squares = zero8();
  if (row0 < walk.rows_per_pass && chunk < walk.chunks) {
    const F8 shift = load8(x + int64_t(chunk) * 8);
    for (int64_t row = int64_t(blockIdx.x) * walk.rows_per_pass + row0; row < rows; row += int64_t(gridDim.x) * walk.rows_per_pass) {
      const F8 v = load8(x + (row * walk.chunks + chunk) * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float d = v.v[i] - shift.v[i];
        sum.v[i] += d;
        squares.v[i] = fmaf(d, d, squares.v[i]);
      }
    }
  }
  const int channels = walk.chunks * 8;
  write_column_sums(sum, walk, partial, 2 * channels, 0);
  write_column_sums(squares, walk, partial, 2 * channels, channels);
}

template <class T>
__global__ void moments_finish_kernel(const T* x, const float* partial, int splits, NormShape shape, float* running_mean, float* running_var, float* mean,
                                      float* rstd) {
  const int c = blockIdx.x * reduce_columns + threadIdx.x;
  const bool valid = c < shape.channels;
  const float sum = sum_partials(partial, splits, 2 * shape.channels, c, valid);
  const float squares = sum_partials(partial, splits, 2 * shape.channels, shape.channels + c, valid);
  if (threadIdx.y != 0 || !valid) return;
  const float rows = float(shape.rows), off = sum / rows;
  const float m = load1(x + c) + off, var = fmaxf(squares / rows - off * off, 0.f);
  mean[c] = m;
  rstd[c] = rsqrtf(var + shape.eps);
  const float unbiased = shape.rows > 1 ? var * (rows / (rows - 1.f)) : var;
  running_mean[c] += shape.momentum * (m - running_mean[c]);
  running_var[c] += shape.momentum * (unbiased - running_var[c]);
}

// y = act(x * scale + shift + residual) for 8 channels a thread; scale and shift come from a functor.
template <class T, Act act, class Coefficients>
__global__ void __launch_bounds__(256) affine_kernel(const T* x, const T* residual, T* y, int64_t vectors, int chunks, Coefficients of) {
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const int channel = int(e % chunks) * 8;
    F8 scale, shift, v = load8(x + e * 8);
    of.get(channel, scale, shift);
    if (residual) {
      const F8 r = load8(residual + e * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) shift.v[i] += r.v[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) v.v[i] = act_of<act>(fmaf(v.v[i], scale.v[i], shift.v[i]));
    store8(y + e * 8, v);
  }
}

struct FromStatistics {
  const float *gamma, *beta, *mean, *rstd;
  __device__ __forceinline__ void get(int channel, F8& scale, F8& shift) const {
    const F8 g = load8(gamma + channel), b = load8(beta + channel), m = load8(mean + channel), r = load8(rstd + channel);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      scale.v[i] = g.v[i] * r.v[i];
      shift.v[i] = b.v[i] - m.v[i] * scale.v[i];
    }
  }
};
struct Given {
  const float *scale, *shift;
  __device__ __forceinline__ void get(int channel, F8& s, F8& b) const {
    s = scale ? load8(scale + channel) : F8{{1, 1, 1, 1, 1, 1, 1, 1}};
    b = shift ? load8(shift + channel) : zero8();
  }
};

// What both backward passes need of an element: xhat and g = dy * act'(u).
template <class T, Act act>
struct NormElement {
  F8 gamma, beta, mean, rstd;
  __device__ NormElement(const NormBackward& b, int channel)
      : gamma(load8(b.gamma + channel)), beta(load8(b.beta + channel)), mean(load8(b.mean + channel)), rstd(load8(b.rstd + channel)) {}
  __device__ __forceinline__ void get(const NormBackward& b, int64_t at, F8& xhat, F8& g) const {
    const F8 x = load8(static_cast<const T*>(b.x) + at);
    g = load8(static_cast<const T*>(b.dy) + at);
    F8 u = beta;
    if (act != Act::none && b.residual) {
      const F8 r = load8(static_cast<const T*>(b.residual) + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) u.v[i] += r.v[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      xhat.v[i] = (x.v[i] - mean.v[i]) * rstd.v[i];
      if constexpr (act != Act::none) g.v[i] *= act_slope<act>(fmaf(gamma.v[i], xhat.v[i], u.v[i]));
    }
  }
};

template <class T, Act act>
__global__ void __launch_bounds__(256) backward_sums_kernel(const __grid_constant__ NormBackward b, int64_t rows, ColumnWalk walk, float* partial) {
  const int chunk = int(blockIdx.y) * walk.width + threadIdx.x % walk.width, row0 = threadIdx.x / walk.width;
  F8 sum = zero8(), products = zero8();
  if (row0 < walk.rows_per_pass && chunk < walk.chunks) {
    const NormElement<T, act> element(b, chunk * 8);
    for (int64_t row = int64_t(blockIdx.x) * walk.rows_per_pass + row0; row < rows; row += int64_t(gridDim.x) * walk.rows_per_pass) {
      F8 xhat, g;
      element.get(b, (row * walk.chunks + chunk) * 8, xhat, g);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        sum.v[i] += g.v[i];
        products.v[i] = fmaf(g.v[i], xhat.v[i], products.v[i]);
      }
    }
  }
  const int channels = walk.chunks * 8;
  write_column_sums(sum, walk, partial, 2 * channels, 0);
  write_column_sums(products, walk, partial, 2 * channels, channels);
}

__global__ void backward_finish_kernel(const float* partial, int splits, int channels, float* sums, float* d_gamma, float* d_beta) {
  const int c = blockIdx.x * reduce_columns + threadIdx.x;
  const bool valid = c < channels;
  const float sum = sum_partials(partial, splits, 2 * channels, c, valid);
  const float products = sum_partials(partial, splits, 2 * channels, channels + c, valid);
  if (threadIdx.y != 0 || !valid) return;
  sums[c] = sum;
  sums[channels + c] = products;
  d_beta[c] += sum;
  d_gamma[c] += products;
}

template <class T, Act act>
__global__ void __launch_bounds__(256) backward_apply_kernel(const __grid_constant__ NormBackward b, int64_t vectors, int chunks, float inverse_rows,
                                                             const float* sums) {
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const int channel = int(e % chunks) * 8;
    const NormElement<T, act> element(b, channel);
    const F8 sum = load8(sums + channel), products = load8(sums + chunks * 8 + channel);
    F8 xhat, g, dx;
    element.get(b, e * 8, xhat, g);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      dx.v[i] = element.gamma.v[i] * element.rstd.v[i] * (g.v[i] - (sum.v[i] + xhat.v[i] * products.v[i]) * inverse_rows);
    put8(static_cast<T*>(b.dx) + e * 8, dx, b.accumulate_dx);
    if (b.d_residual) put8(static_cast<T*>(b.d_residual) + e * 8, g, b.accumulate_residual);
  }
}

__global__ void fold_kernel(int channels, float eps, const float* gamma, const float* beta, const float* mean, const float* var, float* scale, float* shift) {
  const int c = blockIdx.x * 256 + threadIdx.x;
  if (c >= channels) return;
  const float s = gamma[c] * rsqrtf(var[c] + eps);
  scale[c] = s;
  shift[c] = beta[c] - mean[c] * s;
}

unsigned elementwise_blocks(int64_t vectors) { return blocks_for(vectors, 256, 132 * 16); }

template <class Coefficients>
void apply(Context& ctx, int64_t rows, int channels, DType type, const void* x, const void* residual, Act act, void* y, const Coefficients& of) {
  const int64_t vectors = rows * channels / 8;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    with_act(act, [&](auto tag) {
      constexpr Act a = decltype(tag)::act;
      LGD_LAUNCH(ctx, (affine_kernel<T, a, Coefficients>), elementwise_blocks(vectors), 256, 0, static_cast<const T*>(x), static_cast<const T*>(residual),
                 static_cast<T*>(y), vectors, channels / 8, of);
    });
  });
}

}  // namespace

void norm_act_forward_cuda(Context& ctx, const NormShape& shape, DType type, const NormForward& f) {
  const ColumnWalk walk = column_walk(shape.rows, shape.channels);
  float* partial = static_cast<float*>(ctx.scratch(size_t(walk.splits) * 2 * shape.channels * 4));
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    const T* x = static_cast<const T*>(f.x);
    LGD_LAUNCH(ctx, moments_kernel<T>, dim3(walk.splits, walk.groups), 256, 0, x, shape.rows, walk, partial);
    LGD_LAUNCH(ctx, moments_finish_kernel<T>, blocks_for(shape.channels, reduce_columns), dim3(reduce_columns, reduce_parts), 0, x, partial, walk.splits,
               shape, f.running_mean, f.running_var, f.mean, f.rstd);
  });
  apply(ctx, shape.rows, shape.channels, type, f.x, f.residual, shape.act, f.y, FromStatistics{f.gamma, f.beta, f.mean, f.rstd});
}

void norm_act_backward_cuda(Context& ctx, const NormShape& shape, DType type, const NormBackward& b) {
  const ColumnWalk walk = column_walk(shape.rows, shape.channels);
  float* sums = static_cast<float*>(ctx.scratch(size_t(walk.splits + 1) * 2 * shape.channels * 4));
  float* partial = sums + 2 * shape.channels;
  const int64_t vectors = shape.rows * shape.channels / 8;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    with_act(shape.act, [&](auto tag) {
      constexpr Act a = decltype(tag)::act;
      LGD_LAUNCH(ctx, (backward_sums_kernel<T, a>), dim3(walk.splits, walk.groups), 256, 0, b, shape.rows, walk, partial);
      LGD_LAUNCH(ctx, backward_finish_kernel, blocks_for(shape.channels, reduce_columns), dim3(reduce_columns, reduce_parts), 0, partial, walk.splits,
                 shape.channels, sums, b.d_gamma, b.d_beta);
      LGD_LAUNCH(ctx, (backward_apply_kernel<T, a>), elementwise_blocks(vectors), 256, 0, b, vectors, shape.channels / 8, 1.f / float(shape.rows), sums);
    });
  });
}

void norm_fold_cuda(Context& ctx, int channels, float eps, const float* gamma, const float* beta, const float* running_mean, const float* running_var,
                    float* scale, float* shift) {
  LGD_LAUNCH(ctx, fold_kernel, blocks_for(channels, 256), 256, 0, channels, eps, gamma, beta, running_mean, running_var, scale, shift);
}

void affine_act_forward_cuda(Context& ctx, int64_t rows, int channels, DType type, const void* x, const float* scale, const float* shift,
                             const void* residual, Act act, void* y) {
  apply(ctx, rows, channels, type, x, residual, act, y, Given{scale, shift});
}

}  // namespace lgd
