// What every kernel file shares: launches that are checked, storage types, 8-channel vectors, warp and matrix primitives.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "core/device.h"
#include "ops/context.h"

namespace lgd {

using bf16 = __nv_bfloat16;

inline cudaStream_t stream_of(Context& ctx) { return static_cast<cudaStream_t>(ctx.stream); }

inline void check_launch(const char* kernel) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) throw Error("DEVICE_ERROR", std::string("launching ") + kernel + " failed: " + cudaGetErrorString(status));
}

// LGD_LAUNCH(ctx, kernel<T>, grid, block, shared_bytes, arguments...)
#define LGD_LAUNCH(ctx, kernel, grid, block, shared, ...)                      \
  do {                                                                         \
    kernel<<<(grid), (block), (shared), ::lgd::stream_of(ctx)>>>(__VA_ARGS__); \
    ::lgd::check_launch(#kernel);                                              \
  } while (0)

// Calls body with a value of the storage type: with_type(type, [&](auto zero) { using T = decltype(zero); ... });
template <class Body>
void with_type(DType type, Body&& body) {
  if (type == DType::bf16) body(bf16{});
  else body(float{});
}

// Calls body with the activation as a compile-time constant.
template <Act value> struct ActTag { static constexpr Act act = value; };
template <class Body>
void with_act(Act act, Body&& body) {
  switch (act) {
    case Act::none: return body(ActTag<Act::none>{});
    case Act::relu: return body(ActTag<Act::relu>{});
    case Act::relu6: return body(ActTag<Act::relu6>{});
    case Act::silu: return body(ActTag<Act::silu>{});
    case Act::hardswish: return body(ActTag<Act::hardswish>{});
    case Act::sigmoid: return body(ActTag<Act::sigmoid>{});
    case Act::hardsigmoid: return body(ActTag<Act::hardsigmoid>{});
  }
}

inline unsigned blocks_for(int64_t count, int per_block, int64_t most = 1 << 20) {
  const int64_t blocks = (count + per_block - 1) / per_block;
  return unsigned(blocks < 1 ? 1 : blocks > most ? most : blocks);
}

// ---- activations (torch definitions) ----------------------------------------------------------------------------------------
__device__ __forceinline__ float sigmoid_of(float u) { return 1.f / (1.f + __expf(-u)); }
__device__ __forceinline__ float clamp_of(float u, float low, float high) { return fminf(fmaxf(u, low), high); }

template <Act act>
__device__ __forceinline__ float act_of(float u) {
  if constexpr (act == Act::relu) return fmaxf(u, 0.f);
  else if constexpr (act == Act::relu6) return clamp_of(u, 0.f, 6.f);
  else if constexpr (act == Act::silu) return u * sigmoid_of(u);
  else if constexpr (act == Act::hardswish) return u * clamp_of(u + 3.f, 0.f, 6.f) * (1.f / 6.f);
  else if constexpr (act == Act::sigmoid) return sigmoid_of(u);
  else if constexpr (act == Act::hardsigmoid) return clamp_of(u + 3.f, 0.f, 6.f) * (1.f / 6.f);
  else return u;
}

// The same with the function chosen at run time (one value for the whole launch, so the branch is free).
__device__ __forceinline__ float act_any(Act act, float u) {
  switch (act) {
    case Act::none: return u;
    case Act::relu: return act_of<Act::relu>(u);
    case Act::relu6: return act_of<Act::relu6>(u);
    case Act::silu: return act_of<Act::silu>(u);
    case Act::hardswish: return act_of<Act::hardswish>(u);
    case Act::sigmoid: return act_of<Act::sigmoid>(u);
    case Act::hardsigmoid: return act_of<Act::hardsigmoid>(u);
  }
  return u;
}

template <Act act>
__device__ __forceinline__ float act_slope(float u) {
  if constexpr (act == Act::relu) return u > 0.f ? 1.f : 0.f;
  else if constexpr (act == Act::relu6) return u > 0.f && u < 6.f ? 1.f : 0.f;
  else if constexpr (act == Act::silu) {
    const float s = sigmoid_of(u);
    return s * (1.f + u * (1.f - s));
  } else if constexpr (act == Act::hardswish) return u <= -3.f ? 0.f : u >= 3.f ? 1.f : u * (1.f / 3.f) + 0.5f;
  else if constexpr (act == Act::sigmoid) {
    const float s = sigmoid_of(u);
    return s * (1.f - s);
  } else if constexpr (act == Act::hardsigmoid) return u > -3.f && u < 3.f ? 1.f / 6.f : 0.f;
  else return 1.f;
}

// ---- eight channels at a time -----------------------------------------------------------------------------------------------
struct F8 { float v[8]; };

__device__ __forceinline__ F8 load8(const float* p) {
  const float4 a = *reinterpret_cast<const float4*>(p), b = *reinterpret_cast<const float4*>(p + 4);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
__device__ __forceinline__ F8 load8(const bf16* p) {
  const uint4 raw = *reinterpret_cast<const uint4*>(p);
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
  F8 out;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out.v[2 * i] = __uint_as_float(words[i] << 16);
    out.v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
  return out;
}
__device__ __forceinline__ void store8(float* p, const F8& x) {
  *reinterpret_cast<float4*>(p) = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
  *reinterpret_cast<float4*>(p + 4) = make_float4(x.v[4], x.v[5], x.v[6], x.v[7]);
}
__device__ __forceinline__ uint32_t pack2(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ void store8(bf16* p, const F8& x) {
  *reinterpret_cast<uint4*>(p) = make_uint4(pack2(x.v[0], x.v[1]), pack2(x.v[2], x.v[3]), pack2(x.v[4], x.v[5]), pack2(x.v[6], x.v[7]));
}
__device__ __forceinline__ F8 zero8() { return {{0, 0, 0, 0, 0, 0, 0, 0}}; }

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

// ---- warp and matrix primitives (one place, so that an emulation can stand in for them) ---------------------------------------
template <class V> __device__ __forceinline__ V shfl_xor(V value, int mask) { return __shfl_xor_sync(~0u, value, mask); }

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
// 16 bytes from global to shared memory; zeros where !valid.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> __device__ __forceinline__ void cp_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(shared)) : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(shared)) : "memory");
}
// d[16x8] += a[16x16] b[16x8], bfloat16 operands, float32 accumulation.
__device__ __forceinline__ void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace lgd
