// act(scale * value + shift + residual) in the storage type, or added to what is there: how the convolutions store 8 channels. And the mean of
// act(scale * value + shift) over four rows of a product, those of a window (where::WindowPatches).
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

template <class T>
struct StoreMean {
  static constexpr bool sums = false, means = true;
  T* out;
  int64_t pitch;
  const float *scale, *shift;    // [pitch] or null
  Act act;

  __device__ __forceinline__ void store(int64_t window, int64_t column, const F8 (&rows)[4]) const {
    F8 s, b = zero8(), mean = zero8();
#pragma unroll
    for (int i = 0; i < 8; ++i) s.v[i] = 1;
    if (scale) s = load8(scale + column);
    if (shift) b = load8(shift + column);
#pragma unroll
    for (int row = 0; row < 4; ++row)
#pragma unroll
      for (int i = 0; i < 8; ++i) mean.v[i] += act_any(act, fmaf(rows[row].v[i], s.v[i], b.v[i]));
#pragma unroll
    for (int i = 0; i < 8; ++i) mean.v[i] *= 0.25f;
    store8(out + window * pitch + column, mean);
  }
};

}  // namespace lgd
