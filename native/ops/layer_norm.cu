// Layer norm (ops/layer_norm.h). As many lanes of a warp as a row needs, up to all, have it, each 8 channels at a time.
// Bytes at least, in bfloat16: forward x is read and y written, 4 a value; backward x and dy are read and dx is
// written, 6 a value. All passes over a row but the first find it, some kilobytes, in the first-level cache. A lane
// keeps the gradients of weight and bias of its channels, which a block adds up and leaves as one part
// (ops/partial_sums.h).
#include "core/cuda_device.cuh"
#include "ops/layer_norm.h"
#include "ops/partial_sums.h"
#include "ops/reduce.cuh"

#include <algorithm>

namespace lgd {
namespace {

// Over `lanes` neighbouring lanes, a power of two, which all get it.
__device__ __forceinline__ float sum_of_lanes(float value, int lanes) {
  for (int mask = lanes / 2; mask; mask /= 2) value += shfl_xor(value, mask);
  return value;
}

template <class T>
__global__ void __launch_bounds__(128)
    layer_norm_kernel(LayerNormShape s, int lanes, const T* x, const float* weight, const float* bias, T* y) {
  wait_for_inputs();
  const int lane = threadIdx.x % lanes;
  const int64_t row = int64_t(blockIdx.x) * (128 / lanes) + threadIdx.x / lanes;
  const int channels = row < s.rows ? s.channels : 0;  // every lane takes part in the sums
  const T* from = x + row * s.channels;
  float sum = 0;
  for (int c = lane * 8; c < channels; c += lanes * 8) {
    const F8 v = load8(from + c);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += v.v[i];
  }
  const float mean = sum_of_lanes(sum, lanes) / float(s.channels);
  float square = 0;
  for (int c = lane * 8; c < channels; c += lanes * 8) {
    const F8 v = load8(from + c);
#pragma unroll
    for (int i = 0; i < 8; ++i) square = fmaf(v.v[i] - mean, v.v[i] - mean, square);
  }
  const float rstd = rsqrtf(sum_of_lanes(square, lanes) / float(s.channels) + s.eps);
  for (int c = lane * 8; c < channels; c += lanes * 8) {
    F8 v = load8(from + c);
    const F8 k = load8(weight + c), b = load8(bias + c);
#pragma unroll
    for (int i = 0; i < 8; ++i) v.v[i] = fmaf((v.v[i] - mean) * rstd, k.v[i], b.v[i]);
    store8(y + row * s.channels + c, v);
  }
}

struct LayerNormBackward {
  LayerNormShape shape;
  int lanes;
  bool accumulate;
  const float* weight;
  float *partial_weight, *partial_bias;  // [gridDim.x][C]
};

// A lane has `vectors` times 8 channels of every row that it comes to.
template <class T, int vectors>
__global__ void __launch_bounds__(256, vectors == 1 ? 3 : 1)
    layer_norm_backward_kernel(const __grid_constant__ LayerNormBackward job, const T* x, const T* dy, T* dx) {
  wait_for_inputs();
  const int lanes = job.lanes, lane = threadIdx.x % lanes, channels = job.shape.channels, stride = lanes * 8;
  const float per_channel = 1.f / float(channels);
  F8 d_weight[vectors], d_bias[vectors];
#pragma unroll
  for (int k = 0; k < vectors; ++k) d_weight[k] = d_bias[k] = zero8();
  const int64_t rows_per_pass = int64_t(gridDim.x) * (256 / lanes);
  const int64_t first = int64_t(blockIdx.x) * (256 / lanes);
  for (int64_t start = first; start < job.shape.rows; start += rows_per_pass) {
    const int64_t row = start + threadIdx.x / lanes;
    const bool valid = row < job.shape.rows;  // every lane takes part in the sums
    // body(k, channel) for each vector of this lane
    const auto each = [&](auto&& body) {
#pragma unroll
      for (int k = 0; k < vectors; ++k) {
        const int c = lane * 8 + k * stride;
        if (valid && c < channels) { body(k, c); }
      }
    };
    const T *const from = x + row * channels, *const gradient = dy + row * channels;
    float sum = 0, square = 0, of_g = 0, of_product = 0;
    each([&](int, int c) {
      const F8 v = load8(from + c);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum += v.v[i];
    });
    const float mean = sum_of_lanes(sum, lanes) * per_channel;
    each([&](int, int c) {
      const F8 v = load8(from + c);
#pragma unroll
      for (int i = 0; i < 8; ++i) square = fmaf(v.v[i] - mean, v.v[i] - mean, square);
    });
    const float rstd = rsqrtf(sum_of_lanes(square, lanes) * per_channel + job.shape.eps);
    each([&](int k, int c) {
      const F8 v = load8(from + c), g = load8(gradient + c), w = load8(job.weight + c);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float normed = (v.v[i] - mean) * rstd;
        d_weight[k].v[i] = fmaf(g.v[i], normed, d_weight[k].v[i]);
        d_bias[k].v[i] += g.v[i];
        of_g = fmaf(g.v[i], w.v[i], of_g);
        of_product = fmaf(g.v[i] * w.v[i], normed, of_product);
      }
    });
    of_g = sum_of_lanes(of_g, lanes) * per_channel;
    of_product = sum_of_lanes(of_product, lanes) * per_channel;
    each([&](int, int c) {
      const F8 v = load8(from + c), w = load8(job.weight + c);
      F8 g = load8(gradient + c);
#pragma unroll
      for (int i = 0; i < 8; ++i) g.v[i] = (fmaf(g.v[i], w.v[i], -of_g) - (v.v[i] - mean) * rstd * of_product) * rstd;
      put8(dx + row * channels + c, g, job.accumulate);
    });
  }
  const ColumnWalk walk{channels / 8, lanes, 256 / lanes, 1, 1};
#pragma unroll
  for (int k = 0; k < vectors; ++k) {
    const int64_t at = int64_t(blockIdx.x) * channels + lane * 8 + k * stride;
    const bool writes = int(threadIdx.x) < lanes && lane * 8 + k * stride < channels;
    sum_walk_rows(d_weight[k], walk);
    sum_walk_rows(d_bias[k], walk);
    if (!writes) continue;
    store8(job.partial_weight + at, d_weight[k]);
    store8(job.partial_bias + at, d_bias[k]);
  }
}

int lanes_for(int channels) {
  int lanes = 1;
  while (lanes < 32 && lanes * 8 < channels) lanes *= 2;
  return lanes;
}

}  // namespace

void layer_norm_forward_cuda(Context& ctx, const LayerNormShape& s, DType type, const void* x, const float* weight,
                             const float* bias, void* y) {
  const int lanes = lanes_for(s.channels), rows = 128 / lanes;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, layer_norm_kernel<T>, unsigned((s.rows + rows - 1) / rows), 128, 0, s, lanes,
               static_cast<const T*>(x), weight, bias, static_cast<T*>(y));
  });
}

void layer_norm_backward_cuda(Context& ctx, const LayerNormShape& s, DType type, const void* x, const void* dy,
                              const float* weight, void* dx, bool accumulate, float* d_weight, float* d_bias) {
  LGD_CHECK(s.channels % 8 == 0 && s.channels <= layer_norm_widest, "BAD_SHAPE",
            "layer norm's backward takes multiples of 8 up to ", layer_norm_widest, " channels, found ", s.channels);
  const int lanes = lanes_for(s.channels), vectors = (s.channels + lanes * 8 - 1) / (lanes * 8);
  const int64_t passes = (s.rows + 256 / lanes - 1) / (256 / lanes);
  const int blocks = int(std::min<int64_t>(passes, int64_t(ctx.card.multiprocessors) * (vectors == 1 ? 3 : 2)));
  float* partial = partial_sums(ctx).take(ctx, 2 * blocks, s.channels);
  const LayerNormBackward job{s, lanes, accumulate, weight, partial, partial + int64_t(blocks) * s.channels};
  with_type(type, [&]<class T>(T) {
    const T *from = static_cast<const T*>(x), *gradient = static_cast<const T*>(dy);
    T* to = static_cast<T*>(dx);
    if (vectors == 1) LGD_LAUNCH(ctx, (layer_norm_backward_kernel<T, 1>), blocks, 256, 0, job, from, gradient, to);
    else if (vectors == 2) LGD_LAUNCH(ctx, (layer_norm_backward_kernel<T, 2>), blocks, 256, 0, job, from, gradient, to);
    else if (vectors <= 4) LGD_LAUNCH(ctx, (layer_norm_backward_kernel<T, 4>), blocks, 256, 0, job, from, gradient, to);
    else LGD_LAUNCH(ctx, (layer_norm_backward_kernel<T, 8>), blocks, 256, 0, job, from, gradient, to);
  });
  partial_sums(ctx).add(
      ctx, {{job.partial_weight, d_weight, s.channels, blocks}, {job.partial_bias, d_bias, s.channels, blocks}});
}

}  // namespace lgd
