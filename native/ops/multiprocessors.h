// Sizes of the machine that launches are made for.
#pragma once

namespace lgd {

// How many multiprocessors blocks that stay are meant to fill: an H100's. Checks lower it, so that small products make a block walk
// over several tiles.
inline int multiprocessors = 132;

// How many blocks of a kernel shall fit a multiprocessor by their registers, told as it would be for an H100. An A100 has less shared
// memory, so that fewer fit anyway, and its code needs a few registers more.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int blocks_by_registers(int wanted) { return wanted > 1 ? wanted - 1 : 1; }
#else
constexpr int blocks_by_registers(int wanted) { return wanted; }
#endif

}  // namespace lgd
