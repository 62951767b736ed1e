// Products on tensor cores with float16 operands and float32 sums: the tile pipeline that the kernels of the loss
// share.
//
// Operands come by cp.async, 16 bytes at a time, `stages` steps of 64 deep; the sequence of steps runs on over the
// tiles of a block, so that the copies of the next tile start while the last one is still multiplied and finished.
// Shared rows are 128 bytes or more and XOR-swizzled in 16-byte chunks, so that ldmatrix touches every bank once.
// Limits: at 64 x 64 a step reads 16 KiB for 64^3 multiply-adds, so L2 cache (6.6 TB/s: docs/kernel-costs.md, Level-2
// cache) gives at most 211 TF; at 128 x 128 twice that. Registers (sm_80, sm_90): 106 to 128 a thread at 64 x 64, where
// shared memory allows 3 blocks a multiprocessor; 240 to 252 at 128 x 128, 2 blocks.
#pragma once
#include "semantic/loss_kernels.cuh"

namespace lgd::products {

template <int BM_, int BN_, int WM_, int WN_, int stages_, int resident_>
struct Tile {
  static constexpr int BM = BM_, BN = BN_, stages = stages_, resident = resident_;
  static constexpr int WM = WM_, WN = WN_, threads = WM * WN * 32;
  static constexpr int TM = BM / WM, TN = BN / WN, MI = TM / 16, NI = TN / 8;
};
using Small = Tile<64, 64, 2, 2, 4, 3>;    // 64 KiB of shared memory: three blocks on a multiprocessor
using Large = Tile<128, 128, 2, 2, 3, 2>;  // 96 KiB: two

constexpr int step = 64, chunk = 8;  // values of k a step; values of 16 bytes

template <class Tile>
constexpr size_t stage_bytes() {
  return size_t(Tile::stages) * (Tile::BM + Tile::BN) * step * sizeof(f16);
}

// Place of chunk c of row r where a row has `chunks` of them (a multiple of 8).
template <int chunks>
__device__ __forceinline__ int place(int r, int c) {
  return (r * chunks + (c ^ (r & 7))) * chunk;
}

template <class Tile>
struct Warp {
  int lane, row, column;  // of the warp's results in the block's tile
  __device__ Warp() {
    const int thread = threadIdx.x, warp = thread / 32;
    lane = thread % 32;
    row = warp % Tile::WM * Tile::TM;
    column = warp / Tile::WM * Tile::TN;
  }
  // Where acc[i][j][q] lies.
  __device__ int row_of(int i, int half) const { return row + i * 16 + half * 8 + lane / 4; }
  __device__ int column_of(int j) const { return column + j * 8 + lane % 4 * 2; }
};

// acc += A B for one step; A as [BM][64], B as [BN][64], or as [64][BN] when b_outer.
template <class Tile, bool b_outer>
__device__ __forceinline__ void multiply(const f16* a_tile, const f16* b_tile, const Warp<Tile>& at,
                                         float (&acc)[Tile::MI][Tile::NI][4]) {
  const int lane = at.lane;
#pragma unroll
  for (int k = 0; k < step; k += 16) {
    uint32_t a[Tile::MI][4], b[Tile::NI][2];
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i)
      ldmatrix_x4(a[i], a_tile + place<step / chunk>(at.row + i * 16 + lane % 16, k / chunk + lane / 16));
#pragma unroll
    for (int j = 0; j < Tile::NI; j += 2) {
      uint32_t r[4];
      const int column = at.column + j * 8;
      if constexpr (b_outer)
        ldmatrix_x4_trans(r, b_tile + place<Tile::BN / chunk>(k + lane % 16, column / chunk + lane / 16));
      else ldmatrix_x4(r, b_tile + place<step / chunk>(column + lane / 16 * 8 + lane % 8, k / chunk + lane / 8 % 2));
      b[j][0] = r[0];
      b[j][1] = r[1];
      b[j + 1][0] = r[2];
      b[j + 1][1] = r[3];
    }
#pragma unroll
    for (int i = 0; i < Tile::MI; ++i)
#pragma unroll
      for (int j = 0; j < Tile::NI; ++j) mma_f16_16816(acc[i][j], a[i], b[j]);
  }
}

// Forms `tiles` tiles of `steps` steps each. feed.choose(tile, step) chooses a step, feed.a and feed.b (row, chunk,
// valid) say where 16 bytes of it lie; finish(acc, tile) takes the results of a tile. `shared` holds
// stage_bytes<Tile>().
template <class Tile, bool b_outer, class Feed, class Finish>
__device__ __forceinline__ void run(Feed& feed, int tiles, int steps, f16* shared, const Warp<Tile>& at,
                                    Finish&& finish) {
  constexpr int a_values = Tile::BM * step, b_values = Tile::BN * step,
                b_chunks = b_outer ? Tile::BN / chunk : step / chunk;
  constexpr int a_slots = a_values / chunk / Tile::threads, b_slots = b_values / chunk / Tile::threads;
  const int thread = threadIdx.x;
  // without steps there is nothing to copy, and nobody would wait for it
  int next_tile = steps > 0 ? 0 : tiles, next_step = 0, next_stage = 0;
  const auto fetch = [&] {
    if (next_tile < tiles) {
      f16 *a = shared + next_stage * (a_values + b_values), *b = a + a_values;
      feed.choose(next_tile, next_step);
#pragma unroll
      for (int slot = 0; slot < a_slots; ++slot) {
        const int e = thread + slot * Tile::threads, r = e / (step / chunk), c = e % (step / chunk);
        bool valid;
        const f16* from = feed.a(r, c, valid);
        cp_async16(a + place<step / chunk>(r, c), from, valid);
      }
#pragma unroll
      for (int slot = 0; slot < b_slots; ++slot) {
        const int e = thread + slot * Tile::threads, r = e / b_chunks, c = e % b_chunks;
        bool valid;
        const f16* from = feed.b(r, c, valid);
        cp_async16(b + place<b_chunks>(r, c), from, valid);
      }
      if (++next_step == steps) {
        next_step = 0;
        ++next_tile;
      }
      next_stage = next_stage + 1 == Tile::stages ? 0 : next_stage + 1;
    }
    cp_commit();
  };

#pragma unroll
  for (int stage = 0; stage < Tile::stages - 1; ++stage) fetch();
  int stage = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    float acc[Tile::MI][Tile::NI][4] = {};
    for (int s = 0; s < steps; ++s) {
      cp_wait<Tile::stages - 2>();
      __syncthreads();
      fetch();
      const f16* a = shared + stage * (a_values + b_values);
      multiply<Tile, b_outer>(a, a + a_values, at, acc);
      stage = stage + 1 == Tile::stages ? 0 : stage + 1;
    }
    finish(acc, tile);
  }
}

// Scores of image pairs: 16 rows of students, then the same images' teachers, and so on, so that a thread holds both
// scores of an image and an anchor. Rows have one plane of values, or two (values and what float16 left of them): then
// three products make one, x_0 a_0 + x_0 a_1 + x_1 a_0, as three times as many steps.
struct ScoreFeed {
  const f16 *rows, *anchors;  // [2 batch, stride]: students, then teachers (2 batch < 2^31); [anchor_count, stride]
  int batch;
  int64_t stride;
  int anchor_count, plane, planes;

  int image = 0;  // first of the block's tile
  int first_anchor = 0, tile_anchors = 0;
  const f16 *a_at = nullptr, *b_at = nullptr;
  int anchor = 0, left = 0;

  // Of the tile's images the one that row r belongs to.
  static __device__ int image_of(int r) { return r / 32 * 16 + r % 16; }
  static __host__ __device__ int steps_of_plane(int plane) { return (plane + step - 1) / step; }
  __host__ __device__ int steps() const { return steps_of_plane(plane) * (planes == 2 ? 3 : 1); }

  __device__ void choose(int tile, int s) {
    const int each = steps_of_plane(plane), product = planes == 2 ? s / each : 0, k = (s - product * each) * step;
    anchor = first_anchor + tile * tile_anchors;
    left = plane - k;
    a_at = rows + (product == 2 ? plane : 0) + k;
    b_at = anchors + (product == 1 ? plane : 0) + k;
  }
  __device__ const f16* a(int r, int c, bool& valid) const {
    const int i = image + image_of(r);
    valid = i < batch && c * chunk < left;
    return valid ? a_at + int64_t(r / 16 % 2 * batch + i) * stride + c * chunk : rows;
  }
  __device__ const f16* b(int r, int c, bool& valid) const {
    valid = anchor + r < anchor_count && c * chunk < left;
    return valid ? b_at + int64_t(anchor + r) * stride + c * chunk : anchors;
  }
};

// Of the scores for anchors [begin, begin + count).
inline ScoreFeed feed_of(const loss_cuda::ScoreProduct& product, int64_t begin, int64_t count) {
  const OperandLayout& layout = product.layout;
  return {product.rows,       product.anchors + begin * layout.stride(),
          int(product.batch), layout.stride(),
          int(count),         layout.plane,
          layout.planes};
}

}  // namespace lgd::products
