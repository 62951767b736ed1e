// Average pooling (ops/pool.h; max_pool.cu has the other): a thread has 8 channels of one pixel and gathers.
// Memory-bound: x is read and y written once, backward dy read and dx written. The mean of a whole image is
// fused_gate.cu's squeeze.
#include "core/cuda_device.cuh"
#include "ops/fused.h"
#include "ops/grids.cuh"

namespace lgd {

namespace {

template <class T>
__global__ void __launch_bounds__(256) avg_pool_kernel(PoolShape s, int64_t vectors, const T* x, T* y) {
  wait_for_inputs();
  const int chunks = s.c / 8;
  const float share = 1.f / float(s.kernel * s.kernel);
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const VectorPlace p = vector_place(e, s.oh, s.ow, chunks);
    F8 sum = zero8();
    for (int r = 0; r < s.kernel; ++r)
      for (int q = 0; q < s.kernel; ++q) {
        const F8 v = load8(vector_at(x, p, p.y * s.kernel + r, p.x * s.kernel + q, s.h, s.w, chunks));
#pragma unroll
        for (int i = 0; i < 8; ++i) sum.v[i] += v.v[i];
      }
#pragma unroll
    for (int i = 0; i < 8; ++i) sum.v[i] *= share;
    store8(y + e * 8, sum);
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    avg_pool_backward_kernel(PoolShape s, int64_t vectors, const T* dy, T* dx, bool accumulate) {
  wait_for_inputs();
  const int chunks = s.c / 8;
  const float share = 1.f / float(s.kernel * s.kernel);
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const VectorPlace p = vector_place(e, s.h, s.w, chunks);
    F8 g = zero8();
    if (p.y / s.kernel < s.oh && p.x / s.kernel < s.ow)
      g = load8(vector_at(dy, p, p.y / s.kernel, p.x / s.kernel, s.oh, s.ow, chunks));
#pragma unroll
    for (int i = 0; i < 8; ++i) g.v[i] *= share;
    put8(dx + e * 8, g, accumulate);
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    global_pool_backward_kernel(int64_t vectors, int64_t pixels, int chunks, const T* dy, T* dx, bool accumulate) {
  wait_for_inputs();
  const float share = 1.f / float(pixels);
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    F8 g = load8(dy + (e / chunks / pixels * chunks + e % chunks) * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) g.v[i] *= share;
    put8(dx + e * 8, g, accumulate);
  }
}

}  // namespace

void avg_pool_forward_cuda(Context& ctx, const PoolShape& s, DType type, const void* x, void* y) {
  const int64_t vectors = int64_t(s.n) * s.oh * s.ow * s.c / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, avg_pool_kernel<T>, elementwise_blocks(ctx, vectors), 256, 0, s, vectors, static_cast<const T*>(x),
               static_cast<T*>(y));
  });
}

void avg_pool_backward_cuda(Context& ctx, const PoolShape& s, DType type, const void* dy, void* dx, bool accumulate) {
  const int64_t vectors = int64_t(s.n) * s.h * s.w * s.c / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, avg_pool_backward_kernel<T>, elementwise_blocks(ctx, vectors), 256, 0, s, vectors,
               static_cast<const T*>(dy), static_cast<T*>(dx), accumulate);
  });
}

void global_pool_forward_cuda(Context& ctx, int n, int64_t pixels, int c, DType type, const void* x, void* y) {
  squeeze_forward_cuda(ctx, {n, pixels, c}, type, {x}, y);
}

void global_pool_backward_cuda(Context& ctx, int n, int64_t pixels, int c, DType type, const void* dy, void* dx,
                               bool accumulate) {
  const int64_t vectors = n * pixels * c / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, global_pool_backward_kernel<T>, elementwise_blocks(ctx, vectors), 256, 0, vectors, pixels, c / 8,
               static_cast<const T*>(dy), static_cast<T*>(dx), accumulate);
  });
}

}  // namespace lgd
