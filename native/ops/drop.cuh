// The draw of dropout and of stochastic depth on the device (elementwise.h, DropShape): whoever needs a unit's factor
// draws it again.
#pragma once
#include "core/cuda_device.cuh"
#include "core/philox.h"
#include "ops/elementwise.h"

namespace lgd {

// 1 / (1 - p) or 0.
__device__ __forceinline__ float keep_of(const DropShape& shape, uint32_t word) {
  return unit_float(word) >= shape.p ? 1.f / (1.f - shape.p) : 0.f;
}
// Of units 4 quad to 4 quad + 3.
__device__ __forceinline__ Philox4 draw_four(const DropShape& shape, int64_t quad) {
  return philox(shape.seed, shape.step * (uint64_t(1) << 20) + uint64_t(shape.node), uint64_t(quad));
}
__device__ __forceinline__ float keep_of_unit(const DropShape& shape, int64_t unit) {
  const Philox4 draw = draw_four(shape, unit / 4);
  // no array: it would go to memory
  const uint32_t low = unit % 2 ? draw.word[1] : draw.word[0], high = unit % 2 ? draw.word[3] : draw.word[2];
  return keep_of(shape, unit % 4 < 2 ? low : high);
}

// Stochastic depth of the images that rows lie in, drawn once for rows of one image that follow each other.
class Keep {
 public:
  __device__ __forceinline__ Keep(const DropShape& drop, int pixels) : drop_(drop), pixels_(pixels) {}
  // Of rows [row, row + step, ...].
  template <int n>
  __device__ __forceinline__ void of(int row, int step, float (&kept)[n]) {
#pragma unroll
    for (int r = 0; r < n; ++r) kept[r] = 1;
    if (drop_.p == 0.f) return;
#pragma unroll 1  // the draw is a hundred instructions
    for (int at = 0; at < n; ++at, row += step) {
      if (row >= end_ || row < end_ - pixels_) {
        const int image = row / pixels_;
        end_ = (image + 1) * pixels_;
        value_ = keep_of_unit(drop_, image);
      }
#pragma unroll
      for (int r = 0; r < n; ++r) kept[r] = r == at ? value_ : kept[r];
    }
  }

 private:
  const DropShape& drop_;
  const int pixels_;
  int end_ = 0;
  float value_ = 1;
};

}  // namespace lgd
