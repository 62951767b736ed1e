// Prologues of the matrix core: what becomes of the 16-byte chunks of an operand before they are multiplied. Nothing,
// an activation made from a raw output, or the gradient of a raw output (ops/fused.h).
//
// A Read has
//   tables                          numbers per channel that it needs; 0: the operand is what is stored
//   active()                        is there anything to be made?
//   first(), second(), pair()       its tensors, and whether there is a second
//   fill(table, count, channel)     the numbers of some channels
//   make<Mine>(own, paired, apart, bits, table, count, image_channel)
//                                   turns the chunks of one tile, slot s at own + s apart, into the operand. Padding
//                                   (bit s of bits is 0) stays zero whatever the numbers are
#pragma once
#include <type_traits>

#include "core/cuda_device.cuh"
#include "ops/fused.h"

namespace lgd {

namespace read {

// The elements of a chunk.
__device__ __forceinline__ void take(const bf16* p, float (&v)[8]) {
  const F8 all = load8(p);
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = all.v[i];
}
__device__ __forceinline__ void take(const float* p, float (&v)[4]) {
  const float4 all = load_as<float4>(p);
  v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
}
template <int count>
__device__ __forceinline__ void take_numbers(const float* p, int half, float (&v)[count]) {
#pragma unroll
  for (int i = 0; i < count; i += 4) {
    const float4 four = load_as<float4>(i == 0 ? p : p + half);
    v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
  }
}
// Writes the chunk, or zeros where it is padding.
__device__ __forceinline__ void put(bf16* p, const float (&v)[8], bool inside) {
  const uint32_t keep = inside ? ~0u : 0u;
  store_as<uint4>(p, make_uint4(pack2(v[0], v[1]) & keep, pack2(v[2], v[3]) & keep, pack2(v[4], v[5]) & keep,
                                pack2(v[6], v[7]) & keep));
}
__device__ __forceinline__ void put(float* p, const float (&v)[4], bool inside) {
  store_as<float4>(p, inside ? make_float4(v[0], v[1], v[2], v[3]) : make_float4(0, 0, 0, 0));
}

// The operand as it is stored.
template <class T>
struct Stored {
  static constexpr int tables = 0;
  const T* x;
  constexpr bool active() const { return false; }
  constexpr bool pair() const { return false; }
  __device__ __forceinline__ const T* first() const { return x; }
};

// Two operands as they are stored, side by side (where::RowsOfTwo).
template <class T>
struct StoredTwo {
  static constexpr int tables = 0;
  const T *x, *x2;
  constexpr bool active() const { return false; }
  constexpr bool pair() const { return false; }
  __device__ __forceinline__ const T* first(bool in_second) const { return in_second ? x2 : x; }
};

// An activation from a raw output:  act(scale y + shift) * gate.
template <class T>
struct Activation {
  static constexpr int tables = 2;
  const T* y;
  const float *scale, *shift;
  const T* gate;
  Act act;
  explicit Activation(const LazyInput& x)
      : y(static_cast<const T*>(x.y)),
        scale(x.scale),
        shift(x.shift),
        gate(static_cast<const T*>(x.gate)),
        act(x.act) {}
  constexpr bool active() const { return scale != nullptr; }
  constexpr bool pair() const { return false; }
  __device__ __forceinline__ const T* first() const { return y; }
  __device__ __forceinline__ const T* second() const { return y; }
  __device__ __forceinline__ void fill(float* table, int count, int channel) const {
    table[0] = scale[channel];
    table[count] = shift[channel];
  }
  template <class Mine, class ImageChannel>
  __device__ __forceinline__ void make(T* own, const T*, int apart, uint32_t bits, const float* table, int count,
                                       ImageChannel&& image_channel) const {
    constexpr bool may_have_gate = std::is_integral_v<decltype(image_channel(0))>;
    uint4 gates[may_have_gate ? Mine::slots : 1];  // all on their way together, from level-2 cache
    if constexpr (may_have_gate) {
      if (gate) [[unlikely]] {
#pragma unroll
        for (int slot = 0; slot < Mine::slots; ++slot)
          gates[slot] = load_as<uint4>(gate + (bits >> slot & 1 ? image_channel(slot) : 0));
      }
    }
    float a[Mine::chunk], b[Mine::chunk];
    take_numbers(table, Mine::half, a);
    take_numbers(table + count, Mine::half, b);
    choose_act(act, [&](auto function) {
#pragma unroll(may_have_gate ? Mine::slots : 2)  // all four of patches at once need registers that spill
      for (int slot = 0; slot < Mine::slots; ++slot) {
        float v[Mine::chunk];
        take(own + slot * apart, v);
#pragma unroll
        for (int i = 0; i < Mine::chunk; ++i) v[i] = function(fmaf(a[i], v[i], b[i]));
        if constexpr (may_have_gate) {
          if (gate) [[unlikely]] {
            float k[Mine::chunk];
            take(reinterpret_cast<const T*>(&gates[slot]), k);
#pragma unroll
            for (int i = 0; i < Mine::chunk; ++i) v[i] *= k[i];
          }
        }
        put(own + slot * apart, v, bits >> slot & 1);
      }
    });
  }
};

// The gradient of a raw output:  a g + b y + c.
template <class T>
struct Gradient {
  static constexpr int tables = 3;
  const T *g, *y;
  const float *a, *b, *c;
  explicit Gradient(const LazyGradient& dy)
      : g(static_cast<const T*>(dy.g)), y(static_cast<const T*>(dy.y)), a(dy.a), b(dy.b), c(dy.c) {}
  constexpr bool active() const { return y != nullptr; }
  constexpr bool pair() const { return y != nullptr; }
  __device__ __forceinline__ const T* first() const { return g; }
  __device__ __forceinline__ const T* second() const { return y; }
  __device__ __forceinline__ void fill(float* table, int count, int channel) const {
    table[0] = a[channel];
    table[count] = b[channel];
    table[2 * count] = c[channel];
  }
  template <class Mine, class ImageChannel>
  __device__ __forceinline__ void make(T* own, const T* paired, int apart, uint32_t bits, const float* table, int count,
                                       ImageChannel&&) const {
    float ka[Mine::chunk], kb[Mine::chunk], kc[Mine::chunk];
    take_numbers(table, Mine::half, ka);
    take_numbers(table + count, Mine::half, kb);
    take_numbers(table + 2 * count, Mine::half, kc);
#pragma unroll
    for (int slot = 0; slot < Mine::slots; ++slot) {
      float v[Mine::chunk], u[Mine::chunk];
      take(own + slot * apart, v);
      take(paired + slot * apart, u);
#pragma unroll
      for (int i = 0; i < Mine::chunk; ++i) v[i] = fmaf(ka[i], v[i], fmaf(kb[i], u[i], kc[i]));
      put(own + slot * apart, v, bits >> slot & 1);
    }
  }
};

}  // namespace read

}  // namespace lgd
