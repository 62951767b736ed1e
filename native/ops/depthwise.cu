// Depthwise convolution (ops/depthwise.h) in forward-only plans, and in training whose layers are not fused
// (ops/fused_depthwise.cuh has the others). Bytes at least: forward read x, write y; the arithmetic is R*S multiply-adds
// an element. Forward and data: a thread has 8 channels of a pixel; of 7x7 kernels, whose 98 loads for each such vector
// would take five times as long as the memory, forward, those of four neighbours (30 loads each). Weights: a warp has 64
// channels, two a lane, and rows of output pixels; partial sums are added in a fixed order.
#include "ops/depthwise.h"
#include "ops/grids.cuh"
#include "ops/partial_sums.h"
#include "ops/store_output.cuh"

namespace lgd {

namespace {

// Two blocks a multiprocessor: left alone, ptxas spills to fit a third.
template <class T>
__global__ void __launch_bounds__(256, 2) output_kernel(const __grid_constant__ ConvShape s, const T* x, const T* w,
                                                        const __grid_constant__ StoreOutput<T> out, int64_t threads) {
  wait_for_inputs();
  const int chunks = s.c / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < threads; e += int64_t(gridDim.x) * 256) {
    const VectorPlace p = vector_place(e, s.oh, s.ow, chunks);
    F8 sum = zero8();
    for (int r = 0; r < s.r; ++r)
      for (int q = 0; q < s.s; ++q) {
        const int iy = p.y * s.stride - s.pad + r * s.dilation, ix = p.x * s.stride - s.pad + q * s.dilation;
        if (unsigned(iy) >= unsigned(s.h) || unsigned(ix) >= unsigned(s.w)) continue;
        const F8 v = load8(vector_at(x, p, iy, ix, s.h, s.w, chunks)),
                 tap = load8(w + (int64_t(r * s.s + q) * chunks + p.chunk) * 8);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum.v[i] = fmaf(v.v[i], tap.v[i], sum.v[i]);
      }
    F8 scale, shift;
    out.prepare(p.chunk * 8, scale, shift);
    out.store(e / chunks, p.chunk * 8, sum, out.fetch(e / chunks, p.chunk * 8), scale, shift);
  }
}

// Neighbours in a row that a thread has of 7x7 kernels. Of float32 four would not fit into registers beside the taps.
template <class T>
constexpr int strip_of = sizeof(T) == 2 ? 4 : 2;

// The same of R x R kernels for `strip` neighbours at once, which share taps and what they read.
template <class T, int R, int strip>
__global__ void __launch_bounds__(256, 2)
    strip_kernel(const __grid_constant__ ConvShape s, const T* x, const T* w,
                 const __grid_constant__ StoreOutput<T> out, int strips, int64_t threads) {
  wait_for_inputs();
  const int chunks = s.c / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < threads; e += int64_t(gridDim.x) * 256) {
    const VectorPlace p = vector_place(e, s.oh, strips, chunks);
    const int first = p.x * strip;
    F8 sum[strip];
#pragma unroll
    for (F8& one : sum) one = zero8();
    for (int r = 0; r < R; ++r) {
      const int iy = p.y - s.pad + r;
      if (unsigned(iy) >= unsigned(s.h)) continue;
      F8 tap[R];
#pragma unroll
      for (int q = 0; q < R; ++q) tap[q] = load8(w + (int64_t(r * R + q) * chunks + p.chunk) * 8);
#pragma unroll
      for (int i = 0; i < strip + R - 1; ++i) {
        const int ix = first - s.pad + i;
        if (unsigned(ix) >= unsigned(s.w)) continue;
        const F8 v = load8(vector_at(x, p, iy, ix, s.h, s.w, chunks));
#pragma unroll
        for (int j = 0; j < strip; ++j) {
          if (i < j || i - j >= R) continue;
#pragma unroll
          for (int k = 0; k < 8; ++k) sum[j].v[k] = fmaf(v.v[k], tap[i - j].v[k], sum[j].v[k]);
        }
      }
    }
    F8 scale, shift;
    out.prepare(p.chunk * 8, scale, shift);
    const int64_t row = (int64_t(p.n) * s.oh + p.y) * s.ow + first;
#pragma unroll
    for (int j = 0; j < strip; ++j)
      if (first + j < s.ow) out.store(row + j, p.chunk * 8, sum[j], out.fetch(row + j, p.chunk * 8), scale, shift);
  }
}

// Data gradient: an input pixel gathers the outputs it took part in.
template <class T>
__global__ void __launch_bounds__(256) gather_kernel(const __grid_constant__ ConvShape s, const T* dy, const T* w,
                                                     T* dx, bool accumulate, int64_t threads) {
  wait_for_inputs();
  const int chunks = s.c / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < threads; e += int64_t(gridDim.x) * 256) {
    const VectorPlace p = vector_place(e, s.h, s.w, chunks);
    F8 sum = zero8();
    for (int r = 0; r < s.r; ++r) {
      const int ty = p.y + s.pad - r * s.dilation;
      if (ty < 0 || ty % s.stride || ty / s.stride >= s.oh) continue;
      for (int q = 0; q < s.s; ++q) {
        const int tx = p.x + s.pad - q * s.dilation;
        if (tx < 0 || tx % s.stride || tx / s.stride >= s.ow) continue;
        const F8 g = load8(vector_at(dy, p, ty / s.stride, tx / s.stride, s.oh, s.ow, chunks)),
                 tap = load8(w + (int64_t(r * s.s + q) * chunks + p.chunk) * 8);
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
    const StoreOutput<T> out{static_cast<T*>(y), s.c, e.scale, e.shift, static_cast<const T*>(e.residual), e.act};
    if (s.r == 7 && s.s == 7 && s.stride == 1 && s.dilation == 1) {
      const int strips = (s.ow + strip_of<T> - 1) / strip_of<T>;
      const int64_t threads = int64_t(s.n) * s.oh * strips * (s.c / 8);
      LGD_LAUNCH(ctx, (strip_kernel<T, 7, strip_of<T>>), blocks_for(threads, 256), 256, 0, s, from, taps, out, strips,
                 threads);
      return;
    }
    const int64_t threads = s.rows() * (s.c / 8);
    LGD_LAUNCH(ctx, output_kernel<T>, blocks_for(threads, 256), 256, 0, s, from, taps, out, threads);
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
