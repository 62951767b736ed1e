// Pooling (ops/pool.h): a thread has 8 channels of one pixel and gathers; nothing is scattered, so results never vary.
#include "ops/pool.h"
#include "ops/reduce.cuh"

namespace lgd {

namespace {

// The pixel and channel chunk of flat vector e of [n][h][w][chunks].
struct Place { int n, y, x, chunk; };
__device__ __forceinline__ Place place_of(int64_t e, int h, int w, int chunks) {
  const int chunk = int(e % chunks);
  const int64_t pixel = e / chunks;
  const int x = int(pixel % w), y = int(pixel / w % h);
  return {int(pixel / w / h), y, x, chunk};
}

template <class T>
__device__ __forceinline__ const T* pixel_at(const T* base, const Place& p, int y, int x, int h, int w, int chunks) {
  return base + (((int64_t(p.n) * h + y) * w + x) * chunks + p.chunk) * 8;
}

template <class T>
__global__ void __launch_bounds__(256) max_pool_kernel(PoolShape s, int64_t vectors, const T* x, T* y) {
  const int chunks = s.c / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const Place p = place_of(e, s.oh, s.ow, chunks);
    F8 best;
#pragma unroll
    for (int i = 0; i < 8; ++i) best.v[i] = -INFINITY;
    for (int r = 0; r < s.kernel; ++r)
      for (int q = 0; q < s.kernel; ++q) {
        const int iy = p.y * s.stride - s.pad + r, ix = p.x * s.stride - s.pad + q;
        if (unsigned(iy) >= unsigned(s.h) || unsigned(ix) >= unsigned(s.w)) continue;
        const F8 v = load8(pixel_at(x, p, iy, ix, s.h, s.w, chunks));
#pragma unroll
        for (int i = 0; i < 8; ++i) best.v[i] = v.v[i] > best.v[i] || v.v[i] != v.v[i] ? v.v[i] : best.v[i];
      }
    store8(y + e * 8, best);
  }
}

// For each window that holds this input element: did it win (first maximum in row-major order)?
template <class T>
__global__ void __launch_bounds__(256) max_pool_backward_kernel(PoolShape s, int64_t vectors, const T* x, const T* dy, T* dx, bool accumulate) {
  const int chunks = s.c / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const Place p = place_of(e, s.h, s.w, chunks);
    const F8 mine = load8(x + e * 8);
    F8 sum = zero8();
    const int oy_first = max(0, (p.y + s.pad - s.kernel + s.stride) / s.stride), oy_last = min(s.oh - 1, (p.y + s.pad) / s.stride);
    const int ox_first = max(0, (p.x + s.pad - s.kernel + s.stride) / s.stride), ox_last = min(s.ow - 1, (p.x + s.pad) / s.stride);
    for (int oy = oy_first; oy <= oy_last; ++oy)
      for (int ox = ox_first; ox <= ox_last; ++ox) {
        uint32_t won = 0xff;
        for (int r = 0; r < s.kernel; ++r)
          for (int q = 0; q < s.kernel; ++q) {
            const int iy = oy * s.stride - s.pad + r, ix = ox * s.stride - s.pad + q;
            if (unsigned(iy) >= unsigned(s.h) || unsigned(ix) >= unsigned(s.w) || (iy == p.y && ix == p.x)) continue;
            const bool before = iy < p.y || (iy == p.y && ix < p.x);
            const F8 v = load8(pixel_at(x, p, iy, ix, s.h, s.w, chunks));
#pragma unroll
            for (int i = 0; i < 8; ++i)
              if (v.v[i] > mine.v[i] || (before && v.v[i] == mine.v[i])) won &= ~(1u << i);
          }
        const F8 g = load8(pixel_at(dy, p, oy, ox, s.oh, s.ow, chunks));
#pragma unroll
        for (int i = 0; i < 8; ++i)
          if (won >> i & 1) sum.v[i] += g.v[i];
      }
    put8(dx + e * 8, sum, accumulate);
  }
}

template <class T>
__global__ void __launch_bounds__(256) avg_pool_kernel(PoolShape s, int64_t vectors, const T* x, T* y) {
  const int chunks = s.c / 8;
  const float share = 1.f / float(s.kernel * s.kernel);
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const Place p = place_of(e, s.oh, s.ow, chunks);
    F8 sum = zero8();
    for (int r = 0; r < s.kernel; ++r)
      for (int q = 0; q < s.kernel; ++q) {
        const F8 v = load8(pixel_at(x, p, p.y * s.kernel + r, p.x * s.kernel + q, s.h, s.w, chunks));
#pragma unroll
        for (int i = 0; i < 8; ++i) sum.v[i] += v.v[i];
      }
#pragma unroll
    for (int i = 0; i < 8; ++i) sum.v[i] *= share;
    store8(y + e * 8, sum);
  }
}

template <class T>
__global__ void __launch_bounds__(256) avg_pool_backward_kernel(PoolShape s, int64_t vectors, const T* dy, T* dx, bool accumulate) {
  const int chunks = s.c / 8;
  const float share = 1.f / float(s.kernel * s.kernel);
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const Place p = place_of(e, s.h, s.w, chunks);
    F8 g = zero8();
    if (p.y / s.kernel < s.oh && p.x / s.kernel < s.ow) g = load8(pixel_at(dy, p, p.y / s.kernel, p.x / s.kernel, s.oh, s.ow, chunks));
#pragma unroll
    for (int i = 0; i < 8; ++i) g.v[i] *= share;
    put8(dx + e * 8, g, accumulate);
  }
}

// Block: 32 channel chunks x 8 rows of pixels of one image.
template <class T>
__global__ void __launch_bounds__(256) global_pool_kernel(int64_t pixels, int chunks, const T* x, T* y) {
  const int chunk = blockIdx.x * 32 + threadIdx.x;
  F8 sum = zero8();
  if (chunk < chunks)
    for (int64_t p = threadIdx.y; p < pixels; p += 8) {
      const F8 v = load8(x + ((int64_t(blockIdx.y) * pixels + p) * chunks + chunk) * 8);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum.v[i] += v.v[i];
    }
  sum = sum_block_rows(sum);
  if (threadIdx.y != 0 || chunk >= chunks) return;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum.v[i] /= float(pixels);
  store8(y + (int64_t(blockIdx.y) * chunks + chunk) * 8, sum);
}

template <class T>
__global__ void __launch_bounds__(256) global_pool_backward_kernel(int64_t vectors, int64_t pixels, int chunks, const T* dy, T* dx, bool accumulate) {
  const float share = 1.f / float(pixels);
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    F8 g = load8(dy + (e / chunks / pixels * chunks + e % chunks) * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) g.v[i] *= share;
    put8(dx + e * 8, g, accumulate);
  }
}

unsigned grid_for(int64_t vectors) { return blocks_for(vectors, 256, 132 * 16); }

}  // namespace

void max_pool_forward_cuda(Context& ctx, const PoolShape& s, DType type, const void* x, void* y) {
  const int64_t vectors = int64_t(s.n) * s.oh * s.ow * s.c / 8;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    LGD_LAUNCH(ctx, max_pool_kernel<T>, grid_for(vectors), 256, 0, s, vectors, static_cast<const T*>(x), static_cast<T*>(y));
  });
}

void max_pool_backward_cuda(Context& ctx, const PoolShape& s, DType type, const void* x, const void* dy, void* dx, bool accumulate) {
  const int64_t vectors = int64_t(s.n) * s.h * s.w * s.c / 8;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    LGD_LAUNCH(ctx, max_pool_backward_kernel<T>, grid_for(vectors), 256, 0, s, vectors, static_cast<const T*>(x), static_cast<const T*>(dy),
               static_cast<T*>(dx), accumulate);
  });
}

void avg_pool_forward_cuda(Context& ctx, const PoolShape& s, DType type, const void* x, void* y) {
  const int64_t vectors = int64_t(s.n) * s.oh * s.ow * s.c / 8;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    LGD_LAUNCH(ctx, avg_pool_kernel<T>, grid_for(vectors), 256, 0, s, vectors, static_cast<const T*>(x), static_cast<T*>(y));
  });
}

void avg_pool_backward_cuda(Context& ctx, const PoolShape& s, DType type, const void* dy, void* dx, bool accumulate) {
  const int64_t vectors = int64_t(s.n) * s.h * s.w * s.c / 8;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    LGD_LAUNCH(ctx, avg_pool_backward_kernel<T>, grid_for(vectors), 256, 0, s, vectors, static_cast<const T*>(dy), static_cast<T*>(dx), accumulate);
  });
}

void global_pool_forward_cuda(Context& ctx, int n, int64_t pixels, int c, DType type, const void* x, void* y) {
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    LGD_LAUNCH(ctx, global_pool_kernel<T>, dim3((c / 8 + 31) / 32, n), dim3(32, 8), 0, pixels, c / 8, static_cast<const T*>(x), static_cast<T*>(y));
  });
}

void global_pool_backward_cuda(Context& ctx, int n, int64_t pixels, int c, DType type, const void* dy, void* dx, bool accumulate) {
  const int64_t vectors = n * pixels * c / 8;
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    LGD_LAUNCH(ctx, global_pool_backward_kernel<T>, grid_for(vectors), 256, 0, vectors, pixels, c / 8, static_cast<const T*>(dy), static_cast<T*>(dx),
               accumulate);
  });
}

}  // namespace lgd
