// Products on tensor cores. Every float32 value x enters as hi + lo, hi = bfloat16(x), lo = bfloat16(x - hi), and
//   a b = a_hi b_hi + a_lo b_hi + a_hi b_lo   (a_lo b_lo, below 2^-16 of the product, is left out)
// with float32 sums: about 16 bits of each value count, where plain bfloat16 keeps 8. At t_T = 0.01 plain bfloat16 would move a target by
// per cents for embeddings of some tens of values.
// Four warps, each 32 x 32 results; steps of 32 over k, two stages in shared memory, rows swizzled in 16-byte chunks for ldmatrix.
#include "semantic/products.cuh"

namespace lgd::products {

namespace {

constexpr int step = 32, chunk = 8;                       // a chunk: 8 values, 16 bytes
constexpr int plane = tile * step;                        // values of one operand's hi or lo tile
constexpr int stage_values = 4 * plane;                   // a_hi, a_lo, b_hi, b_lo

// Place of chunk c of row r: tiles with k inside have 4 chunks a row, those with k outside 8.
__device__ __forceinline__ int inner_at(int r, int c) { return r * step + (c ^ ((r >> 1) & 3)) * chunk; }
__device__ __forceinline__ int outer_at(int r, int c) { return r * tile + (c ^ (r & 7)) * chunk; }

__device__ __forceinline__ void split(const float (&values)[chunk], bf16* hi, bf16* lo) {
  F8 high, rest;
#pragma unroll
  for (int i = 0; i < chunk; ++i) {
    high.v[i] = __bfloat162float(__float2bfloat16_rn(values[i]));
    rest.v[i] = values[i] - high.v[i];
  }
  store8(hi, high);
  store8(lo, rest);
}

// Fragments of one warp for 16 values of k, from one plane.
__device__ __forceinline__ void load_a(const bf16* plane_a, int row, int k, int lane, uint32_t (&a)[2][4]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) ldmatrix_x4(a[i], plane_a + inner_at(row + i * 16 + lane % 16, k / chunk + lane / 16));
}
template <bool b_transposed>
__device__ __forceinline__ void load_b(const bf16* plane_b, int column, int k, int lane, uint32_t (&b)[4][2]) {
#pragma unroll
  for (int j = 0; j < 4; j += 2) {
    uint32_t r[4];
    if (b_transposed) ldmatrix_x4(r, plane_b + inner_at(column + j * 8 + lane / 16 * 8 + lane % 8, k / chunk + lane / 8 % 2));
    else ldmatrix_x4_trans(r, plane_b + outer_at(k + lane % 16, (column + j * 8) / chunk + lane / 16));
    b[j][0] = r[0];
    b[j][1] = r[1];
    b[j + 1][0] = r[2];
    b[j + 1][1] = r[3];
  }
}
__device__ __forceinline__ void accumulate(float (&sum)[2][4][4], const uint32_t (&a)[2][4], const uint32_t (&b)[4][2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) mma_bf16_16816(sum[i][j], a[i], b[j]);
}

template <bool b_transposed>
__global__ void __launch_bounds__(threads) multiply_bf16_kernel(const __grid_constant__ Problem problem) {
  LGD_DYNAMIC_SHARED(bf16, shared);  // [2 stages][a_hi, a_lo, b_hi, b_lo]
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, row = warp % 2 * 32, column = warp / 2 * 32;
  const int64_t m0 = int64_t(blockIdx.y) * tile, n0 = int64_t(blockIdx.x) * tile;
  const int64_t begin = blockIdx.z * problem.k_per_part;
  const int64_t end = begin + problem.k_per_part < problem.k ? begin + problem.k_per_part : problem.k;

  float a_next[2][chunk], b_next[2][chunk];
  const auto fetch = [&](int64_t k0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int e = thread + i * threads;
      load_values(problem.a, m0 + e / 4, problem.m, k0 + e % 4 * chunk, end, a_next[i]);
      if (b_transposed) load_values(problem.b, n0 + e / 4, problem.n, k0 + e % 4 * chunk, end, b_next[i]);
      else load_values(problem.b, k0 + e / 8, end, n0 + e % 8 * chunk, problem.n, b_next[i]);
    }
  };
  const auto put = [&](int stage) {
    bf16 *a = shared + stage * stage_values, *b = a + 2 * plane;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int e = thread + i * threads;
      const int a_at = inner_at(e / 4, e % 4), b_at = b_transposed ? a_at : outer_at(e / 8, e % 8);
      split(a_next[i], a + a_at, a + plane + a_at);
      split(b_next[i], b + b_at, b + plane + b_at);
    }
  };

  float sum[2][4][4] = {};
  if (begin < end) {
    fetch(begin);
    put(0);
  }
  __syncthreads();
  int stage = 0;
  for (int64_t k0 = begin; k0 < end; k0 += step, stage ^= 1) {
    const bool more = k0 + step < end;
    if (more) fetch(k0 + step);
    const bf16 *a = shared + stage * stage_values, *b = a + 2 * plane;
#pragma unroll
    for (int k = 0; k < step; k += 16) {
      uint32_t a_hi[2][4], a_lo[2][4], b_hi[4][2], b_lo[4][2];
      load_a(a, row, k, lane, a_hi);
      load_a(a + plane, row, k, lane, a_lo);
      load_b<b_transposed>(b, column, k, lane, b_hi);
      load_b<b_transposed>(b + plane, column, k, lane, b_lo);
      accumulate(sum, a_lo, b_hi);
      accumulate(sum, a_hi, b_lo);
      accumulate(sum, a_hi, b_hi);
    }
    if (more) put(1 - stage);
    __syncthreads();
  }
  float* out = problem.out + blockIdx.z * problem.part_size;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int64_t r = m0 + row + i * 16 + lane / 4 + q / 2 * 8, c = n0 + column + j * 8 + lane % 4 * 2 + q % 2;
        if (r < problem.m && c < problem.n) out[r * problem.out_stride + c] = sum[i][j][q];
      }
}

}  // namespace

void multiply_bf16(Device& device, const Problem& problem, int64_t parts, bool b_transposed) {
  const dim3 grid(unsigned((problem.n + tile - 1) / tile), unsigned((problem.m + tile - 1) / tile), unsigned(parts));
  const auto kernel = b_transposed ? &multiply_bf16_kernel<true> : &multiply_bf16_kernel<false>;
  LGD_LAUNCH(device, kernel, grid, threads, 2 * stage_values * sizeof(bf16), problem);
}

}  // namespace lgd::products
