// Bilinear enlargement (ops/resize.h): a thread has 8 channels of one pixel and gathers, forward 4 pixels, backward at
// most (2f)^2, which neighbours find in level-1 cache. Memory-bound: x read, y written once.
#include "core/cuda_device.cuh"
#include "ops/grids.cuh"
#include "ops/resize.h"

namespace lgd {

namespace {

template <class T>
__global__ void __launch_bounds__(256) resize_kernel(ResizeShape s, int64_t vectors, const T* x, T* y) {
  wait_for_inputs();
  const int chunks = s.c / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const VectorPlace p = vector_place(e, s.oh(), s.ow(), chunks);
    const ResizeTap across = resize_tap(p.x, s.w, s.factor), down = resize_tap(p.y, s.h, s.factor);
    const auto at = [&](int row, int column) { return load8(vector_at(x, p, row, column, s.h, s.w, chunks)); };
    const F8 a = at(down.low, across.low), b = at(down.low, across.high), c = at(down.high, across.low),
             d = at(down.high, across.high);
    F8 out;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float above = a.v[i] + across.weight * (b.v[i] - a.v[i]),
                  below = c.v[i] + across.weight * (d.v[i] - c.v[i]);
      out.v[i] = above + down.weight * (below - above);
    }
    store8(y + e * 8, out);
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    resize_backward_kernel(ResizeShape s, int64_t vectors, const T* dy, T* dx, bool accumulate) {
  wait_for_inputs();
  const int chunks = s.c / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const VectorPlace p = vector_place(e, s.h, s.w, chunks);
    F8 sum = zero8();
    for (int oy = resize_first(p.y, s.factor); oy < resize_last(p.y, s.h, s.factor); ++oy) {
      const float down = resize_tap(oy, s.h, s.factor).of(p.y);
      for (int ox = resize_first(p.x, s.factor); ox < resize_last(p.x, s.w, s.factor); ++ox) {
        const float weight = down * resize_tap(ox, s.w, s.factor).of(p.x);
        if (weight == 0.f) continue;
        const F8 g = load8(vector_at(dy, p, oy, ox, s.oh(), s.ow(), chunks));
#pragma unroll
        for (int i = 0; i < 8; ++i) sum.v[i] += weight * g.v[i];
      }
    }
    put8(dx + e * 8, sum, accumulate);
  }
}

}  // namespace

void resize_forward_cuda(Context& ctx, const ResizeShape& s, DType type, const void* x, void* y) {
  const int64_t vectors = int64_t(s.n) * s.oh() * s.ow() * s.c / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, resize_kernel<T>, elementwise_blocks(ctx, vectors), 256, 0, s, vectors, static_cast<const T*>(x),
               static_cast<T*>(y));
  });
}

void resize_backward_cuda(Context& ctx, const ResizeShape& s, DType type, const void* dy, void* dx, bool accumulate) {
  const int64_t vectors = int64_t(s.n) * s.h * s.w * s.c / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, resize_backward_kernel<T>, elementwise_blocks(ctx, vectors), 256, 0, s, vectors,
               static_cast<const T*>(dy), static_cast<T*>(dx), accumulate);
  });
}

}  // namespace lgd
