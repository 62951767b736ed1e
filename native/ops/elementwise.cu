// Elementwise operations (ops/elementwise.h): 8 elements (16 bytes of bf16) a thread, grid-stride. All bound by memory:
// each reads its inputs and writes its result once (a sum is read besides); channel_scale_backward reads dy twice, for
// dx and for ds.
#include "ops/drop.cuh"
#include "ops/grids.cuh"
#include "ops/reduce.cuh"
#include "ops/store_output.cuh"

namespace lgd {

namespace {

template <class T>
__global__ void __launch_bounds__(256) act_kernel(int64_t vectors, OutputAct act, const T* x, T* y) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    F8 v = load8(x + e * 8);
    act.apply(v);
    store8(y + e * 8, v);
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    act_backward_kernel(int64_t vectors, Act act, const T* x, const T* dy, T* dx, bool accumulate) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const F8 v = load8(x + e * 8);
    F8 g = load8(dy + e * 8);
    choose_any_act(act, [&](auto f) {
#pragma unroll
      for (int i = 0; i < 8; ++i) g.v[i] *= f.slope(v.v[i]);
    });
    put8(dx + e * 8, g, accumulate);
  }
}

template <class T>
__global__ void __launch_bounds__(256) add_kernel(int64_t vectors, const T* a, const T* b, T* y) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    F8 x = load8(a + e * 8);
    const F8 z = load8(b + e * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) x.v[i] += z.v[i];
    store8(y + e * 8, x);
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    scale_kernel(ScaleShape shape, int64_t vectors, const T* x, const T* s, T* y, bool accumulate) {
  wait_for_inputs();
  const int chunks = shape.channels / 8;
  const int64_t per_image = shape.pixels * chunks;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    F8 v = load8(x + e * 8);
    const F8 k = load8(s + (e / per_image * chunks + e % chunks) * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) v.v[i] *= k.v[i];
    put8(y + e * 8, v, accumulate);
  }
}

// ds[n,c] = sum over the pixels of dy * x. A block has an image.
template <class T>
__global__ void __launch_bounds__(256)
    scale_sums_kernel(ScaleShape shape, ColumnWalk walk, const T* x, const T* dy, T* ds) {
  wait_for_inputs();
  int chunk;
  F8 sum = zero8();
  const bool valid = chunk_of(walk, chunk);
  if (valid)
    for (int64_t p = threadIdx.x / walk.width; p < shape.pixels; p += walk.rows_per_pass) {
      const int64_t at = ((int64_t(blockIdx.x) * shape.pixels + p) * walk.chunks + chunk) * 8;
      const F8 a = load8(x + at), b = load8(dy + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) sum.v[i] = fmaf(a.v[i], b.v[i], sum.v[i]);
    }
  sum_walk_rows(sum, walk);
  if (valid && int(threadIdx.x) < walk.width) store8(ds + (int64_t(blockIdx.x) * walk.chunks + chunk) * 8, sum);
}

template <class T>
__global__ void __launch_bounds__(256) drop_kernel(DropShape shape, const T* x, T* y, bool accumulate) {
  wait_for_inputs();
  const int64_t vectors = shape.count / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    F8 v = load8(x + e * 8);
    if (shape.channels != shape.stored) {
      const int64_t row = e * 8 / shape.stored, first = e * 8 - row * (shape.stored - shape.channels);
#pragma unroll
      // what fills the row up is zero, whatever is drawn
      for (int i = 0; i < 8; ++i) v.v[i] *= keep_of_unit(shape, first + i);
    } else if (shape.elements_per_unit == 1) {
      const Philox4 first = draw_four(shape, e * 2), second = draw_four(shape, e * 2 + 1);
#pragma unroll
      for (int i = 0; i < 8; ++i) v.v[i] *= keep_of(shape, i < 4 ? first.word[i] : second.word[i - 4]);
    } else {
      const float keep = keep_of_unit(shape, e * 8 / shape.elements_per_unit);  // a multiple of 8 elements an image
#pragma unroll
      for (int i = 0; i < 8; ++i) v.v[i] *= keep;
    }
    put8(y + e * 8, v, accumulate);
  }
}

}  // namespace

void act_forward_cuda(Context& ctx, int64_t count, DType type, Act act, const void* x, void* y) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, act_kernel<T>, elementwise_blocks(ctx, count / 8), 256, 0, count / 8, OutputAct(act),
               static_cast<const T*>(x), static_cast<T*>(y));
  });
}

void act_backward_cuda(Context& ctx, int64_t count, DType type, Act act, const void* x, const void* dy, void* dx,
                       bool accumulate) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, act_backward_kernel<T>, elementwise_blocks(ctx, count / 8), 256, 0, count / 8, act,
               static_cast<const T*>(x), static_cast<const T*>(dy), static_cast<T*>(dx), accumulate);
  });
}

void add_forward_cuda(Context& ctx, int64_t count, DType type, const void* a, const void* b, void* y) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, add_kernel<T>, elementwise_blocks(ctx, count / 8), 256, 0, count / 8, static_cast<const T*>(a),
               static_cast<const T*>(b), static_cast<T*>(y));
  });
}

void channel_scale_forward_cuda(Context& ctx, const ScaleShape& shape, DType type, const void* x, const void* s,
                                void* y) {
  const int64_t vectors = shape.n * shape.pixels * shape.channels / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, scale_kernel<T>, elementwise_blocks(ctx, vectors), 256, 0, shape, vectors, static_cast<const T*>(x),
               static_cast<const T*>(s), static_cast<T*>(y), false);
  });
}

void channel_scale_backward_cuda(Context& ctx, const ScaleShape& shape, DType type, const void* x, const void* s,
                                 const void* dy, void* dx, bool accumulate_dx, void* ds) {
  const int64_t vectors = shape.n * shape.pixels * shape.channels / 8;
  const ColumnWalk walk = column_walk(ctx, shape.pixels, shape.channels);
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, scale_kernel<T>, elementwise_blocks(ctx, vectors), 256, 0, shape, vectors,
               static_cast<const T*>(dy), static_cast<const T*>(s), static_cast<T*>(dx), accumulate_dx);
    LGD_LAUNCH(ctx, scale_sums_kernel<T>, dim3(shape.n, walk.groups), 256, 0, shape, walk, static_cast<const T*>(x),
               static_cast<const T*>(dy), static_cast<T*>(ds));
  });
}

void drop_forward_cuda(Context& ctx, const DropShape& shape, DType type, const void* x, void* y) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, drop_kernel<T>, elementwise_blocks(ctx, shape.count / 8), 256, 0, shape, static_cast<const T*>(x),
               static_cast<T*>(y), false);
  });
}

void drop_backward_cuda(Context& ctx, const DropShape& shape, DType type, const void* dy, void* dx, bool accumulate) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, drop_kernel<T>, elementwise_blocks(ctx, shape.count / 8), 256, 0, shape, static_cast<const T*>(dy),
               static_cast<T*>(dx), accumulate);
  });
}

}  // namespace lgd
