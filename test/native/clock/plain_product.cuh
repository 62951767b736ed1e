// Y[M,N] = X[M,K] W[N,K]^T in bfloat16, as plain as a product on tensor cores can be: both operands by cp.async, a tile
// a block, two values a store. Its times on an H100 are known (main.cpp), and hold the model of a multiprocessor.
#pragma once
#include "core/cuda_device.cuh"

namespace lgd::clock {

// A block: BM x BN of Y by WM x WN warps, `stages` tiles of BK deep.
template <int BM, int BN, int WM, int WN, int stages, int BK>
__global__ void __launch_bounds__(WM * WN * 32)
    plain_product(const bf16* x, const bf16* w, bf16* y, int M, int N, int K) {
  constexpr int threads = WM * WN * 32, TM = BM / WM, TN = BN / WN, MI = TM / 16, NI = TN / 8, chunks = BK / 8;
  LGD_DYNAMIC_SHARED(bf16, shared);
  const int thread = threadIdx.x, lane = thread % 32, wm = thread / 32 % WM * TM, wn = thread / 32 / WM * TN;
  // Eight row tiles beside each other, so that blocks that run together share columns.
  const int row_tiles = (M + BM - 1) / BM, column_tiles = (N + BN - 1) / BN,
            group = int(blockIdx.x) / (8 * column_tiles), inside = int(blockIdx.x) % (8 * column_tiles);
  const int rows = min(row_tiles - group * 8, 8), m0 = (group * 8 + inside % rows) * BM, n0 = inside / rows * BN,
            tiles = (K + BK - 1) / BK;
  bf16 *const a_tiles = shared, *const b_tiles = shared + stages * BM * BK;
  const auto at = [](bf16* tile, int row, int chunk) {
    return tile + row * BK + (chunk ^ (chunks == 4 ? row / 2 % 4 : row % 8)) * 8;
  };
  const auto copy = [&](const bf16* from, bf16* to, int i, int tile, int first, int most) {
    const int piece = thread + i * threads, row = piece / chunks, chunk = piece % chunks, k = tile * BK + chunk * 8;
    const bool valid = first + row < most && k < K;
    cp_async16(at(to, row, chunk), valid ? from + size_t(first + row) * K + k : from, valid);
  };
  const auto fetch = [&](int tile, int stage) {
    if (tile < tiles) {
#pragma unroll
      for (int i = 0; i < BM * chunks / threads; ++i) copy(x, a_tiles + stage * BM * BK, i, tile, m0, M);
#pragma unroll
      for (int i = 0; i < BN * chunks / threads; ++i) copy(w, b_tiles + stage * BN * BK, i, tile, n0, N);
    }
    cp_commit();
  };
  float acc[MI][NI][4] = {};
  for (int tile = 0; tile < stages - 1; ++tile) fetch(tile, tile);
  for (int tile = 0; tile < tiles; ++tile) {
    cp_wait<stages - 2>();
    __syncthreads();
    fetch(tile + stages - 1, (tile + stages - 1) % stages);
    const int stage = tile % stages;
    bf16 *const a_tile = a_tiles + stage * BM * BK, *const b_tile = b_tiles + stage * BN * BK;
#pragma unroll
    for (int ks = 0; ks < BK / 16; ++ks) {
      uint32_t a[MI][4], b[NI][2];
#pragma unroll
      for (int i = 0; i < MI; ++i) ldmatrix_x4(a[i], at(a_tile, wm + i * 16 + lane % 16, ks * 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < NI; j += 2) {
        uint32_t r[4];
        ldmatrix_x4(r, at(b_tile, wn + j * 8 + lane / 16 * 8 + lane % 8, ks * 2 + lane / 8 % 2));
        b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
      }
#pragma unroll
      for (int i = 0; i < MI; ++i)
#pragma unroll
        for (int j = 0; j < NI; ++j) mma_bf16_16816(acc[i][j], a[i], b[j]);
    }
  }
  cp_wait<0>();
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int m = m0 + wm + i * 16 + lane / 4 + h * 8;
#pragma unroll
      for (int j = 0; j < NI; ++j) {
        const int n = n0 + wn + j * 8 + lane % 4 * 2;
        if (m < M && n < N) store_as<uint32_t>(y + int64_t(m) * N + n, pack2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]));
      }
    }
}

// X(BM, BN, WM, WN, stages, BK): the forms that were measured.
#define LGD_PLAIN_PRODUCTS(X) \
  X(128, 128, 2, 2, 3, 64)    \
  X(128, 128, 2, 2, 4, 32)    \
  X(128, 128, 2, 4, 4, 32)    \
  X(128, 256, 2, 4, 3, 32)    \
  X(128, 64, 2, 2, 4, 32)     \
  X(128, 32, 4, 1, 4, 32)     \
  X(128, 128, 2, 2, 3, 32)    \
  X(64, 64, 2, 2, 4, 64)

}  // namespace lgd::clock
