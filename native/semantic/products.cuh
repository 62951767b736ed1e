// The two float32 products of the semantic loss as tiles of 64 x 64 results:
//   out[part][m,n] = sum over the part's k of a[m,k] b(k,n),   b(k,n) = b[n,k] (anchors as rows: scores) or b[k,n] (sums of anchors)
// Operands are float32 in memory, with any row length; tiles go through registers to shared memory, so that any alignment will do.
// 128 threads a block.
#pragma once
#include "core/cuda_device.cuh"

namespace lgd::products {

constexpr int tile = 64, threads = 128;

struct Operand {
  const float* data;
  int64_t stride;   // floats from row to row
  bool vectors;     // rows start on 16 bytes
};
inline Operand operand(const float* data, int64_t stride) { return {data, stride, reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 4 == 0}; }

struct Problem {
  Operand a, b;
  int64_t m, n, k, k_per_part;
  float* out;
  int64_t out_stride, part_size;  // floats
};

// Launches the problem's tiles for `parts` shares of k, more than once where a grid has not room for the rows.
void multiply_f32(Context& device, const Problem& problem, int64_t parts, bool b_transposed);

// Values [0, count) of p, zeros behind them, up to `width`.
template <int width>
__device__ __forceinline__ void load_row(const float* p, int64_t count, bool vectors, float (&values)[width]) {
  if (vectors && count >= width) {
#pragma unroll
    for (int i = 0; i < width; i += 4) {
      const float4 four = load_as<float4>(p + i);
      values[i] = four.x;
      values[i + 1] = four.y;
      values[i + 2] = four.z;
      values[i + 3] = four.w;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < width; ++i) values[i] = i < count ? p[i] : 0.f;
}

// `width` values of row `row` from column `column`; zeros outside [0, rows) x [0, columns).
template <int width>
__device__ __forceinline__ void load_values(const Operand& from, int64_t row, int64_t rows, int64_t column, int64_t columns, float (&values)[width]) {
  const int64_t count = row < rows ? columns - column : 0;
  load_row(count > 0 ? from.data + row * from.stride + column : from.data, count, from.vectors, values);
}

}  // namespace lgd::products
