// Sums over one block of 256 threads, in a fixed order.
#pragma once
#include "core/cuda_device.cuh"

namespace lgd {

constexpr int reduce_threads = 256;  // of every block that uses this
constexpr int reduce_warps = reduce_threads / 32;

// values[i] <- its sum over the block, as float or double; every thread calls it and gets the result. One thread a value
// adds what the warps found: in every thread that would be eight additions a value, of which many cards make 64 times
// fewer in float64 than in float32.
template <class Value, int count>
__device__ __forceinline__ void block_sum(Value (&values)[count]) {
  static_assert(count <= 32);
  __shared__ Value parts[reduce_warps][count], sums[count];
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2)
#pragma unroll
    for (int i = 0; i < count; ++i) values[i] += shfl_xor(values[i], mask);
  if (threadIdx.x % 32 == 0)
#pragma unroll
    for (int i = 0; i < count; ++i) parts[threadIdx.x / 32][i] = values[i];
  __syncthreads();  // the parts are there, and sums of an earlier call are read
  if (threadIdx.x < count) {
    Value sum = 0;
#pragma unroll
    for (int w = 0; w < reduce_warps; ++w) sum += parts[w][threadIdx.x];
    sums[threadIdx.x] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < count; ++i) values[i] = sums[i];
}

}  // namespace lgd
