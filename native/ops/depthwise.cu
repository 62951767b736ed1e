// Depthwise convolution (ops/depthwise.h) in forward-only plans, and in training whose layers are not fused
// (ops/fused_depthwise.cuh has the others, none of 7x7). Bytes at least: forward read x, write y; data read dy, write
// dx; weights read both; the arithmetic is R*S multiply-adds an element each. Forward and data: a thread has 8 channels
// of a pixel; of 7x7 kernels, whose 98 loads for each such vector would take five times as long as the memory, those of
// four neighbours (30 loads each). Weights: a warp has 64 channels, two a lane, and rows of output pixels (of 7x7
// kernels, a thread has them for one row of taps); partial sums are added in a fixed order.
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

// The same of R x R kernels for `strip` neighbours at once, which share taps and what they read. turned: by the kernel
// turned around, which makes the data gradient of it.
template <class T, int R, int strip, bool turned>
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
      for (int q = 0; q < R; ++q) {
        const int at = turned ? R * R - 1 - (r * R + q) : r * R + q;
        tap[q] = load8(w + (int64_t(at) * chunks + p.chunk) * 8);
      }
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
// partial [grid.x][R][R][C], of_bias [grid.x][C] or null. Blocks: of 5x5 left alone, ptxas spills to fit two.
template <class T, int R>
__global__ void __launch_bounds__(256, R == 3 ? 4 : 1)
    weight_kernel(const __grid_constant__ ConvShape s, const T* x, const T* dy, float* partial, float* of_bias) {
  wait_for_inputs();
  __shared__ float2 sums[8][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, channel = blockIdx.y * 64 + lane * 2;
  const bool valid = channel < s.c;
  float2 acc[R][R], bias = make_float2(0, 0);
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
      bias.x += g.x;
      bias.y += g.y;
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
  const auto write = [&](const float2& sum, float* to) {
    __syncthreads();
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || !valid) return;
    float2 total = sums[0][lane];
    for (int other = 1; other < 8; ++other) {
      total.x += sums[other][lane].x;
      total.y += sums[other][lane].y;
    }
    store_as<float2>(to + channel, total);
  };
#pragma unroll
  for (int r = 0; r < R; ++r)
#pragma unroll
    for (int q = 0; q < R; ++q) write(acc[r][q], partial + (int64_t(blockIdx.x) * R * R + r * R + q) * s.c);
  if (of_bias) write(bias, of_bias + int64_t(blockIdx.x) * s.c);
}

constexpr int most_pairs = 48;  // of channels, in a block of tap_row_kernel
constexpr int threads_for(int pairs, int taps) { return (pairs * taps + 31) / 32 * 32; }
// The same for R x R kernels of stride and dilation 1, whose R * R sums would leave no registers for what they read: a
// thread has two channels and one row of taps, r, and of each row of x that it walks the R pixels that an output meets,
// so that each is loaded once. A block has `pairs` of channels with all their taps, and rows that follow each other: it
// finds what it reads again in the first-level cache.
template <class T, int R>
__global__ void __launch_bounds__(threads_for(most_pairs, R))
    tap_row_kernel(const __grid_constant__ ConvShape s, int pairs, const T* x, const T* dy, float* partial,
                   float* of_bias) {
  wait_for_inputs();
  const int r = int(threadIdx.x) / pairs, channel = (int(blockIdx.y) * pairs + int(threadIdx.x) % pairs) * 2;
  if (r >= R || channel >= s.c) return;
  const float2 none = make_float2(0, 0);
  float2 acc[R], bias = none;
#pragma unroll
  for (float2& one : acc) one = none;
  const int64_t rows = int64_t(s.n) * s.oh, begin = rows * blockIdx.x / gridDim.x,
                end = rows * (blockIdx.x + 1) / gridDim.x;
  for (int64_t row = begin; row < end; ++row) {
    const int n = int(row / s.oh), iy = int(row % s.oh) - s.pad + r;
    const bool inside = unsigned(iy) < unsigned(s.h);
    if (inside || r == 0) {  // the first adds up dy, too
      const T* const g_row = dy + row * s.ow * s.c + channel;
      const T* const x_row = x + (int64_t(n) * s.h + iy) * s.w * s.c + channel;
      const auto pixel = [&](int ix) {
        return inside && unsigned(ix) < unsigned(s.w) ? load2(x_row + int64_t(ix) * s.c) : none;
      };
      float2 window[R];  // of output ox + j, tap q meets window[(j + q) % R]
#pragma unroll
      for (int q = 0; q < R - 1; ++q) window[q] = pixel(q - s.pad);
      const auto add = [&](int j, const float2& g) {
        if (r == 0) {
          bias.x += g.x;
          bias.y += g.y;
        }
#pragma unroll
        for (int q = 0; q < R; ++q) {
          acc[q].x = fmaf(g.x, window[(j + q) % R].x, acc[q].x);
          acc[q].y = fmaf(g.y, window[(j + q) % R].y, acc[q].y);
        }
      };
      for (int ox = 0; ox < s.ow; ox += R) {
        const int next = ox + R - 1 - s.pad;  // the first column that is not in the window
        if (inside && next >= 0 && next + R <= s.w && ox + R <= s.ow) {
          const T *from = x_row + int64_t(next) * s.c, *gradient = g_row + int64_t(ox) * s.c;
#pragma unroll
          for (int j = 0; j < R; ++j, from += s.c, gradient += s.c) {
            window[(j + R - 1) % R] = load2(from);
            add(j, load2(gradient));
          }
        } else {
#pragma unroll
          for (int j = 0; j < R; ++j) {
            window[(j + R - 1) % R] = pixel(next + j);
            add(j, ox + j < s.ow ? load2(g_row + int64_t(ox + j) * s.c) : none);
          }
        }
      }
    }
  }
#pragma unroll
  for (int q = 0; q < R; ++q)
    store_as<float2>(partial + ((int64_t(blockIdx.x) * R + r) * R + q) * s.c + channel, acc[q]);
  if (r == 0 && of_bias) store_as<float2>(of_bias + int64_t(blockIdx.x) * s.c + channel, bias);
}

void check_shape(const ConvShape& s) {
  LGD_CHECK(s.c % 8 == 0 && s.k == s.c, "BAD_SHAPE",
            "a depthwise convolution on CUDA needs equal channels in multiples of 8, found ", s.c, " and ", s.k);
}

// 7x7 kernels as ConvNeXt has them.
bool has_strips(const ConvShape& s) { return s.r == 7 && s.s == 7 && s.stride == 1 && s.dilation == 1; }

template <bool turned, class T>
void launch_strips(Context& ctx, const ConvShape& s, const T* x, const T* w, const StoreOutput<T>& out) {
  const int strips = (s.ow + strip_of<T> - 1) / strip_of<T>;
  const int64_t threads = int64_t(s.n) * s.oh * strips * (s.c / 8);
  LGD_LAUNCH(ctx, (strip_kernel<T, 7, strip_of<T>, turned>), blocks_for(threads, 256), 256, 0, s, x, w, out, strips,
             threads);
}

}  // namespace

void depthwise_forward_cuda(Context& ctx, const ConvShape& s, DType type, const void* x, const void* w,
                            const Epilogue& e, void* y) {
  check_shape(s);
  with_type(type, [&]<class T>(T) {
    const T *from = static_cast<const T*>(x), *taps = static_cast<const T*>(w);
    const StoreOutput<T> out{static_cast<T*>(y), s.c, e.scale, e.shift, static_cast<const T*>(e.residual), e.act};
    if (has_strips(s)) return launch_strips<false>(ctx, s, from, taps, out);
    const int64_t threads = s.rows() * (s.c / 8);
    LGD_LAUNCH(ctx, output_kernel<T>, blocks_for(threads, 256), 256, 0, s, from, taps, out, threads);
  });
}

void depthwise_backward_data_cuda(Context& ctx, const ConvShape& s, DType type, const void* dy, const void* w, void* dx,
                                  bool accumulate) {
  check_shape(s);
  with_type(type, [&]<class T>(T) {
    if (has_strips(s)) {
      T* const to = static_cast<T*>(dx);
      const ConvShape back{s.n, s.oh, s.ow, s.c, s.k, 7, 7, 1, 6 - s.pad, 1, s.h, s.w};
      const StoreOutput<T> out{to, s.c, nullptr, nullptr, accumulate ? to : nullptr, Act::none};
      return launch_strips<true>(ctx, back, static_cast<const T*>(dy), static_cast<const T*>(w), out);
    }
    const int64_t threads = int64_t(s.n) * s.h * s.w * (s.c / 8);
    LGD_LAUNCH(ctx, gather_kernel<T>, blocks_for(threads, 256), 256, 0, s, static_cast<const T*>(dy),
               static_cast<const T*>(w), static_cast<T*>(dx), accumulate, threads);
  });
}

void depthwise_backward_weight_cuda(Context& ctx, const ConvShape& s, DType type, const void* x, const void* dy,
                                    float* dw, float* d_bias) {
  check_shape(s);
  LGD_CHECK(s.r == s.s && (s.r == 3 || s.r == 5 || s.r == 7), "BAD_SHAPE",
            "depthwise kernels are 3x3, 5x5 or 7x7 on CUDA, found ", s.r, "x", s.s);
  const bool by_rows = has_strips(s);
  const int taps = s.r * s.s, groups = by_rows ? (s.c / 2 + most_pairs - 1) / most_pairs : (s.c + 63) / 64;
  const int pairs = (s.c / 2 + groups - 1) / groups, threads = by_rows ? threads_for(pairs, 7) : 256;
  // Threads that fit a multiprocessor by their registers, some 80, or eight blocks; at least eight rows a block.
  const int64_t passes = (int64_t(s.n) * s.oh + 7) / 8,
                blocks = int64_t(ctx.card.multiprocessors) * (by_rows ? 672 : 2048) / (threads * groups);
  const int splits = int(std::max<int64_t>(1, std::min<int64_t>(passes, blocks)));
  float* const partial = partial_sums(ctx).take(ctx, splits * (taps + (d_bias ? 1 : 0)), s.c);
  float* const of_bias = d_bias ? partial + int64_t(splits) * taps * s.c : nullptr;
  const dim3 grid(splits, groups);
  with_type(type, [&]<class T>(T) {
    const T *from = static_cast<const T*>(x), *gradient = static_cast<const T*>(dy);
    if (by_rows) LGD_LAUNCH(ctx, (tap_row_kernel<T, 7>), grid, threads, 0, s, pairs, from, gradient, partial, of_bias);
    else if (s.r == 3) LGD_LAUNCH(ctx, (weight_kernel<T, 3>), grid, 256, 0, s, from, gradient, partial, of_bias);
    else if (s.r == 5) LGD_LAUNCH(ctx, (weight_kernel<T, 5>), grid, 256, 0, s, from, gradient, partial, of_bias);
    else LGD_LAUNCH(ctx, (weight_kernel<T, 7>), grid, 256, 0, s, from, gradient, partial, of_bias);
  });
  const PartialSum weights{partial, dw, int64_t(taps) * s.c, splits};
  if (d_bias) partial_sums(ctx).add(ctx, {weights, {of_bias, d_bias, s.c, splits}});
  else partial_sums(ctx).add(ctx, {weights});
}

}  // namespace lgd
