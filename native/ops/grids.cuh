// How many blocks a launch has where they are to fill the card (Card in core/context.h).
#pragma once
#include "core/cuda_device.cuh"
#include "core/cuda_vectors.cuh"
#include "core/context.h"

namespace lgd {

// For kernels in which 256 threads take a vector each and go on by the grid: twice what a multiprocessor runs at once,
// which evens out how they end.
inline unsigned elementwise_blocks(const Context& ctx, int64_t vectors) {
  return blocks_for(vectors, 256, int64_t(ctx.card.multiprocessors) * 16);
}

// How many blocks of a kernel shall fit a multiprocessor by their registers, told as it would be for an H100. An A100
// has less shared memory, so that fewer fit anyway, and its code needs a few registers more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int blocks_by_registers(int wanted) { return wanted > 1 ? wanted - 1 : 1; }
#else
constexpr int blocks_by_registers(int wanted) { return wanted; }
#endif

}  // namespace lgd
