// Arithmetic shared by all kernels: storage types, activations and vectors of eight channels. Plain code over the names
// of core/cuda_device.cuh, which includes it.
#pragma once
#include "core/activation.h"

namespace lgd {

// Calls body with a value of the storage type: with_type(type, [&]<class T>(T) { ... });
template <class Body>
void with_type(DType type, Body&& body) {
  if (type == DType::bf16) body(bf16{});
  else body(float{});
}

// The activation, if choose_act below knows it.
inline Act no_gelu(Act act) {
  if (is_gelu(act)) throw_error("NATIVE_ERROR", {"a GELU was merged with a norm"});
  return act;
}

inline unsigned blocks_for(int64_t count, int per_block, int64_t most = 1 << 20) {
  const int64_t blocks = (count + per_block - 1) / per_block;
  return unsigned(blocks < 1 ? 1 : blocks > most ? most : blocks);
}

// ---- activations (torch definitions; of a NaN they make a NaN) ------------------------------------------------------
__device__ __forceinline__ float exp_of(float u) { return exp2_approximate(u * 1.44269504f); }
__device__ __forceinline__ float sigmoid_of(float u) { return reciprocal_approximate(1.f + exp_of(-u)); }
// Each GELU with its slope, which shares an exponential with it; nvcc drops what of them is not used, but does not join
// two of them.
//
// u Phi(u), with erfc to 1.5e-7 (Abramowitz and Stegun 7.1.26): fewer registers than erff. Its slope is Phi(u) + u phi(u).
__device__ __forceinline__ float erf_gelu_of(float u, float& slope) {
  const float x = fabsf(u) * 0.70710678f, t = reciprocal_approximate(fmaf(0.3275911f, x, 1.f));
  float p = fmaf(1.061405429f, t, -1.453152027f);
  p = fmaf(p, t, 1.421413741f);
  p = fmaf(p, t, -0.284496736f);
  p = fmaf(p, t, 0.254829592f);
  const float e = exp_of(-x * x), tail = 0.5f * p * t * e, phi = u > 0.f ? 1.f - tail : tail;
  slope = fmaf(0.39894228f * u, e, phi);
  return u * phi;
}
// Its tanh form takes for Phi(u): (1 + tanh y) / 2 = sigmoid(2 y).
__device__ __forceinline__ float tanh_gelu_of(float u, float& slope) {
  const float s = sigmoid_of(1.5957691216f * fmaf(0.044715f * u, u * u, u));
  slope = fmaf(u * s * (1.f - s), fmaf(0.21406934f * u, u, 1.5957691216f), s);
  return u * s;
}
__device__ __forceinline__ float quick_gelu_of(float u, float& slope) {
  const float s = sigmoid_of(1.702f * u);
  slope = fmaf(1.702f * u * s, 1.f - s, s);
  return u * s;
}
template <Act act>
__device__ __forceinline__ float gelu_of(float u, float& slope) {
  if constexpr (act == Act::gelu) return erf_gelu_of(u, slope);
  else if constexpr (act == Act::gelu_tanh) return tanh_gelu_of(u, slope);
  else return quick_gelu_of(u, slope);
}
__device__ __forceinline__ float clamp_of(float u, float low, float high) {
  return min_or_nan(max_or_nan(u, low), high);
}

template <Act act>
__device__ __forceinline__ float act_of(float u) {
  if constexpr (act == Act::relu) return max_or_nan(u, 0.f);
  else if constexpr (act == Act::relu6) return clamp_of(u, 0.f, 6.f);
  else if constexpr (act == Act::silu) return u * sigmoid_of(u);
  else if constexpr (act == Act::hardswish) return u * clamp_of(u + 3.f, 0.f, 6.f) * (1.f / 6.f);
  else if constexpr (act == Act::sigmoid) return sigmoid_of(u);
  else if constexpr (act == Act::hardsigmoid) return clamp_of(u + 3.f, 0.f, 6.f) * (1.f / 6.f);
  else if constexpr (is_gelu(act)) {
    float slope;
    return gelu_of<act>(u, slope);
  } else return u;
}

template <Act act>
__device__ __forceinline__ float act_slope(float u) {
  if constexpr (act == Act::relu) return u > 0.f ? 1.f : 0.f;
  else if constexpr (act == Act::relu6) return u > 0.f && u < 6.f ? 1.f : 0.f;
  else if constexpr (act == Act::silu) {
    const float s = sigmoid_of(u);
    return s * (1.f + u * (1.f - s));
  } else if constexpr (act == Act::hardswish) return u < -3.f ? 0.f : u > 3.f ? 1.f : u * (1.f / 3.f) + 0.5f;
  else if constexpr (act == Act::sigmoid) {
    const float s = sigmoid_of(u);
    return s * (1.f - s);
  } else if constexpr (act == Act::hardsigmoid) return u > -3.f && u < 3.f ? 1.f / 6.f : 0.f;
  else if constexpr (is_gelu(act)) {
    float slope;
    gelu_of<act>(u, slope);
    return slope;
  } else return 1.f;
}

// Both, with one exponential.
template <Act act>
__device__ __forceinline__ float act_with_slope(float u, float& slope) {
  if constexpr (act == Act::silu) {
    const float s = sigmoid_of(u), value = u * s;
    slope = fmaf(s, u - value, s);
    return value;
  } else if constexpr (is_gelu(act)) {
    return gelu_of<act>(u, slope);
  } else {
    slope = act_slope<act>(u);
    return act_of<act>(u);
  }
}

// The activation as a function, for one choice before many elements: choose_act(act, [&](auto function) { ...
// function(u) ... }).
template <Act act>
struct ActFunction {
  __device__ __forceinline__ float operator()(float u) const { return act_of<act>(u); }
  __device__ __forceinline__ float slope(float u) const { return act_slope<act>(u); }
  __device__ __forceinline__ float with_slope(float u, float& slope) const { return act_with_slope<act>(u, slope); }
};
struct SigmoidFunction {  // both of the rare ones
  bool hard;
  __device__ __forceinline__ float operator()(float u) const {
    return hard ? act_of<Act::hardsigmoid>(u) : act_of<Act::sigmoid>(u);
  }
  __device__ __forceinline__ float slope(float u) const {
    return hard ? act_slope<Act::hardsigmoid>(u) : act_slope<Act::sigmoid>(u);
  }
  __device__ __forceinline__ float with_slope(float u, float& slope) const {
    return hard ? act_with_slope<Act::hardsigmoid>(u, slope) : act_with_slope<Act::sigmoid>(u, slope);
  }
};
template <class Body>
__device__ __forceinline__ void choose_act(Act act, Body&& body) {
  switch (act) {
    case Act::none: return body(ActFunction<Act::none>{});
    case Act::relu: return body(ActFunction<Act::relu>{});
    case Act::relu6: return body(ActFunction<Act::relu6>{});
    case Act::silu: return body(ActFunction<Act::silu>{});
    case Act::hardswish: return body(ActFunction<Act::hardswish>{});
    default: return body(SigmoidFunction{act == Act::hardsigmoid});
  }
}
// The GELUs, too, which stand behind no norm.
template <class Body>
__device__ __forceinline__ void choose_any_act(Act act, Body&& body) {
  switch (act) {
    case Act::gelu: return body(ActFunction<Act::gelu>{});
    case Act::gelu_tanh: return body(ActFunction<Act::gelu_tanh>{});
    case Act::quick_gelu: return body(ActFunction<Act::quick_gelu>{});
    default: return choose_act(act, body);
  }
}

// ---- eight channels at a time ---------------------------------------------------------------------------------------
struct F8 {
  float v[8];
};

__device__ __forceinline__ F8 load8(const float* p) {
  const float4 a = load_as<float4>(p), b = load_as<float4>(p + 4);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
// A table of numbers per channel in shared memory, of which lanes take eight neighbouring ones each: the first four of
// every eight lie in its first half and the others in its second, so that the lanes' 16-byte loads do not meet in the
// banks.
__device__ __forceinline__ int halved(int i, int half) { return i / 8 * 4 + (i % 8 < 4 ? 0 : half) + i % 4; }
__device__ __forceinline__ F8 load_halves(const float* p, int half) {  // p: where the first of the eight lies
  const float4 a = load_as<float4>(p), b = load_as<float4>(p + half);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
__device__ __forceinline__ F8 unpack8(const uint4& raw) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
  F8 out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.v[2 * i] = __uint_as_float(words[i] << 16);
    out.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return out;
}
__device__ __forceinline__ F8 load8(const bf16* p) { return unpack8(load_as<uint4>(p)); }
// Eight elements as they lie in memory, for kernels with several loads in flight: bfloat16 takes half the registers so.
__device__ __forceinline__ F8 load_raw8(const float* p) { return load8(p); }
__device__ __forceinline__ uint4 load_raw8(const bf16* p) { return load_as<uint4>(p); }
__device__ __forceinline__ const F8& unpack8(const F8& raw) { return raw; }
template <class T>
using Raw8 = decltype(load_raw8(static_cast<const T*>(nullptr)));
__device__ __forceinline__ void store8(float* p, const F8& x) {
  store_as<float4>(p, make_float4(x.v[0], x.v[1], x.v[2], x.v[3]));
  store_as<float4>(p + 4, make_float4(x.v[4], x.v[5], x.v[6], x.v[7]));
}
__device__ __forceinline__ uint32_t pack2(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t word;
  memcpy(&word, &pair, 4);
  return word;
}
// The lower, and the upper, of the two bfloat16 of each word side by side.
__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return (a & 0xffffu) | b << 16; }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return a >> 16 | (b & 0xffff0000u); }
__device__ __forceinline__ void store8(bf16* p, const F8& x) {
  store_as<uint4>(
      p, make_uint4(pack2(x.v[0], x.v[1]), pack2(x.v[2], x.v[3]), pack2(x.v[4], x.v[5]), pack2(x.v[6], x.v[7])));
}
// What comes back after store8 as T.
template <class T>
__device__ __forceinline__ F8 rounded8(const F8& x) {
  if constexpr (sizeof(T) == 4) return x;
  else
    return unpack8(
        make_uint4(pack2(x.v[0], x.v[1]), pack2(x.v[2], x.v[3]), pack2(x.v[4], x.v[5]), pack2(x.v[6], x.v[7])));
}
__device__ __forceinline__ F8 zero8() { return {{0, 0, 0, 0, 0, 0, 0, 0}}; }
// scale and shift of eight channels: 1 and 0 where there are none.
__device__ __forceinline__ void load_affine(const float* scales, const float* shifts, int64_t channel, F8& scale,
                                            F8& shift) {
#pragma unroll
  for (int i = 0; i < 8; ++i) scale.v[i] = 1;
  shift = zero8();
  if (scales) scale = load8(scales + channel);
  if (shifts) shift = load8(shifts + channel);
}

// One element, for the places where vectors do not fit.
__device__ __forceinline__ float load1(const float* p) { return *p; }
__device__ __forceinline__ float load1(const bf16* p) { return __bfloat162float(*p); }
__device__ __forceinline__ void store1(float* p, float x) { *p = x; }
__device__ __forceinline__ void store1(bf16* p, float x) { *p = __float2bfloat16_rn(x); }

// Writes, or adds to what is there.
template <class T>
__device__ __forceinline__ void put8(T* p, F8 x, bool accumulate) {
  if (accumulate) {
    const F8 old = load8(p);
#pragma unroll
    for (int i = 0; i < 8; ++i) x.v[i] += old.v[i];
  }
  store8(p, x);
}

// ---- over the lanes of a warp, which all call it and get the result -------------------------------------------------
// most_of_warp passes over a NaN: it is for a softmax's peak, where a NaN among the scores still makes their sum one.
__device__ __forceinline__ float sum_of_warp(float value) {
#pragma unroll
  for (int mask = 16; mask; mask /= 2) value += shfl_xor(value, mask);
  return value;
}
__device__ __forceinline__ float most_of_warp(float value) {
#pragma unroll
  for (int mask = 16; mask; mask /= 2) value = fmaxf(value, shfl_xor(value, mask));
  return value;
}

}  // namespace lgd
