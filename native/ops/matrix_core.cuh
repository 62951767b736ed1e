// The matrix core: one kernel for convolution forward, data gradient, weight gradient and linear layers.
//
//   out[m,n] = sum_k A(m,k) B(n,k)
//
// A and B come through loaders that say where 16 bytes of an operand lie (implicit GEMM: nothing is unfolded in memory) and go
// to shared memory by cp.async, `stages` tiles deep. An operand tile is either "k inner" ([rows][BK], 16 bytes along k) or
// "k outer" ([BK][rows], 16 bytes along the rows: read with ldmatrix.trans). Rows are XOR-swizzled in 16-byte chunks, so that
// ldmatrix touches every bank once. bf16 operands go to mma.sync m16n8k16; float32 ones (checking mode) to fused multiply-adds
// in the same register layout. Accumulators pass through shared memory, so that an epilogue stores 16 bytes a lane.
#pragma once
#include "core/cuda_device.cuh"

namespace lgd::matrix {

// Block tile BM x BN x BK, WM x WN warps, each BM/WM x BN/WN.
template <int BM_, int BN_, int WM_, int WN_, int stages_>
struct Tile {
  static constexpr int BM = BM_, BN = BN_, WM = WM_, WN = WN_, stages = stages_;
  static constexpr int threads = WM * WN * 32;
  static constexpr int TM = BM / WM, TN = BN / WN, MI = TM / 16, NI = TN / 8;
  static_assert(TM % 16 == 0 && TN % 16 == 0);
};

template <class T> constexpr int chunk = 16 / sizeof(T);       // elements of 16 bytes
template <class T> constexpr int BK = 64 / sizeof(T);          // reduction elements of a k tile

// Shared-memory place of 16-byte chunk `c` of row `r` in a tile with `chunks` chunks a row.
template <int chunks>
__device__ __forceinline__ int swizzled(int r, int c) {
  if constexpr (chunks == 4) return r * chunks + (c ^ ((r >> 1) & 3));
  else return r * chunks + (c ^ (r & 7));
}

template <class T, int rows, bool k_outer>
struct Operand {
  static constexpr int tile_rows = k_outer ? BK<T> : rows;
  static constexpr int chunks = k_outer ? rows / chunk<T> : BK<T> / chunk<T>;
  static constexpr int tile_elements = rows * BK<T>;

  static __device__ __forceinline__ T* at(T* tile, int r, int c) { return tile + swizzled<chunks>(r, c) * chunk<T>; }
  // Element (row, k), whichever way the tile lies.
  static __device__ __forceinline__ T element(T* tile, int row, int k) {
    const int r = k_outer ? k : row, e = k_outer ? row : k;
    return at(tile, r, e / chunk<T>)[e % chunk<T>];
  }
};

// acc += A tile x B tile. Accumulator fragments as mma.sync lays them out: acc[i][j][q] is row lane/4 + 8*(q/2), column (lane%4)*2 + q%2.
template <class Tile, bool a_outer, bool b_outer>
__device__ __forceinline__ void multiply(bf16* a_tile, bf16* b_tile, int wm, int wn, int lane, float (&acc)[Tile::MI][Tile::NI][4]) {
  using A = Operand<bf16, Tile::BM, a_outer>;
  using B = Operand<bf16, Tile::BN, b_outer>;
#pragma unroll
  for (int ks = 0; ks < BK<bf16> / 16; ++ks) {
    uint32_t a[Tile::MI][4], b[Tile::NI][2];
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i) {
      const int row = wm + i * 16;
      if constexpr (a_outer) ldmatrix_x4_trans(a[i], A::at(a_tile, ks * 16 + (lane / 16) * 8 + lane % 8, row / 8 + (lane / 8) % 2));
      else ldmatrix_x4(a[i], A::at(a_tile, row + lane % 16, ks * 2 + lane / 16));
    }
#pragma unroll
    for (int j = 0; j < Tile::NI; j += 2) {
      uint32_t r[4];
      const int row = wn + j * 8;
      if constexpr (b_outer) ldmatrix_x4_trans(r, B::at(b_tile, ks * 16 + lane % 16, row / 8 + lane / 16));
      else ldmatrix_x4(r, B::at(b_tile, row + (lane / 16) * 8 + lane % 8, ks * 2 + (lane / 8) % 2));
      b[j][0] = r[0];
      b[j][1] = r[1];
      b[j + 1][0] = r[2];
      b[j + 1][1] = r[3];
    }
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i)
#pragma unroll
      for (int j = 0; j < Tile::NI; ++j) mma_bf16_16816(acc[i][j], a[i], b[j]);
  }
}

template <class Tile, bool a_outer, bool b_outer>
__device__ __forceinline__ void multiply(float* a_tile, float* b_tile, int wm, int wn, int lane, float (&acc)[Tile::MI][Tile::NI][4]) {
  using A = Operand<float, Tile::BM, a_outer>;
  using B = Operand<float, Tile::BN, b_outer>;
  for (int k = 0; k < BK<float>; ++k) {
    float a[Tile::MI][2], b[Tile::NI][2];
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) a[i][h] = A::element(a_tile, wm + i * 16 + lane / 4 + h * 8, k);
#pragma unroll
    for (int j = 0; j < Tile::NI; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) b[j][h] = B::element(b_tile, wn + j * 8 + (lane % 4) * 2 + h, k);
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i)
#pragma unroll
      for (int j = 0; j < Tile::NI; ++j)
#pragma unroll
        for (int q = 0; q < 4; ++q) acc[i][j][q] = fmaf(a[i][q / 2], b[j][q % 2], acc[i][j][q]);
  }
}

template <class T, class Tile>
constexpr size_t shared_bytes() {
  constexpr size_t operands = size_t(Tile::stages) * (Tile::BM + Tile::BN) * 64;
  constexpr size_t staged = size_t(Tile::BM) * (Tile::BN + 4) * 4;
  return operands > staged ? operands : staged;
}

// A loader: `static constexpr bool k_outer`, `Loader::State<slots>`: what a thread keeps for the chunks it copies, with
//   init(loader, first_row_of_block, thread)  and  source(loader, k_tile, slot, valid) -> const T*.
// An epilogue: store(row, column, F8 values) for 8 consecutive columns, row < M and column < N given.
template <class T, class Tile, class LoaderA, class LoaderB, class EpilogueOut>
__global__ void __launch_bounds__(Tile::threads)
    matrix_kernel(const __grid_constant__ LoaderA loader_a, const __grid_constant__ LoaderB loader_b, const __grid_constant__ EpilogueOut epilogue, int64_t M,
                  int64_t N, int k_tiles, int k_tiles_per_split) {
  using A = Operand<T, Tile::BM, LoaderA::k_outer>;
  using B = Operand<T, Tile::BN, LoaderB::k_outer>;
  constexpr int slots_a = A::tile_rows * A::chunks / Tile::threads, slots_b = B::tile_rows * B::chunks / Tile::threads;
  static_assert(slots_a * Tile::threads == A::tile_rows * A::chunks && slots_b * Tile::threads == B::tile_rows * B::chunks);
  LGD_DYNAMIC_SHARED(char, shared);
  T* a_tiles = reinterpret_cast<T*>(shared);
  T* b_tiles = a_tiles + Tile::stages * A::tile_elements;

  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int wm = (warp % Tile::WM) * Tile::TM, wn = (warp / Tile::WM) * Tile::TN;
  const int64_t m0 = int64_t(blockIdx.x) * Tile::BM, n0 = int64_t(blockIdx.y) * Tile::BN;
  const int first = blockIdx.z * k_tiles_per_split, last = min(first + k_tiles_per_split, k_tiles);

  typename LoaderA::template State<slots_a> state_a;
  typename LoaderB::template State<slots_b> state_b;
  state_a.init(loader_a, m0, thread, Tile::threads, A::chunks);
  state_b.init(loader_b, n0, thread, Tile::threads, B::chunks);
  auto fetch = [&](int tile, int stage) {
    if (tile < last) {
      state_a.begin(loader_a, tile);
      state_b.begin(loader_b, tile);
#pragma unroll
      for (int slot = 0; slot < slots_a; ++slot) {
        const int e = thread + slot * Tile::threads;
        bool valid;
        const T* from = state_a.source(loader_a, tile, slot, valid);
        cp_async16(A::at(a_tiles + stage * A::tile_elements, e / A::chunks, e % A::chunks), from, valid);
      }
#pragma unroll
      for (int slot = 0; slot < slots_b; ++slot) {
        const int e = thread + slot * Tile::threads;
        bool valid;
        const T* from = state_b.source(loader_b, tile, slot, valid);
        cp_async16(B::at(b_tiles + stage * B::tile_elements, e / B::chunks, e % B::chunks), from, valid);
      }
    }
    cp_commit();
  };

  float acc[Tile::MI][Tile::NI][4] = {};
#pragma unroll
  for (int stage = 0; stage < Tile::stages - 1; ++stage) fetch(first + stage, stage);
  for (int tile = first; tile < last; ++tile) {
    const int stage = (tile - first) % Tile::stages;
    cp_wait<Tile::stages - 2>();
    __syncthreads();
    fetch(tile + Tile::stages - 1, (stage + Tile::stages - 1) % Tile::stages);
    multiply<Tile, LoaderA::k_outer, LoaderB::k_outer>(a_tiles + stage * A::tile_elements, b_tiles + stage * B::tile_elements, wm, wn, lane, acc);
  }
  cp_wait<0>();
  __syncthreads();

  constexpr int pitch = Tile::BN + 4;  // floats; skewed so that the eight rows of a fragment fall into different banks
  float* staged = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int i = 0; i < Tile::MI; ++i)
#pragma unroll
    for (int j = 0; j < Tile::NI; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = wm + i * 16 + lane / 4 + h * 8, column = wn + j * 8 + (lane % 4) * 2;
        *reinterpret_cast<float2*>(staged + row * pitch + column) = make_float2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]);
      }
  __syncthreads();
  for (int e = thread; e < Tile::BM * Tile::BN / 8; e += Tile::threads) {
    const int row = e / (Tile::BN / 8), column = e % (Tile::BN / 8) * 8;
    if (m0 + row < M && n0 + column < N) epilogue.store(m0 + row, n0 + column, load8(staged + row * pitch + column));
  }
}

// Launches with `splits` parts of the reduction (grid.z); the epilogue then gets partial sums and looks at blockIdx.z.
template <class T, class Tile, class LoaderA, class LoaderB, class EpilogueOut>
void launch(Context& ctx, const LoaderA& a, const LoaderB& b, const EpilogueOut& epilogue, int64_t M, int64_t N, int64_t K, int splits = 1) {
  constexpr size_t shared = shared_bytes<T, Tile>();
  auto kernel = matrix_kernel<T, Tile, LoaderA, LoaderB, EpilogueOut>;
  allow_shared_memory(kernel, shared);
  const int k_tiles = int((K + BK<T> - 1) / BK<T>), per_split = (k_tiles + splits - 1) / splits;
  const dim3 grid(unsigned((M + Tile::BM - 1) / Tile::BM), unsigned((N + Tile::BN - 1) / Tile::BN), unsigned(splits));
  LGD_LAUNCH(ctx, kernel, grid, Tile::threads, shared, a, b, epilogue, M, N, k_tiles, per_split);
}

using Wide = Tile<128, 128, 2, 2, 3>;
using Middle = Tile<128, 64, 2, 2, 4>;
using Narrow = Tile<128, 32, 4, 1, 4>;
using Small = Tile<64, 64, 2, 2, 4>;

// Calls body with the tile that suits an M x N product; float32, for checking only, has one.
template <class T, class Body>
void with_tile(int64_t M, int64_t N, Body&& body) {
  if constexpr (sizeof(T) == 4) return body(Small{});
  const auto blocks = [&](int bm, int bn) { return ((M + bm - 1) / bm) * ((N + bn - 1) / bn); };
  if (N <= 32) return body(Narrow{});
  if (blocks(128, 64) < 132) return body(Small{});
  if (N <= 64 || (N > 128 && N <= 192) || blocks(128, 128) < 132) return body(Middle{});
  return body(Wide{});
}

}  // namespace lgd::matrix
