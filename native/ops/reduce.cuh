// Sums per channel over the rows of an array, in a fixed order: how blocks share the rows, and what each adds up.
// (Parts of blocks are added by ops/norm_finish.cuh, those of weights' gradients by ops/partial_sums.h.)
#pragma once
#include "core/cuda_device.cuh"

namespace lgd {

// How a [rows][channels] array is walked for sums per channel: a block of 256 threads takes `width` 8-channel chunks
// and passes over the rows; thread t has chunk t % width and row t / width, where there is such a row.
struct ColumnWalk {
  int chunks, width, rows_per_pass, groups, splits;
};
inline ColumnWalk column_walk(const Context& ctx, int64_t rows, int channels) {
  ColumnWalk walk{};
  walk.chunks = channels / 8;
  // The fewest groups with 7/8 of the threads at work: 160 chunks as one group would leave 96 of 256 idle, as two
  // groups 16.
  for (int groups = (walk.chunks + 255) / 256, best = 0; best < 224; ++groups) {
    const int width = (walk.chunks + groups - 1) / groups, busy = 256 / width * walk.chunks / groups;
    if (best > 0 && width < 8) break;  // less than 128 bytes of a row
    if (busy <= best) continue;
    best = busy;
    walk.groups = groups;
    walk.width = width;
  }
  walk.rows_per_pass = 256 / walk.width;
  const int64_t most = (rows + walk.rows_per_pass * 4 - 1) / (walk.rows_per_pass * 4);  // at least four rows a thread
  const int64_t wanted = std::max(1, ctx.card.multiprocessors * 4 / walk.groups);
  walk.splits = int(most < 1 ? 1 : most < wanted ? most : wanted);
  return walk;
}

// The chunk of this thread; false: it has none, or no row.
__device__ __forceinline__ bool chunk_of(const ColumnWalk& walk, int& chunk) {
  chunk = int(blockIdx.y) * walk.width + int(threadIdx.x) % walk.width;
  return chunk < walk.chunks && int(threadIdx.x) < walk.width * walk.rows_per_pass;
}

// Adds up, in pairs of rows, what the threads of a block hold for their 8 channels; row 0 gets the sums. Every thread
// calls it.
__device__ __forceinline__ void sum_walk_rows(F8& sum, const ColumnWalk& walk) {
  __shared__ float upper[8][128];
  const int row = threadIdx.x / walk.width;
  for (int rows = walk.rows_per_pass; rows > 1;) {
    const int half = (rows + 1) / 2, at = threadIdx.x - half * walk.width;
    __syncthreads();  // the sums of an earlier round may still be read
    if (row >= half && row < rows)
#pragma unroll
      for (int i = 0; i < 8; ++i) upper[i][at] = sum.v[i];
    __syncthreads();
    if (row + half < rows)
#pragma unroll
      for (int i = 0; i < 8; ++i) sum.v[i] += upper[i][threadIdx.x];
    rows = half;
  }
}

// Adds up what the threads of a block hold for their 8 channels and writes partial[blockIdx.x][offset + channel], pitch
// floats a block.
__device__ __forceinline__ void write_column_sums(F8 sum, const ColumnWalk& walk, float* partial, int64_t pitch,
                                                  int offset) {
  sum_walk_rows(sum, walk);
  const int chunk = int(blockIdx.y) * walk.width + int(threadIdx.x);
  if (int(threadIdx.x) < walk.width && chunk < walk.chunks)
    store8(partial + blockIdx.x * pitch + offset + chunk * 8, sum);
}

}  // namespace lgd
