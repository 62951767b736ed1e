// Depthwise convolution (ops/depthwise.h). Bytes at least: forward read x, write y; the arithmetic is R*S multiply-adds
// an element. Forward, in forward-only plans: a thread has 8 channels of an output pixel, or at stride 1 of a strip of
// `strip` in a row, so that each loaded column serves up to R taps: 4 % of a forward pass of mobilenet_v2 at 224 px by
// the clock, 13 % of efficientnet_b0; at stride 2, where fewer taps share a column, strips take longer. Gradients are
// for training whose layers are not fused (ops/fused_depthwise.cuh has the others). Data: an input pixel a thread.
// Weights: a warp has 64 channels, two a lane, and rows of output pixels; partial sums are added in a fixed order.
#include "core/cuda_device.cuh"
#include "ops/depthwise.h"
#include "ops/partial_sums.h"
#include "ops/store_output.cuh"

namespace lgd {

namespace {

constexpr int strip = 4;

// R: kernel size. Two blocks a multiprocessor: left alone, ptxas spills to fit a third.
template <class T, int R>
__global__ void __launch_bounds__(256, 2)
    strip_kernel(const __grid_constant__ ConvShape s, const T* x, const T* w,
                 const __grid_constant__ StoreOutput<T> out, int strips, int64_t threads) {
  wait_for_inputs();
  const int chunks = s.c / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < threads; e += int64_t(gridDim.x) * 256) {
    const int channel = int(e % chunks) * 8;
    const int64_t place = e / chunks;
    const int ox0 = int(place % strips) * strip, oy = int(place / strips % s.oh), n = int(place / strips / s.oh);
    F8 sum[strip];
#pragma unroll
    for (int o = 0; o < strip; ++o) sum[o] = zero8();
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int iy = oy - s.pad + r;
      if (unsigned(iy) >= unsigned(s.h)) continue;
      F8 taps[R];
#pragma unroll
      for (int q = 0; q < R; ++q) taps[q] = load8(w + int64_t(r * R + q) * s.c + channel);
#pragma unroll
      for (int column = 0; column < strip - 1 + R; ++column) {
        const int ix = ox0 - s.pad + column;
        if (unsigned(ix) >= unsigned(s.w)) continue;
        const F8 v = load8(x + ((int64_t(n) * s.h + iy) * s.w + ix) * s.c + channel);
#pragma unroll
        for (int o = 0; o < strip; ++o) {
          const int q = column - o;
          if (q < 0 || q >= R) continue;
#pragma unroll
          for (int i = 0; i < 8; ++i) sum[o].v[i] = fmaf(v.v[i], taps[q < 0 || q >= R ? 0 : q].v[i], sum[o].v[i]);
        }
      }
    }
#pragma unroll 1  // the function is long
    for (int o = 0; o < strip && ox0 + o < s.ow; ++o) {
      out.store((int64_t(n) * s.oh + oy) * s.ow + ox0 + o, channel, sum[0]);
#pragma unroll
      for (int next = 1; next < strip; ++next) sum[next - 1] = sum[next];
    }
  }
}

// Any stride, dilation and kernel: one output pixel a thread.
template <class T>
__global__ void __launch_bounds__(256) plain_kernel(const __grid_constant__ ConvShape s, const T* x, const T* w,
                                                    const __grid_constant__ StoreOutput<T> out, int64_t threads) {
  wait_for_inputs();
  const int chunks = s.c / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < threads; e += int64_t(gridDim.x) * 256) {
    const int channel = int(e % chunks) * 8;
    const int64_t place = e / chunks;
    const int ox = int(place % s.ow), oy = int(place / s.ow % s.oh), n = int(place / s.ow / s.oh);
    F8 sum = zero8();
    for (int r = 0; r < s.r; ++r)
      for (int q = 0; q < s.s; ++q) {
        const int iy = oy * s.stride - s.pad + r * s.dilation, ix = ox * s.stride - s.pad + q * s.dilation;
        if (unsigned(iy) >= unsigned(s.h) || unsigned(ix) >= unsigned(s.w)) continue;
        const F8 v = load8(x + ((int64_t(n) * s.h + iy) * s.w + ix) * s.c + channel),
                 tap = load8(w + int64_t(r * s.s + q) * s.c + channel);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum.v[i] = fmaf(v.v[i], tap.v[i], sum.v[i]);
      }
    out.store(place, channel, sum);
  }
}

// Data gradient for any stride: an input pixel gathers the outputs it took part in.
template <class T>
__global__ void __launch_bounds__(256) gather_kernel(const __grid_constant__ ConvShape s, const T* dy, const T* w,
                                                     T* dx, bool accumulate, int64_t threads) {
  wait_for_inputs();
  const int chunks = s.c / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < threads; e += int64_t(gridDim.x) * 256) {
    const int channel = int(e % chunks) * 8;
    const int64_t place = e / chunks;
    const int ix = int(place % s.w), iy = int(place / s.w % s.h), n = int(place / s.w / s.h);
    F8 sum = zero8();
    for (int r = 0; r < s.r; ++r) {
      const int ty = iy + s.pad - r * s.dilation;
      if (ty < 0 || ty % s.stride || ty / s.stride >= s.oh) continue;
      for (int q = 0; q < s.s; ++q) {
        const int tx = ix + s.pad - q * s.dilation;
        if (tx < 0 || tx % s.stride || tx / s.stride >= s.ow) continue;
        const F8 g = load8(dy + ((int64_t(n) * s.oh + ty / s.stride) * s.ow + tx / s.stride) * s.c + channel);
        const F8 tap = load8(w + int64_t(r * s.s + q) * s.c + channel);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum.v[i] = fmaf(g.v[i], tap.v[i], sum.v[i]);
      }
    }
    put8(dx + e * 8, sum, accumulate);
  }
}

__device__ __forceinline__ float2 load2(const float* p) { return load_as<float2>(p); }
__device__ __forceinline__ float2 load2(const bf16* p) {
  const uint32_t word = load_as<uint32_t>(p);
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

// dw[r,q,c] = sum over output pixels of dy * x. Block: 8 warps; grid.x parts of the rows, grid.y groups of 64 channels.
template <class T, int R>
__global__ void __launch_bounds__(256)
    weight_kernel(const __grid_constant__ ConvShape s, const T* x, const T* dy, float* partial) {
  wait_for_inputs();
  __shared__ float2 sums[8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channel = blockIdx.y * 64 + lane * 2;
  const bool valid = channel < s.c;
  float2 acc[R][R];
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int q = 0; q < R; ++q) acc[r][q] = make_float2(0, 0);
  const int64_t rows = int64_t(s.n) * s.oh;
  for (int64_t row = int64_t(blockIdx.x) * 8 + warp; valid && row < rows; row += int64_t(gridDim.x) * 8) {
    const int n = int(row / s.oh), oy = int(row % s.oh);
    const T* g_row = dy + row * s.ow * s.c + channel;
    const T* x_image = x + int64_t(n) * s.h * s.w * s.c + channel;
    for (int ox = 0; ox < s.ow; ++ox) {
      const float2 g = load2(g_row + int64_t(ox) * s.c);
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int q = 0; q < R; ++q) {
          const int iy = oy * s.stride - s.pad + r * s.dilation, ix = ox * s.stride - s.pad + q * s.dilation;
          if (unsigned(iy) >= unsigned(s.h) || unsigned(ix) >= unsigned(s.w)) continue;
          const float2 v = load2(x_image + (int64_t(iy) * s.w + ix) * s.c);
          acc[r][q].x = fmaf(g.x, v.x, acc[r][q].x);
          acc[r][q].y = fmaf(g.y, v.y, acc[r][q].y);
        }
    }
  }
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int q = 0; q < R; ++q) {
      __syncthreads();
      sums[warp][lane] = acc[r][q];
      __syncthreads();
      if (warp == 0 && valid) {
        float2 total = sums[0][lane];
        for (int other = 1; other < 8; ++other) {
          total.x += sums[other][lane].x;
          total.y += sums[other][lane].y;
        }
        store_as<float2>(partial + (int64_t(blockIdx.x) * R * R + r * R + q) * s.c + channel, total);
      }
    }
}

void check_shape(const ConvShape& s) {
  LGD_CHECK(s.c % 8 == 0 && s.k == s.c, "BAD_SHAPE",
            "a depthwise convolution on CUDA needs equal channels in multiples of 8, found ", s.c, " and ", s.k);
}

}  // namespace

void depthwise_forward_cuda(Context& ctx, const ConvShape& s, DType type, const void* x, const void* w,
                            const Epilogue& e, void* y) {
  check_shape(s);
  with_type(type, [&]<class T>(T) {
    const T *from = static_cast<const T*>(x), *taps = static_cast<const T*>(w);
    const StoreOutput<T> out{
        static_cast<T*>(y), s.c, e.scale, e.shift, static_cast<const T*>(e.residual), e.act, false};
    if (s.stride == 1 && s.dilation == 1 && s.r == s.s && (s.r == 3 || s.r == 5)) {
      const int strips = (s.ow + strip - 1) / strip;
      const int64_t threads = int64_t(s.n) * s.oh * strips * (s.c / 8);
      if (s.r == 3)
        LGD_LAUNCH(ctx, (strip_kernel<T, 3>), blocks_for(threads, 256), 256, 0, s, from, taps, out, strips, threads);
      else LGD_LAUNCH(ctx, (strip_kernel<T, 5>), blocks_for(threads, 256), 256, 0, s, from, taps, out, strips, threads);
    } else {
      const int64_t threads = s.rows() * (s.c / 8);
      LGD_LAUNCH(ctx, plain_kernel<T>, blocks_for(threads, 256), 256, 0, s, from, taps, out, threads);
    }
  });
}

void depthwise_backward_data_cuda(Context& ctx, const ConvShape& s, DType type, const void* dy, const void* w, void* dx,
                                  bool accumulate) {
  check_shape(s);
  with_type(type, [&]<class T>(T) {
    const int64_t threads = int64_t(s.n) * s.h * s.w * (s.c / 8);
    LGD_LAUNCH(ctx, gather_kernel<T>, blocks_for(threads, 256), 256, 0, s, static_cast<const T*>(dy),
               static_cast<const T*>(w), static_cast<T*>(dx), accumulate, threads);
  });
}

void depthwise_backward_weight_cuda(Context& ctx, const ConvShape& s, DType type, const void* x, const void* dy,
                                    float* dw) {
  check_shape(s);
  LGD_CHECK(s.r == s.s && (s.r == 3 || s.r == 5), "BAD_SHAPE", "depthwise kernels are 3x3 or 5x5 on CUDA, found ", s.r,
            "x", s.s);
  const int groups = (s.c + 63) / 64;
  const int64_t rows = int64_t(s.n) * s.oh;
  const int splits =
      int(std::max<int64_t>(1, std::min<int64_t>((rows + 7) / 8, ctx.card.multiprocessors * 8 / groups)));
  const int64_t count = int64_t(s.r) * s.s * s.c;
  float* partial = partial_sums(ctx).take(ctx, splits, count);
  with_type(type, [&]<class T>(T) {
    const T *from = static_cast<const T*>(x), *gradient = static_cast<const T*>(dy);
    if (s.r == 3) LGD_LAUNCH(ctx, (weight_kernel<T, 3>), dim3(splits, groups), 256, 0, s, from, gradient, partial);
    else LGD_LAUNCH(ctx, (weight_kernel<T, 5>), dim3(splits, groups), 256, 0, s, from, gradient, partial);
  });
  partial_sums(ctx).add(ctx, {partial, dw, count, splits});
}

}  // namespace lgd
