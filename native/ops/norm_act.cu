// Batch normalisation with activation (ops/norm_act.h). Two passes over x forward (sums, apply), two backward (sums,
// apply). Bytes at least: forward 2 reads + 1 write of x; backward 2 (x, dy) reads twice + 1 write. A thread holds 8
// channels (16 bytes of bf16) and walks down the rows; partial sums per block are added in a fixed order, so the same
// input gives the same bits.
#include "ops/grids.cuh"
#include "ops/norm_act.h"
#include "ops/norm_finish.cuh"

namespace lgd {

namespace {

// Rows that block `block` of `splits` walks over.
__device__ __forceinline__ int64_t rows_of_block(int64_t rows, const ColumnWalk& walk, int splits, int block) {
  const int64_t stride = int64_t(walk.rows_per_pass) * splits,
                rest = rows % stride - int64_t(block) * walk.rows_per_pass;
  return rows / stride * walk.rows_per_pass + (rest < 0 ? 0 : rest < walk.rows_per_pass ? rest : walk.rows_per_pass);
}

// Per block: the sum of x and the sum of squared deviations from the block's own mean. A thread measures its rows from
// the first of them, so that no sum of squares is ever much larger than what it stands for: float32 does not cancel,
// whatever the mean.
template <class T>
__global__ void __launch_bounds__(256) moments_kernel(const T* x, int64_t rows, ColumnWalk walk, float* partial) {
  wait_for_inputs();
  int chunk;
  const bool valid = chunk_of(walk, chunk);
  const int channels = walk.chunks * 8;
  const int64_t first = int64_t(blockIdx.x) * walk.rows_per_pass + threadIdx.x / walk.width,
                stride = int64_t(gridDim.x) * walk.rows_per_pass;
  F8 shift = zero8(), sum = zero8(), squares = zero8();
  float count = 0;
  if (valid && first < rows) {
    shift = load8(x + (first * walk.chunks + chunk) * 8);
    for (int64_t row = first; row < rows; row += stride, count += 1) {
      const F8 v = load8(x + (row * walk.chunks + chunk) * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float d = v.v[i] - shift.v[i];
        sum.v[i] += d;
        squares.v[i] = fmaf(d, d, squares.v[i]);
      }
    }
  }
  F8 total;
#pragma unroll
  for (int i = 0; i < 8; ++i) total.v[i] = fmaf(count, shift.v[i], sum.v[i]);
  write_column_sums(total, walk, partial, 2 * channels, 0);
  __syncthreads();  // the block's sums in `partial` are there for all its threads
  if (count > 0) {
    const F8 block_sum = load8(partial + int64_t(blockIdx.x) * 2 * channels + chunk * 8);
    const float block_rows = float(rows_of_block(rows, walk, gridDim.x, blockIdx.x));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float off = sum.v[i] / count, apart = shift.v[i] + off - block_sum.v[i] / block_rows;
      squares.v[i] = fmaxf(squares.v[i] - off * sum.v[i], 0.f) + count * apart * apart;
    }
  }
  write_column_sums(squares, walk, partial, 2 * channels, channels);
}

// Mean and variance of all rows from those of the blocks (Chan, Golub and LeVeque 1983), and the running statistics.
__global__ void __launch_bounds__(finish_threads)
    moments_finish_kernel(const float* partial, ColumnWalk walk, NormShape shape, float* running_mean,
                          float* running_var, float* mean, float* rstd) {
  wait_for_inputs();
  const int c = finish_channel(), channels = shape.channels;
  __shared__ float means[finish_channels];
  const float rows = float(shape.rows), sum = sum_partial_pairs(partial, walk.splits, channels).sum;
  if (threadIdx.x < finish_channels) means[threadIdx.x] = sum / rows;
  __syncthreads();
  const float m = means[threadIdx.x % finish_channels];
  const float deviations = sum_pairs(walk.splits, [&](int split, SumPair& squares) {
                             const float count = float(rows_of_block(shape.rows, walk, walk.splits, split));
                             if (count == 0) return;
                             const float* of_block = partial + int64_t(split) * 2 * channels + c;
                             const float apart = of_block[0] / count - m;
                             squares.sum += of_block[channels] + count * apart * apart;
                           }).sum;
  if (threadIdx.x >= finish_channels) return;
  const float var = deviations / rows;
  mean[c] = m;
  rstd[c] = rsqrtf(var + shape.eps);
  const float unbiased = shape.rows > 1 ? deviations / (rows - 1.f) : var;
  running_mean[c] += shape.momentum * (m - running_mean[c]);
  running_var[c] += shape.momentum * (unbiased - running_var[c]);
}

// y = act(x * scale + shift + residual) for 8 channels a thread; scale and shift come from a functor.
template <class T, class Coefficients>
__global__ void __launch_bounds__(256, 2)
    affine_kernel(const T* x, const T* residual, Act act, T* y, int64_t vectors, int chunks, Coefficients of) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const int channel = int(e % chunks) * 8;
    F8 scale, shift, v = load8(x + e * 8);
    of.get(channel, scale, shift);
    if (residual) {
      const F8 r = load8(residual + e * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) shift.v[i] += r.v[i];
    }
    choose_act(act, [&](auto f) {
#pragma unroll
      for (int i = 0; i < 8; ++i) v.v[i] = f(fmaf(v.v[i], scale.v[i], shift.v[i]));
    });
    store8(y + e * 8, v);
  }
}

struct FromStatistics {
  const float *gamma, *beta, *mean, *rstd;
  __device__ __forceinline__ void get(int channel, F8& scale, F8& shift) const {
    const F8 g = load8(gamma + channel), b = load8(beta + channel), m = load8(mean + channel),
             r = load8(rstd + channel);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      scale.v[i] = g.v[i] * r.v[i];
      shift.v[i] = b.v[i] - m.v[i] * scale.v[i];
    }
  }
};
struct Given {
  const float *scale, *shift;
  __device__ __forceinline__ void get(int channel, F8& s, F8& b) const { load_affine(scale, shift, channel, s, b); }
};

// What both backward passes need of an element: xhat and g = dy * act'(u).
template <class T>
struct NormElement {
  F8 gamma, beta, mean, rstd;
  __device__ NormElement(const NormBackward& b, int channel)
      : gamma(load8(b.gamma + channel)),
        beta(load8(b.beta + channel)),
        mean(load8(b.mean + channel)),
        rstd(load8(b.rstd + channel)) {}
  __device__ __forceinline__ void get(const NormBackward& b, Act act, int64_t at, F8& xhat, F8& g) const {
    const F8 x = load8(static_cast<const T*>(b.x) + at);
    g = load8(static_cast<const T*>(b.dy) + at);
    F8 u = beta;
    if (act != Act::none && b.residual) {
      const F8 r = load8(static_cast<const T*>(b.residual) + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) u.v[i] += r.v[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) xhat.v[i] = (x.v[i] - mean.v[i]) * rstd.v[i];
    choose_act(act, [&](auto f) {
#pragma unroll
      for (int i = 0; i < 8; ++i) g.v[i] *= f.slope(fmaf(gamma.v[i], xhat.v[i], u.v[i]));
    });
  }
};

template <class T>
__global__ void __launch_bounds__(256, 2) backward_sums_kernel(const __grid_constant__ NormBackward b, Act act,
                                                               int64_t rows, ColumnWalk walk, float* partial) {
  wait_for_inputs();
  int chunk;
  F8 sum = zero8(), products = zero8();
  if (chunk_of(walk, chunk)) {
    const NormElement<T> element(b, chunk * 8);
    for (int64_t row = int64_t(blockIdx.x) * walk.rows_per_pass + threadIdx.x / walk.width; row < rows;
         row += int64_t(gridDim.x) * walk.rows_per_pass) {
      F8 xhat, g;
      element.get(b, act, (row * walk.chunks + chunk) * 8, xhat, g);
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

__global__ void __launch_bounds__(finish_threads)
    backward_finish_kernel(const float* partial, int splits, int channels, float* sums, float* d_gamma, float* d_beta) {
  wait_for_inputs();
  const int c = finish_channel();
  const SumPair total = sum_partial_pairs(partial, splits, channels);
  if (threadIdx.x >= finish_channels) return;
  sums[c] = total.sum;
  sums[channels + c] = total.product;
  d_beta[c] += total.sum;
  d_gamma[c] += total.product;
}

template <class T>
__global__ void __launch_bounds__(256)
    backward_apply_kernel(const __grid_constant__ NormBackward b, Act act, int64_t vectors, int chunks,
                          float inverse_rows, const float* sums) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const int channel = int(e % chunks) * 8;
    const NormElement<T> element(b, channel);
    const F8 sum = load8(sums + channel), products = load8(sums + chunks * 8 + channel);
    F8 xhat, g, dx;
    element.get(b, act, e * 8, xhat, g);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      dx.v[i] =
          element.gamma.v[i] * element.rstd.v[i] * (g.v[i] - (sum.v[i] + xhat.v[i] * products.v[i]) * inverse_rows);
    put8(static_cast<T*>(b.dx) + e * 8, dx, b.accumulate_dx);
    if (b.d_residual) put8(static_cast<T*>(b.d_residual) + e * 8, g, b.accumulate_residual);
  }
}

__global__ void fold_kernel(int channels, float eps, const float* gamma, const float* beta, const float* mean,
                            const float* var, float* scale, float* shift) {
  wait_for_inputs();
  const int c = blockIdx.x * 256 + threadIdx.x;
  if (c >= channels) return;
  const float s = gamma[c] * rsqrtf(var[c] + eps);
  scale[c] = s;
  shift[c] = beta[c] - mean[c] * s;
}

template <class Coefficients>
void apply(Context& ctx, int64_t rows, int channels, DType type, const void* x, const void* residual, Act act, void* y,
           const Coefficients& of) {
  const int64_t vectors = rows * channels / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, (affine_kernel<T, Coefficients>), elementwise_blocks(ctx, vectors), 256, 0,
               static_cast<const T*>(x), static_cast<const T*>(residual), no_gelu(act), static_cast<T*>(y), vectors,
               channels / 8, of);
  });
}

}  // namespace

void norm_act_forward_cuda(Context& ctx, const NormShape& shape, DType type, const NormForward& f) {
  const ColumnWalk walk = column_walk(ctx, shape.rows, shape.channels);
  float* partial = static_cast<float*>(ctx.scratch(size_t(walk.splits) * 2 * shape.channels * 4));
  with_type(type, [&]<class T>(T) {
    const T* x = static_cast<const T*>(f.x);
    LGD_LAUNCH(ctx, moments_kernel<T>, dim3(walk.splits, walk.groups), 256, 0, x, shape.rows, walk, partial);
  });
  LGD_LAUNCH(ctx, moments_finish_kernel, shape.channels / finish_channels, finish_threads, 0, partial, walk, shape,
             f.running_mean, f.running_var, f.mean, f.rstd);
  apply(ctx, shape.rows, shape.channels, type, f.x, f.residual, shape.act, f.y,
        FromStatistics{f.gamma, f.beta, f.mean, f.rstd});
}

void norm_act_backward_cuda(Context& ctx, const NormShape& shape, DType type, const NormBackward& b) {
  const ColumnWalk walk = column_walk(ctx, shape.rows, shape.channels);
  float* sums = static_cast<float*>(ctx.scratch(size_t(walk.splits + 1) * 2 * shape.channels * 4));
  float* partial = sums + 2 * shape.channels;
  const int64_t vectors = shape.rows * shape.channels / 8;
  with_type(type, [&]<class T>(T) {
    const Act act = no_gelu(shape.act);
    LGD_LAUNCH(ctx, backward_sums_kernel<T>, dim3(walk.splits, walk.groups), 256, 0, b, act, shape.rows, walk, partial);
    LGD_LAUNCH(ctx, backward_finish_kernel, shape.channels / finish_channels, finish_threads, 0, partial, walk.splits,
               shape.channels, sums, b.d_gamma, b.d_beta);
    LGD_LAUNCH(ctx, backward_apply_kernel<T>, elementwise_blocks(ctx, vectors), 256, 0, b, act, vectors,
               shape.channels / 8, 1.f / float(shape.rows), sums);
  });
}

void norm_fold_cuda(Context& ctx, int channels, float eps, const float* gamma, const float* beta,
                    const float* running_mean, const float* running_var, float* scale, float* shift) {
  LGD_LAUNCH(ctx, fold_kernel, blocks_for(channels, 256), 256, 0, channels, eps, gamma, beta, running_mean, running_var,
             scale, shift);
}

void affine_act_forward_cuda(Context& ctx, int64_t rows, int channels, DType type, const void* x, const float* scale,
                             const float* shift, const void* residual, Act act, void* y) {
  apply(ctx, rows, channels, type, x, residual, act, y, Given{scale, shift});
}

}  // namespace lgd
