// act(scale * value + shift + residual) in the storage type, or added to what is there: how the convolutions store 8 channels.
#pragma once
#include "core/cuda_device.cuh"

namespace lgd {

template <class T>
struct StoreOutput {
  static constexpr bool sums = false;
  struct Fetched {};
  T* out;
  int64_t pitch;                 // channels of a row
  const float *scale, *shift;    // [pitch] or null
  const T* residual;             // like out, or null
  Act act;
  bool accumulate;

  __device__ __forceinline__ void store(int64_t row, int64_t column, F8 x) const {
    const int64_t at = row * pitch + column;
    if (scale) {
      const F8 s = load8(scale + column);
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] *= s.v[i];
    }
    if (shift) {
      const F8 b = load8(shift + column);
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] += b.v[i];
    }
    if (residual) {
      const F8 r = load8(residual + at);
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] += r.v[i];
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) x.v[i] = act_any(act, x.v[i]);
    put8(out + at, x, accumulate);
  }
};

}  // namespace lgd
