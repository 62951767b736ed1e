// Layer norm (ops/layer_norm.h): a warp a row, 8 channels a lane at a time. It must read x and write y once, 4 bytes a
// value in bfloat16; the second and the third pass find the row, some kilobytes, in the first-level cache.
#include "core/cuda_device.cuh"
#include "ops/layer_norm.h"

namespace lgd {
namespace {

template <class T>
__global__ void __launch_bounds__(128)
    layer_norm_kernel(LayerNormShape s, const T* x, const float* weight, const float* bias, T* y) {
  wait_for_inputs();
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t(blockIdx.x) * 4 + threadIdx.x / 32;
  if (row >= s.rows) return;
  const T* from = x + row * s.channels;
  float sum = 0;
  for (int c = lane * 8; c < s.channels; c += 256) {
    const F8 v = load8(from + c);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += v.v[i];
  }
  const float mean = sum_of_warp(sum) / float(s.channels);
  float square = 0;
  for (int c = lane * 8; c < s.channels; c += 256) {
    const F8 v = load8(from + c);
#pragma unroll
    for (int i = 0; i < 8; ++i) square = fmaf(v.v[i] - mean, v.v[i] - mean, square);
  }
  const float rstd = rsqrtf(sum_of_warp(square) / float(s.channels) + s.eps);
  for (int c = lane * 8; c < s.channels; c += 256) {
    F8 v = load8(from + c);
    const F8 k = load8(weight + c), b = load8(bias + c);
#pragma unroll
    for (int i = 0; i < 8; ++i) v.v[i] = fmaf((v.v[i] - mean) * rstd, k.v[i], b.v[i]);
    store8(y + row * s.channels + c, v);
  }
}

}  // namespace

void layer_norm_forward_cuda(Context& ctx, const LayerNormShape& s, DType type, const void* x, const float* weight,
                             const float* bias, void* y) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, layer_norm_kernel<T>, unsigned((s.rows + 3) / 4), 128, 0, s, static_cast<const T*>(x), weight, bias,
               static_cast<T*>(y));
  });
}

}  // namespace lgd
