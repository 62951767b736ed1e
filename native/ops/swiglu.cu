// ops/swiglu.h: 8 channels a thread. Memory-bound: 2 values are read and one written for each of y.
#include "core/cuda_device.cuh"
#include "ops/swiglu.h"

namespace lgd {
namespace {

template <class T>
__global__ void __launch_bounds__(256) swiglu_kernel(int64_t vectors, int channels, const T* x, T* y) {
  wait_for_inputs();
  const int chunks = channels / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const T* from = x + e / chunks * 2 * channels + e % chunks * 8;
    F8 gate = load8(from);
    const F8 value = load8(from + channels);
#pragma unroll
    for (int i = 0; i < 8; ++i) gate.v[i] = act_of<Act::silu>(gate.v[i]) * value.v[i];
    store8(y + e * 8, gate);
  }
}

}  // namespace

void swiglu_forward_cuda(Context& ctx, int64_t rows, int channels, DType type, const void* x, void* y) {
  const int64_t vectors = rows * channels / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, swiglu_kernel<T>, blocks_for(vectors, 256), 256, 0, vectors, channels, static_cast<const T*>(x),
               static_cast<T*>(y));
  });
}

}  // namespace lgd
