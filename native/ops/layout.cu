// Conversions at the borders of a graph (ops/layout.h): memory-bound, an element a thread at a time, once a pass.
#include "core/cuda_device.cuh"
#include "ops/layout.h"

namespace lgd {

namespace {

template <class T>
__global__ void widen_kernel(int64_t pixels, const T* x, T* out) {
  wait_for_inputs();
  for (int64_t p = int64_t(blockIdx.x) * 256 + threadIdx.x; p < pixels; p += int64_t(gridDim.x) * 256) {
    F8 v = zero8();
    for (int c = 0; c < 4; ++c) v.v[c] = load1(x + p * 4 + c);
    store8(out + p * 8, v);
  }
}

template <class T>
__global__ void unpack_kernel(int64_t count, int channels, int stored, const T* x, float* out) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < count; e += int64_t(gridDim.x) * 256)
    out[e] = load1(x + e / channels * stored + e % channels);
}

template <class T>
__global__ void pack_kernel(int64_t count, int channels, int stored, const float* d_out, T* dx) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < count; e += int64_t(gridDim.x) * 256) {
    const int64_t row = e / stored, c = e % stored;
    store1(dx + e, c < channels ? d_out[row * channels + c] : 0.f);
  }
}

__global__ void cast_kernel(int64_t count, const float* from, bf16* out) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < count; e += int64_t(gridDim.x) * 256)
    out[e] = __float2bfloat16_rn(from[e]);
}

}  // namespace

void widen_images_cuda(Context& ctx, int64_t pixels, DType type, const void* x, void* out) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, widen_kernel<T>, blocks_for(pixels, 256), 256, 0, pixels, static_cast<const T*>(x),
               static_cast<T*>(out));
  });
}

void unpack_output_cuda(Context& ctx, int64_t rows, int channels, int stored, DType type, const void* x, float* out) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, unpack_kernel<T>, blocks_for(rows * channels, 256), 256, 0, rows * channels, channels, stored,
               static_cast<const T*>(x), out);
  });
}

void pack_gradient_cuda(Context& ctx, int64_t rows, int channels, int stored, DType type, const float* d_out,
                        void* dx) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, pack_kernel<T>, blocks_for(rows * stored, 256), 256, 0, rows * stored, channels, stored, d_out,
               static_cast<T*>(dx));
  });
}

void cast_cuda(Context& ctx, int64_t count, DType to, const float* from, void* out) {
  if (to == DType::f32) {
    ctx.copy(out, from, size_t(count) * 4);
    return;
  }
  LGD_LAUNCH(ctx, cast_kernel, blocks_for(count, 256), 256, 0, count, from, static_cast<bf16*>(out));
}

}  // namespace lgd
