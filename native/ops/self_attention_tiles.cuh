// What self-attention's kernels on tensor cores share, forward and backward: a warp has 16 rows, whose fragments stay
// in registers, and multiplies them with tiles of other rows in shared memory. A row of a tile has 8 elements more than
// a head is wide: then the eight rows of an ldmatrix start in eight different banks. D: a head's width, rounded up; a
// lane has rows lane / 4 and lane / 4 + 8 of the warp's, and columns 8 j + lane % 4 * 2 and the next.
#pragma once
#include "core/cuda_device.cuh"
#include "ops/self_attention.h"

namespace lgd {

template <int D>
constexpr int pitch = D + 8;

// One head's rows of an array, row by row `stride` elements apart.
struct HeadRows {
  const bf16* first;
  int64_t stride;
};

// `rows` rows of two arrays from row `first` on into one stage, [2][rows][pitch]; zeros past the sequence and past the
// head.
template <int D, int rows, int threads>
__device__ __forceinline__ void fetch_rows(const HeadRows& a, const HeadRows& b, int tokens, int width, int first,
                                           bf16* stage) {
#pragma unroll
  for (int i = threadIdx.x; i < rows * D / 8; i += threads) {
    const int row = i / (D / 8), column = i % (D / 8) * 8;
    const bool inside = first + row < tokens && column < width;
    const int64_t at = inside ? first + row : 0;
    cp_async16(stage + row * pitch<D> + column, a.first + at * a.stride + (inside ? column : 0), inside);
    cp_async16(stage + (rows + row) * pitch<D> + column, b.first + at * b.stride + (inside ? column : 0), inside);
  }
}

// The fragments of 16 rows, this lane's first being row0.
template <int D>
__device__ __forceinline__ void load_rows(uint32_t (&a)[D / 16][4], const HeadRows& from, int tokens, int width,
                                          int row0) {
  const int pair = int(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int k = 0; k < D / 16; ++k)
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const int row = row0 + part % 2 * 8, column = k * 16 + part / 2 * 8 + pair;
      a[k][part] = row < tokens && column < width ? load_as<uint32_t>(from.first + row * from.stride + column) : 0;
    }
}

// sum[16][8 J] += a[16][D] times the transposed of tile[8 J][D].
template <int D, int J>
__device__ __forceinline__ void multiply_by_rows(float (&sum)[J][4], const uint32_t (&a)[D / 16][4], const bf16* tile) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < D / 16; ++k)
#pragma unroll
    for (int j = 0; j < J; j += 2) {
      uint32_t r[4];
      ldmatrix_x4(r, tile + (j * 8 + lane / 16 * 8 + lane % 8) * pitch<D> + k * 16 + lane / 8 % 2 * 8);
      const uint32_t left[2] = {r[0], r[1]}, right[2] = {r[2], r[3]};
      mma_bf16_16816(sum[j], a[k], left);
      mma_bf16_16816(sum[j + 1], a[k], right);
    }
}

// sum[16][D] += factors[16][8 J], rounded, times tile[8 J][D]: accumulators lie as the operand does.
template <int D, int J>
__device__ __forceinline__ void multiply_by_columns(float (&sum)[D / 8][4], const float (&factors)[J][4],
                                                    const bf16* tile) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < J / 2; ++k) {
    const float (&left_half)[4] = factors[2 * k], (&right_half)[4] = factors[2 * k + 1];
    const uint32_t a[4] = {pack2(left_half[0], left_half[1]), pack2(left_half[2], left_half[3]),
                           pack2(right_half[0], right_half[1]), pack2(right_half[2], right_half[3])};
#pragma unroll
    for (int j = 0; j < D / 8; j += 2) {
      uint32_t r[4];
      ldmatrix_x4_trans(r, tile + (k * 16 + lane % 16) * pitch<D> + j * 8 + lane / 16 * 8);
      const uint32_t left[2] = {r[0], r[1]}, right[2] = {r[2], r[3]};
      mma_bf16_16816(sum[j], a, left);
      mma_bf16_16816(sum[j + 1], a, right);
    }
  }
}

// A tile's step of the online softmax: of q . k of 16 rows with 8 J keys, this lane's from `key0` on, put(j, e,
// numerator) gets the numerators, 0 for keys past the sequence and, if causal, behind the row. Where the maximum of a
// row grows, what was summed before shrinks: `total`, of the numerators that this lane has, and `sum`, of what they
// were multiplied with.
template <int D, int J, class Put>
__device__ __forceinline__ void soften(float (&score)[J][4], const SelfAttentionShape& s, float scale, int row0,
                                       int key0, float (&most)[2], float (&total)[2], float (&sum)[D / 8][4],
                                       Put&& put) {
  float largest[2] = {most[0], most[1]};
#pragma unroll
  for (int j = 0; j < J; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int key = key0 + j * 8 + e % 2, row = row0 + e / 2 * 8;
      score[j][e] = key < s.tokens && (!s.causal || key <= row) ? score[j][e] * scale : -INFINITY;
      largest[e / 2] = fmaxf(largest[e / 2], score[j][e]);
    }
#pragma unroll
  for (int h = 0; h < 2; ++h) {  // every row has a key in the first tile, so its maximum is finite from then on
    largest[h] = fmaxf(largest[h], shfl_xor(largest[h], 1));
    largest[h] = fmaxf(largest[h], shfl_xor(largest[h], 2));
    const float shrink = exp_of(most[h] - largest[h]);
    most[h] = largest[h];
    total[h] *= shrink;
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      sum[j][h * 2] *= shrink;
      sum[j][h * 2 + 1] *= shrink;
    }
  }
#pragma unroll
  for (int j = 0; j < J; ++j)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float numerator = exp_of(score[j][e] - most[e / 2]);
      total[e / 2] += numerator;
      put(j, e, numerator);
    }
}

}  // namespace lgd
