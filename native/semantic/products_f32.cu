// Products with float32 multiply-adds, as tiles of 64 x 64 results: the checking mode of the loss, every assignment of
// the bank update, and linear classifiers. Operands go through registers to shared memory, so that any alignment will
// do. A thread keeps 8 x 4 sums; steps of 16 over k lie in shared memory with k outermost, so that a thread reads 12
// values for 32 multiply-adds. Sums are moved into totals every 128 steps of k: rounding then grows with the root of
// 128, not of k, which t_T = 0.01 makes visible.
#include "semantic/products_f32.cuh"

#include <algorithm>

#include "semantic/loss_kernels.cuh"

namespace lgd::products {

namespace {

constexpr int tile = 64, threads = 128, step = 16, pitch = tile + 4, steps_per_total = 8;

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
__device__ __forceinline__ void load_values(const Operand& from, int64_t row, int64_t rows, int64_t column,
                                            int64_t columns, float (&values)[width]) {
  const int64_t count = row < rows ? columns - column : 0;
  load_row(count > 0 ? from.data + row * from.stride + column : from.data, count, from.vectors, values);
}

template <bool b_transposed>
__global__ void __launch_bounds__(threads)
    multiply_f32_kernel(const __grid_constant__ Problem problem, int64_t k_per_part) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(float, shared);  // [2 stages][a, b][step][pitch]
  const int thread = threadIdx.x, column = thread % 16 * 4, row = thread / 16 * 8;
  const int64_t m0 = int64_t(blockIdx.y) * tile, n0 = int64_t(blockIdx.x) * tile;
  const int64_t begin = blockIdx.z * k_per_part, end = min(begin + k_per_part, problem.k);

  float a_next[2][4], b_next[2][4];
  const auto fetch = [&](int64_t k0) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int e = thread + i * threads;
      load_values(problem.a, m0 + e / 4, problem.m, k0 + e % 4 * 4, end, a_next[i]);
      if (b_transposed) load_values(problem.b, n0 + e / 4, problem.n, k0 + e % 4 * 4, end, b_next[i]);
      else load_values(problem.b, k0 + e / 16, end, n0 + e % 16 * 4, problem.n, b_next[i]);
    }
  };
  const auto put = [&](int stage) {
    float *a = shared + stage * 2 * step * pitch, *b = a + step * pitch;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int e = thread + i * threads;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        a[(e % 4 * 4 + j) * pitch + e / 4] = a_next[i][j];
        if (b_transposed) b[(e % 4 * 4 + j) * pitch + e / 4] = b_next[i][j];
        else b[e / 16 * pitch + e % 16 * 4 + j] = b_next[i][j];
      }
    }
  };

  float sum[8][4] = {}, total[8][4] = {};
  if (begin < end) {
    fetch(begin);
    put(0);
  }
  __syncthreads();
  int count = 0;
  for (int64_t k0 = begin; k0 < end; k0 += step, ++count) {
    const int stage = count % 2;
    const bool more = k0 + step < end;
    if (more) fetch(k0 + step);
    const float *a = shared + stage * 2 * step * pitch, *b = a + step * pitch;
#pragma unroll
    for (int k = 0; k < step; ++k) {
      float left[8], right[4];
      load_row(a + k * pitch + row, 8, true, left);
      load_row(b + k * pitch + column, 4, true, right);
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(left[i], right[j], sum[i][j]);
    }
    if (count % steps_per_total == steps_per_total - 1 || !more) {
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          total[i][j] += sum[i][j];
          sum[i][j] = 0;
        }
    }
    if (more) put(1 - stage);
    __syncthreads();
  }
  float* out = problem.out + blockIdx.z * problem.part_size;
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (m0 + row + i < problem.m && n0 + column + j < problem.n)
        out[(m0 + row + i) * problem.out_stride + n0 + column + j] = total[i][j];
}

}  // namespace

void multiply_f32(Context& device, const Problem& problem, int64_t parts, bool b_transposed) {
  if (problem.m == 0 || problem.n == 0) return;
  // whole steps, so that only the last is ragged
  const int64_t k_per_part = (problem.k + parts * step - 1) / (parts * step) * step;
  constexpr int64_t rows_at_once = int64_t(65535) * tile;  // a grid's second dimension has no more blocks
  const auto kernel = b_transposed ? &multiply_f32_kernel<true> : &multiply_f32_kernel<false>;
  for (int64_t first = 0; first < problem.m; first += rows_at_once) {
    Problem rows = problem;
    rows.a.data += first * rows.a.stride;
    rows.out += first * rows.out_stride;
    rows.m = std::min(rows_at_once, problem.m - first);
    const dim3 grid(unsigned((rows.n + tile - 1) / tile), unsigned((rows.m + tile - 1) / tile), unsigned(parts));
    LGD_LAUNCH(device, kernel, grid, threads, 4 * step * pitch * sizeof(float), rows, k_per_part);
  }
}

}  // namespace lgd::products

namespace lgd {

using namespace products;

void similarities_cuda(Context& device, int64_t m, int64_t n, int64_t dimension, const float* rows,
                       const float* anchors, float* scores, int64_t stride) {
  multiply_f32(device, {operand(rows, dimension), operand(anchors, dimension), m, n, dimension, scores, stride}, 1,
               true);
}

namespace loss_cuda {

// The results are few (B D) and the sums long: shares of the anchors fill the chip.
int64_t sum_parts_f32(int64_t batch, int64_t dimension, int64_t anchor_count) {
  constexpr int64_t blocks_wanted = 264, least_share = 128;
  const int64_t tiles = ((batch + tile - 1) / tile) * ((dimension + tile - 1) / tile);
  return std::max<int64_t>(1, std::min(blocks_wanted / tiles, anchor_count / least_share));
}

void form_sums_f32(Context& device, int64_t batch, int64_t dimension, int64_t anchor_count, const float* weights,
                   int64_t stride, const float* anchors, int64_t parts, float* sums) {
  multiply_f32(device,
               {operand(weights, stride), operand(anchors, dimension), batch, dimension, anchor_count, sums, dimension,
                batch * dimension},
               parts, false);
}

}  // namespace loss_cuda

}  // namespace lgd
