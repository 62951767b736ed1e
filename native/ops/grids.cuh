// How many blocks a launch has where they are to fill the card (Card in core/context.h), and which eight channels of a
// pixel a thread has that takes one vector after another.
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

// The image, pixel and 8-channel chunk of vector e of [n][h][w][chunks].
struct VectorPlace {
  int n, y, x, chunk;
};
__device__ __forceinline__ VectorPlace vector_place(int64_t e, int h, int w, int chunks) {
  const int64_t pixel = e / chunks;
  return {int(pixel / w / h), int(pixel / w % h), int(pixel % w), int(e % chunks)};
}
// The same chunk of pixel (y, x) of that image in an array [n][h][w][chunks].
template <class T>
__device__ __forceinline__ const T* vector_at(const T* base, const VectorPlace& p, int y, int x, int h, int w,
                                              int chunks) {
  return base + (((int64_t(p.n) * h + y) * w + x) * chunks + p.chunk) * 8;
}

// How many blocks of a kernel shall fit a multiprocessor by their registers, told as it would be for an H100. An A100
// has less shared memory, so that fewer fit anyway, and its code needs a few registers more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int blocks_by_registers(int wanted) { return wanted > 1 ? wanted - 1 : 1; }
#else
constexpr int blocks_by_registers(int wanted) { return wanted; }
#endif

}  // namespace lgd
