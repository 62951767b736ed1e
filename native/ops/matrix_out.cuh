// The way out of the matrix core, its epilogue. Accumulators leave through strips of shared memory, a strip a warp, so
// that a lane stores 16 bytes and always the same columns: sums per column stay in its registers until the block ends.
//
// prefetch(row, column), where there is one, is called before a tile's product for every far_piece bytes of its rows:
// sends for what store() will ask there. Of a block a lane stores the same eight columns in every row, and keeps two F8
// for them from row to row; fetch(row, column) is called ahead of store() for several rows, row < M and column < N
// given. The lane's two are
//   - without sums (`sums` 0): what prepare(column, first, second) made of them at the start; store(row, column, values,
//     fetched, first, second);
//   - with means (`means` there) the same, without fetch; store(row / 4, column, F8 (&rows)[4], first, second) gets
//     four rows that stand together; M is a multiple of four;
//   - with sums (`sums` of them, 1 or 2): sums of its columns, to which store(row, column, values, fetched, table, count,
//     sum0, sum1) adds. `tables` numbers per column, fill(table, count, column), wait in shared memory, halved
//     (core/cuda_vectors.cuh); finish(which, column, total) gives what is written to
//     partial[blockIdx.x][which][column], unless partial is null.
#pragma once
#include <algorithm>

#include "core/cuda_device.cuh"

namespace lgd::matrix {

// Rows of a strip: fewer where they are long, so that more blocks fit beside each other. A warp's rows leave in as many
// parts.
template <class Tile>
constexpr int strip_rows = Tile::TN > 64 ? 8 : 16;
template <class Tile>
constexpr int strip_parts = Tile::MI * 16 / strip_rows<Tile>;
// Where the warp's sums lie on their way: of every eight columns of a row four stand together and the others strip_half
// further, so that in no bank two lanes meet, neither of the half warp that stores float2 nor of the quarter that loads
// float4.
template <class Tile>
constexpr int strip_pitch = Tile::TN + 8;  // floats
template <class Tile>
constexpr int strip_half = Tile::TN / 2 + 4;
template <class Tile>
constexpr int strip_floats = strip_rows<Tile> * strip_pitch<Tile>;
template <class Tile>
__device__ __forceinline__ F8 load_strip(const float* row, int chunk) {
  return load_halves(row + chunk * 4, strip_half<Tile>);
}
// The row that a lane begins with: rows of two lanes in the same quarter of a warp are an odd multiple of 16 banks
// apart.
template <class Tile>
__device__ __forceinline__ int strip_row(int lane) {
  constexpr int chunks = Tile::TN / 8;
  const int row = lane / chunks;
  return chunks == 4 ? (row & 4) | (row & 1) << 1 | (row >> 1 & 1) : row;
}

// The strip's windows of four rows.
template <class Tile, class Out>
__device__ __forceinline__ void write_windows(const Out& out, const float* strip, int row0, int column, int M, int lane,
                                              const F8& own0, const F8& own1) {
  constexpr int chunks = Tile::TN / 8, pitch = strip_pitch<Tile>;
  for (int window = lane / chunks; window < strip_rows<Tile> / 4; window += 32 / chunks) {
    if (row0 + window * 4 >= M) continue;
    const float* const first = strip + window * 4 * pitch;
    const int chunk = lane % chunks;
    F8 rows[4] = {load_strip<Tile>(first, chunk), load_strip<Tile>(first + pitch, chunk),
                  load_strip<Tile>(first + 2 * pitch, chunk), load_strip<Tile>(first + 3 * pitch, chunk)};
    out.store(row0 / 4 + window, column, rows, own0, own1);
  }
}

// The accumulators of a part to the strip. The parts are told apart here alone, as registers have no addresses.
template <class Tile>
__device__ __forceinline__ void store_part(const float (&acc)[Tile::MI][Tile::NI][4], int part, float* to) {
  constexpr int rows = strip_rows<Tile>;
#pragma unroll
  for (int one = 0; one < strip_parts<Tile>; ++one) {
    if (one != part) continue;
    const int i = one * rows / 16, half = one * rows % 16 / 8;
#pragma unroll
    for (int j = 0; j < Tile::NI; ++j)
#pragma unroll
      for (int h = 0; h < rows / 8; ++h)
        store_as<float2>(to + h * 8 * strip_pitch<Tile> + j * 4,
                         make_float2(acc[i][j][(half + h) * 2], acc[i][j][(half + h) * 2 + 1]));
  }
}

template <class Tile, class Out>
__device__ __forceinline__ void write_out(const Out& out, float (&acc)[Tile::MI][Tile::NI][4], float* strip,
                                          const float* table, int row0, int column, int M, int N, int lane, F8& own0,
                                          F8& own1) {
  constexpr int chunks = Tile::TN / 8, at_once = 32 / chunks, rows = strip_rows<Tile>, items = rows / at_once,
                pitch = strip_pitch<Tile>;
  // loads under way together: more would not fit the registers
  constexpr int at_a_time = Out::sums ? std::min(Tile::TN / 32, 2) : Tile::TN / 32;
  const int lane_row = strip_row<Tile>(lane);
  const float* mine = strip + lane_row * pitch;
  float* to = strip + lane / 4 * pitch + lane % 4 / 2 * strip_half<Tile> + lane % 2 * 2;
  if (column >= N) M = 0;  // such lanes store nothing
#pragma unroll 1           // an output's function is long
  for (int part = 0; part < strip_parts<Tile>; ++part) {
    store_part<Tile>(acc, part, to);
    __syncwarp();
    const int top = row0 + part * rows / 16 * Tile::strip_step + part * rows % 16 / 8 * 8;
    if constexpr (requires { Out::means; }) {
      write_windows<Tile>(out, strip, top, column, M, lane, own0, own1);
    } else {
      const int first = top + lane_row;
#pragma unroll 1
      for (int group = 0; group < items; group += at_a_time) {
        typename Out::Fetched fetched[at_a_time];
#pragma unroll
        for (int item = 0; item < at_a_time; ++item)
          if (first + (group + item) * at_once < M) fetched[item] = out.fetch(first + (group + item) * at_once, column);
#pragma unroll
        for (int item = 0; item < at_a_time; ++item) {
          const int row = first + (group + item) * at_once;
          if (row >= M) continue;
          const F8 values = load_strip<Tile>(mine + (group + item) * at_once * pitch, lane % chunks);
          if constexpr (Out::sums) out.store(row, column, values, fetched[item], table, Tile::BN, own0, own1);
          else out.store(row, column, values, fetched[item], own0, own1);
        }
      }
    }
    __syncwarp();
  }
}

// The lanes of a warp and the WM warps beside each other hold sums of the same columns; adds them in a fixed order and
// writes the block's part.
template <class Tile, class Out>
__device__ __forceinline__ void write_sums(const Out& out, F8 sum0, F8 sum1, float* shared, int n0, int N, int thread) {
  constexpr int chunks = Tile::TN / 8;
  const int lane = thread % 32, warp = thread / 32;
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int mask = chunks; mask < 32; mask *= 2) {
      sum0.v[i] += shfl_xor(sum0.v[i], mask);
      sum1.v[i] += shfl_xor(sum1.v[i], mask);
    }
  // shared: [WM][2][BN]
  float* mine = shared + (warp % Tile::WM) * 2 * Tile::BN + warp / Tile::WM * Tile::TN + lane * 8;
  if (lane < chunks) {
    store8(mine, sum0);
    store8(mine + Tile::BN, sum1);
  }
  __syncthreads();
  for (int i = thread; i < Out::sums * Tile::BN; i += Tile::threads) {
    const int which = i / Tile::BN, column = n0 + i % Tile::BN;
    float total = 0;
    for (int row = 0; row < Tile::WM; ++row) total += shared[row * 2 * Tile::BN + i];
    if (column < N)
      out.partial[(int64_t(blockIdx.x) * Out::sums + which) * N + column] = out.finish(which, column, total);
  }
}

}  // namespace lgd::matrix
