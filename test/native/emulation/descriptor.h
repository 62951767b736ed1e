// Matrices in shared memory as products of warpgroups take them: descriptors decoded as PTX describes them (PTX ISA,
// "Matrix Descriptor Format").
#pragma once
#include <cstdint>

#include "core/error.h"

namespace lgd::emulation {

// Shared addresses begin at an odd place, so that a pattern that is not aligned shows.
constexpr uint32_t first_shared_address = 1024 + 128;

// The shared address of element (row, k). Throws where the matrix does not begin where its swizzle does.
inline uint32_t element_address(uint64_t descriptor, bool k_outer, int row, int k) {
  const uint32_t first = uint32_t(descriptor & 0x3fff) << 4, leading = uint32_t(descriptor >> 16 & 0x3fff) << 4,
                 stride = uint32_t(descriptor >> 32 & 0x3fff) << 4;
  const uint32_t swizzle = uint32_t(descriptor >> 62);  // 1: of 128 bytes, 2: of 64
  const uint32_t width = swizzle == 1 ? 128 : 64;       // bytes of a row of the pattern, which repeats every eight rows
  LGD_CHECK((swizzle == 1 || swizzle == 2) && first % (8 * width) < width, "DEVICE_ERROR",
            "a matrix in shared memory that does not begin where its swizzle does");
  uint32_t address = first;
  if (k_outer)
    address += uint32_t(row) / (width / 2) * leading + uint32_t(k) / 8 * stride + uint32_t(k) % 8 * width +
               uint32_t(row) % (width / 2) * 2;
  else address += uint32_t(row) / 8 * stride + uint32_t(row) % 8 * width + uint32_t(k) * 2;
  return address ^ (address >> 7 & (swizzle == 1 ? 7u : 3u)) << 4;
}

}  // namespace lgd::emulation
