// Reductions over one block, in a fixed order; every thread calls them and gets the result.
#pragma once
#include "core/cuda_device.cuh"

namespace lgd {

constexpr int reduce_threads = 256;  // of every block that uses these
constexpr int reduce_warps = reduce_threads / 32;

__device__ __forceinline__ double warp_sum(double value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += shfl_xor(value, mask);
  return value;
}

// values[i] <- its sum over the block.
template <int count>
__device__ __forceinline__ void block_sum(double (&values)[count]) {
  __shared__ double parts[count][reduce_warps];
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < count; ++i) values[i] = warp_sum(values[i]);
  __syncthreads();  // the result of an earlier call may still be read
  if (threadIdx.x % 32 == 0)
    for (int i = 0; i < count; ++i) parts[i][warp] = values[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < count; ++i) {
    values[i] = 0;
    for (int w = 0; w < reduce_warps; ++w) values[i] += parts[i][w];
  }
}

// A score with its column. Larger scores come first, lower columns first among equals.
struct Candidate {
  float score;
  int32_t column;
};
__device__ __forceinline__ bool before(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.column < b.column);
}
constexpr int32_t no_column = 0x7fffffff;
__device__ __forceinline__ Candidate no_candidate() { return {-__int_as_float(0x7f800000), no_column}; }

__device__ __forceinline__ Candidate block_first(Candidate mine) {
  __shared__ float scores[reduce_warps];
  __shared__ int32_t columns[reduce_warps];
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const Candidate other = {shfl_xor(mine.score, mask), shfl_xor(mine.column, mask)};
    if (before(other, mine)) mine = other;
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    scores[threadIdx.x / 32] = mine.score;
    columns[threadIdx.x / 32] = mine.column;
  }
  __syncthreads();
  for (int w = 0; w < reduce_warps; ++w) {
    const Candidate other = {scores[w], columns[w]};
    if (before(other, mine)) mine = other;
  }
  return mine;
}

// The first of row[0, n).
__device__ __forceinline__ Candidate block_row_first(int64_t n, const float* row) {
  Candidate mine = no_candidate();
  for (int64_t i = threadIdx.x; i < n; i += reduce_threads) {
    const Candidate other = {row[i], int32_t(i)};
    if (before(other, mine)) mine = other;
  }
  return block_first(mine);
}

}  // namespace lgd
