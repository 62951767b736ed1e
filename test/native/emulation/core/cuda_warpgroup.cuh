// Stands in for native/core/cuda_warpgroup.cuh. Products are formed at the wait, from what shared memory holds then
// (descriptor.h). What it is strict about: copies and writes of an operand without the fence behind them, a descriptor
// that is not aligned, products that nobody waits for.
#pragma once
#include "core/cuda_device.cuh"
#include "descriptor.h"

namespace lgd {

namespace emulation {
// Of the fiber that runs: products under way, and whether it wrote shared memory by copies since its last fence.
struct WarpgroupProduct {
  float (*sums)[4];
  int columns;
  uint64_t a, b;
  bool a_outer, b_outer;
};
void begin_products();
void add_product(const WarpgroupProduct& product);
void commit_products();
void finish_products();
void fence_copies();
}  // namespace emulation

constexpr bool has_warpgroup_products = true;
enum class Swizzle : uint64_t { b128 = 1, b64 = 2 };

inline uint32_t shared_address(const void* p) {
  return uint32_t(static_cast<const char*>(p) - emulation::dynamic_shared) + emulation::first_shared_address;
}

inline uint64_t shared_matrix(const void* first, Swizzle swizzle, uint32_t stride, uint32_t leading) {
  const uint32_t address = shared_address(first);
  LGD_CHECK(address < 1u << 18 && stride < 1u << 18 && leading < 1u << 18 && (address | stride | leading) % 16 == 0,
            "DEVICE_ERROR", "a descriptor cannot hold this matrix");
  return uint64_t(swizzle) << 62 | uint64_t(stride >> 4) << 32 | uint64_t(leading >> 4) << 16 | address >> 4;
}

constexpr uint64_t shared_matrix_step(uint32_t bytes) { return bytes / 16; }

inline void fence_shared_for_warpgroup() { emulation::fence_copies(); }
inline void warpgroup_begin() { emulation::begin_products(); }
inline void warpgroup_commit() { emulation::commit_products(); }
inline void warpgroup_wait() { emulation::finish_products(); }
template <int count>
inline void hold_sums(float (&)[count][4]) {}
inline char* aligned_for_warpgroup(char* shared) { return shared + (-shared_address(shared) & 1023u); }

template <bool a_outer, bool b_outer, int count>
inline void warpgroup_multiply(float (&d)[count][4], uint64_t a, uint64_t b) {
  emulation::add_product({d, count * 8, a, b, a_outer, b_outer});
}

}  // namespace lgd
