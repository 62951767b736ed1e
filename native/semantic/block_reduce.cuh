// What the kernels of the semantic operations share: reductions over one block, in a fixed order, which every thread
// calls and gets the result of; and how rows are judged and written.
#pragma once
#include "core/cuda_device.cuh"
#include "ops/block_sum.cuh"
#include "semantic/bank_loss.h"

namespace lgd {

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

// The better of both lanes' candidates.
__device__ __forceinline__ void exchange_first(Candidate& mine, int mask) {
  const Candidate other = {shfl_xor(mine.score, mask), shfl_xor(mine.column, mask)};
  if (before(other, mine)) mine = other;
}

// mine[i] <- the first of the block's.
template <int count>
__device__ __forceinline__ void block_first(Candidate (&mine)[count]) {
  __shared__ float scores[count][reduce_warps];
  __shared__ int32_t columns[count][reduce_warps];
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2)
#pragma unroll
    for (int i = 0; i < count; ++i) exchange_first(mine[i], mask);
  __syncthreads();
  if (threadIdx.x % 32 == 0)
#pragma unroll
    for (int i = 0; i < count; ++i) {
      scores[i][threadIdx.x / 32] = mine[i].score;
      columns[i][threadIdx.x / 32] = mine[i].column;
    }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < count; ++i)
#pragma unroll
    for (int w = 0; w < reduce_warps; ++w) {
      const Candidate other = {scores[i][w], columns[i][w]};
      if (before(other, mine[i])) mine[i] = other;
    }
}

// A thread's share of [begin, end), four at a time: take(i, k) for each of them, then use(i, k). Loads in take() are on
// their way together, also where fewer than four are left: beyond the end it is given the first of them once more.
template <class Take, class Use>
__device__ __forceinline__ void each_of_thread(int64_t begin, int64_t end, Take&& take, Use&& use) {
  constexpr int at_once = 4;
  for (int64_t first = begin + threadIdx.x; first < end; first += at_once * reduce_threads) {
#pragma unroll
    for (int i = 0; i < at_once; ++i) take(i, first + i * reduce_threads < end ? first + i * reduce_threads : first);
#pragma unroll
    for (int i = 0; i < at_once; ++i)
      if (first + i * reduce_threads < end) use(i, first + i * reduce_threads);
  }
}

// The first of this thread's share of row[0, n).
__device__ __forceinline__ Candidate thread_first(int64_t n, const float* row) {
  Candidate mine = no_candidate();
  float scores[4];
  each_of_thread(
      0, n, [&](int i, int64_t k) { scores[i] = row[k]; },
      [&](int i, int64_t k) {
        if (scores[i] > mine.score) mine = {scores[i], int32_t(k)};
      });
  return mine;
}

// A value of a row of operands, at its place in the first plane; for float32 there is no other.
__device__ __forceinline__ void write_operand(const OperandLayout& layout, f16* at, float value) {
  const f16 rounded = __float2half_rn(value);
  *at = rounded;
  if (layout.planes == 2) at[layout.plane] = __float2half_rn(value - __half2float(rounded));
}
__device__ __forceinline__ void write_operand(const OperandLayout&, float* at, float value) { *at = value; }

// A norm as it is kept: NaN where the row is not finite.
__device__ __forceinline__ float length_of(double squares) {
  const float length = float(sqrt(squares));
  return length < __int_as_float(0x7f800000) ? length : __int_as_float(0x7fc00000);
}

// The first faulty rows by their norms, counted from 1, given to every thread of the block.
__device__ __forceinline__ void mark_faults(int64_t rows, const float* norm, Candidate& zero, Candidate& broken) {
  zero = broken = no_candidate();  // columns are row numbers, scores equal: the lowest comes first
  for (int64_t row = threadIdx.x; row < rows; row += reduce_threads) {
    const float length = norm[row];
    if (length == 0 && zero.column == no_column) zero = {0, int32_t(row)};
    if (length != length && broken.column == no_column) broken = {0, int32_t(row)};
  }
}
__device__ __forceinline__ RowFaults faults_of(const Candidate& zero, const Candidate& broken) {
  return {zero.column == no_column ? 0 : zero.column + 1, broken.column == no_column ? 0 : broken.column + 1};
}

}  // namespace lgd
