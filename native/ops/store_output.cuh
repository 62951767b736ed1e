// act(scale * value + shift + residual) in the storage type: how the convolutions store 8 channels. The function is
// chosen once for 8 values, the common ones by bounds alone: chosen for each value, in every copy of an unrolled loop,
// it would fill the instruction cache.
#pragma once
#include <limits>

#include "core/cuda_device.cuh"

namespace lgd {

struct OutputAct {
  Act act;
  bool bounds;  // relu and relu6: all that they do
  float low = -std::numeric_limits<float>::infinity(), high = -low;
  OutputAct(Act act_) : act(act_), bounds(act == Act::relu || act == Act::relu6) {
    if (bounds) low = 0;
    if (act == Act::relu6) high = 6;
  }

  __device__ __forceinline__ void bound(F8& x) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) x.v[i] = clamp_of(x.v[i], low, high);
  }
  __device__ __forceinline__ void apply(F8& x) const {
    if (bounds) return bound(x);
    const auto each = [&](auto function) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x.v[i] = function(x.v[i]);
    };
    switch (act) {
      case Act::silu: return each(ActFunction<Act::silu>{});
      case Act::hardswish: return each(ActFunction<Act::hardswish>{});
      case Act::gelu: return each(ActFunction<Act::gelu>{});
      case Act::gelu_tanh: return each(ActFunction<Act::gelu_tanh>{});
      case Act::quick_gelu: return each(ActFunction<Act::quick_gelu>{});
      case Act::sigmoid:
      case Act::hardsigmoid: return each(SigmoidFunction{act == Act::hardsigmoid});
      case Act::none:
      case Act::relu:
      case Act::relu6: return;
    }
  }
};

template <class T>
struct StoreOutput {
  static constexpr int sums = 0;
  struct Fetched {
    Raw8<T> residual;
  };
  T* out;
  int64_t pitch;               // channels of a row
  const float *scale, *shift;  // [pitch] or null
  const T* residual;           // like out, or null
  OutputAct act;

  __device__ __forceinline__ void prepare(int64_t column, F8& scales, F8& shifts) const {
    load_affine(scale, shift, column, scales, shifts);
  }
  __device__ __forceinline__ void prefetch(int64_t row, int64_t column) const {
    if (residual) prefetch_far(residual + row * pitch + column);
  }
  __device__ __forceinline__ Fetched fetch(int64_t row, int64_t column) const {
    Fetched fetched;
    if (residual) fetched.residual = load_raw8(residual + row * pitch + column);
    return fetched;
  }
  __device__ __forceinline__ void store(int64_t row, int64_t column, const F8& x, const Fetched& fetched,
                                        const F8& scales, const F8& shifts) const {
    F8 y;
#pragma unroll
    for (int i = 0; i < 8; ++i) y.v[i] = fmaf(x.v[i], scales.v[i], shifts.v[i]);
    if (residual) {
      const F8 r = unpack8(fetched.residual);
#pragma unroll
      for (int i = 0; i < 8; ++i) y.v[i] += r.v[i];
    }
    act.apply(y);
    store8(out + row * pitch + column, y);
  }
};

}  // namespace lgd
