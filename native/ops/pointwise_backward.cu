// Both gradients of a 1x1 convolution of stride 1 in one pass over its tensors, for small weights (K C <= 24576,
// bfloat16).
//
//   dY = a g + b y + c,   X = act(scale x + shift) gate      made in shared memory
//   dX[p,c] = sum_k dY[p,k] W[k,c]   -> the target (ops/conv_epilogues.cuh)
//   dW[k,c] += sum_p dY[p,k] X[p,c]
//
// Bytes at least: 2 (2 K + C) a pixel read, 2 C written, and what the target holds; the two products one after the
// other would read g and y again, 2 (2 K). 2 K C multiplications a pixel per product stay below what the tensor cores
// do in that time.
//
// Blocks of 8 warps stay: W lies in shared memory, dW in registers (at most 96 a thread) until the end, and tiles of 32
// or 64 pixels pass through two stages. A thread keeps one column of 16-byte chunks of g and y, one of x and one of dX,
// so that its numbers per channel and its sums for the norm below stay with it, and so that it can work on what it
// copied itself before the barrier. Rows are padded by one chunk: an odd number of chunks a row keeps ldmatrix free of
// bank conflicts.
#include "ops/conv_epilogues.cuh"
#include "ops/conv_gradients.h"
#include "ops/lazy_operands.cuh"
#include "ops/grids.cuh"
#include "ops/norm_finish.cuh"
#include "ops/partial_sums.h"

namespace lgd {
namespace {

constexpr int threads = 256, warps = 8;

// What of a tile lies in shared memory.
struct Layout {
  int K, C;       // channels of dy, channels of x
  int tile_rows;  // pixels of a tile, 32 or 64

  constexpr int padded_k() const { return (K + 15) / 16 * 16; }
  constexpr int padded_c() const { return (C + 15) / 16 * 16; }
  constexpr int pitch_k() const { return padded_k() + 8; }
  constexpr int pitch_c() const { return padded_c() + 8; }
  // g (then dY), y, x (then X)
  constexpr int stage_elements() const { return tile_rows * (2 * pitch_k() + pitch_c()); }
  // and W, dX
  constexpr int shared_elements() const {
    return 2 * stage_elements() + padded_k() * pitch_c() + tile_rows * pitch_c();
  }
  constexpr int numbers() const { return 3 * K + 5 * C; }
  constexpr size_t shared_bytes() const {
    const size_t all = size_t(shared_elements()) * 2 + size_t(numbers()) * 4, sums = size_t(threads) * 16 * 4;
    return all > sums ? all : sums;
  }
};

// How the threads share out the 16-byte chunks of rows: `step` rows at once.
struct Chunks {
  FastDivide of_row;
  int step;
  explicit Chunks(int channels) : of_row(uint32_t(channels + 7) / 8), step(threads / int(of_row.divisor)) {}
};

struct Job : Layout {
  int rows, log_warps_k;                  // pixels; logarithm of the warps along K (the others lie along C)
  FastDivide by_pixels;                   // of an image
  Chunks chunks_k, chunks_c, chunks_out;  // of a row, padded or as stored
  read::Gradient<bf16> dy;
  read::Activation<bf16> x;
  const bf16* w;
  ReachTarget<bf16> out;
  float* dw;  // [blocks][K][C]
  int tiles = 0;
  bool back = false;  // from the last to the first (Context::turn)
  __device__ __forceinline__ int first_row(int tile) const { return (back ? tiles - 1 - tile : tile) * tile_rows; }
};

// A thread's chunks of a [rows][channels] tile: one column, every `step`-th row. Columns between the channels and their
// padding are zero.
struct Walk {
  int column, row, step;
  __device__ __forceinline__ Walk(const Chunks& chunks, int tile_rows) : step(chunks.step) {
    uint32_t chunk;
    row = int(chunks.of_row.divide(threadIdx.x, chunk));
    column = int(chunk) * 8;
    if (row >= step) row = tile_rows;
  }
};

__device__ __forceinline__ void fetch_tile(const bf16* from, bf16* to, const Walk& walk, int pitch, int channels,
                                           int first, int rows, int tile_rows) {
  const int last = walk.column < channels ? rows - first : 0;
  const bf16* next = from + int64_t(first + walk.row) * channels + walk.column;
  bf16* own = to + walk.row * pitch + walk.column;
#pragma unroll 1
  for (int row = walk.row; row < tile_rows; row += walk.step, next += walk.step * channels, own += walk.step * pitch)
    cp_async16(own, row < last ? next : from, row < last);
}

__device__ __forceinline__ void make_gradient(const Job& job, bf16* g, const bf16* y, const Walk& walk,
                                              const float* table, int first) {
  if (!job.dy.active() || walk.column >= job.K) return;
  const F8 a = load_halves(table + walk.column / 2, job.K / 2),
           b = load_halves(table + job.K + walk.column / 2, job.K / 2),
           c = load_halves(table + 2 * job.K + walk.column / 2, job.K / 2);
  const int last = min(job.tile_rows, job.rows - first), pitch = job.pitch_k();
#pragma unroll 1
  for (int row = walk.row; row < last; row += walk.step) {
    const int at = row * pitch + walk.column;
    F8 v = load8(g + at);
    const F8 u = load8(y + at);
#pragma unroll
    for (int i = 0; i < 8; ++i) v.v[i] = fmaf(a.v[i], v.v[i], fmaf(b.v[i], u.v[i], c.v[i]));
    store8(g + at, v);
  }
}

__device__ __forceinline__ void make_activation(const Job& job, bf16* x, const Walk& walk, const float* table,
                                                int first) {
  if (!job.x.active() || walk.column >= job.C) return;
  const F8 a = load_halves(table + walk.column / 2, job.C / 2),
           b = load_halves(table + job.C + walk.column / 2, job.C / 2);
  const int last = min(job.tile_rows, job.rows - first), pitch = job.pitch_c();
  choose_act(job.x.act, [&](auto function) {
#pragma unroll 1
    for (int row = walk.row; row < last; row += walk.step) {
      bf16* at = x + row * pitch + walk.column;
      F8 v = load8(at);
#pragma unroll
      for (int i = 0; i < 8; ++i) v.v[i] = function(fmaf(a.v[i], v.v[i], b.v[i]));
      if (job.x.gate) {
        const F8 gate = load8(job.x.gate + int64_t(job.by_pixels.divide(uint32_t(first + row))) * job.C + walk.column);
#pragma unroll
        for (int i = 0; i < 8; ++i) v.v[i] *= gate.v[i];
      }
      store8(at, v);
    }
  });
}

// dX tile = dY W, stored as bfloat16. Warps: 16 rows each, the others of these rows take the next 32 columns.
__device__ __forceinline__ void input_gradient(const Job& job, const bf16* dy, const bf16* w, bf16* dx, int warp,
                                               int lane) {
  const int log_groups = job.tile_rows == 64 ? 2 : 1, row = (warp & ((1 << log_groups) - 1)) * 16,
            pitch_k = job.pitch_k(), pitch_c = job.pitch_c();
  for (int column = (warp >> log_groups) * 32; column < job.padded_c(); column += (warps >> log_groups) * 32) {
    const bool both = column + 16 < job.padded_c();
    float acc[4][4] = {};
#pragma unroll 1
    for (int k = 0; k < job.padded_k(); k += 16) {
      uint32_t a[4], b[4];
      ldmatrix_x4(a, dy + (row + lane % 16) * pitch_k + k + lane / 16 * 8);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (half == 1 && !both) break;
        ldmatrix_x4_trans(b, w + (k + lane % 16) * pitch_c + column + half * 16 + lane / 16 * 8);
        mma_bf16_16816(acc[half * 2], a, {b[0], b[1]});
        mma_bf16_16816(acc[half * 2 + 1], a, {b[2], b[3]});
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j == 2 && !both) break;
#pragma unroll
      for (int h = 0; h < 2; ++h)
        store_as<uint32_t>(dx + (row + lane / 4 + h * 8) * pitch_c + column + j * 8 + lane % 4 * 2,
                           pack2(acc[j][h * 2], acc[j][h * 2 + 1]));
    }
  }
}

// acc += dY^T X over the tile; a warp has MI x NJ squares of 16 x 16 from (k0, c0) on, those beyond the padding left
// out.
template <int MI, int NJ>
__device__ __forceinline__ void weight_gradient_step(const Job& job, const bf16* dy, const bf16* x, int k0, int c0,
                                                     int lane, float (&acc)[MI][2 * NJ][4]) {
  const int pitch_k = job.pitch_k(), pitch_c = job.pitch_c();
  if (k0 >= job.padded_k() || c0 >= job.padded_c()) return;
#pragma unroll 1
  for (int row = 0; row < job.tile_rows; row += 16) {
    uint32_t a[MI][4];
#pragma unroll
    for (int i = 0; i < MI; ++i)
      if (k0 + i * 16 < job.padded_k())
        ldmatrix_x4_trans(a[i], dy + (row + lane / 16 * 8 + lane % 8) * pitch_k + k0 + i * 16 + lane / 8 % 2 * 8);
#pragma unroll
    for (int j = 0; j < NJ; ++j) {
      if (c0 + j * 16 >= job.padded_c()) break;
      uint32_t b[4];
      ldmatrix_x4_trans(b, x + (row + lane % 16) * pitch_c + c0 + j * 16 + lane / 16 * 8);
#pragma unroll
      for (int i = 0; i < MI; ++i)
        if (k0 + i * 16 < job.padded_k()) {
          mma_bf16_16816(acc[i][2 * j], a[i], {b[0], b[1]});
          mma_bf16_16816(acc[i][2 * j + 1], a[i], {b[2], b[3]});
        }
    }
  }
}

// Adds up the two sums of the threads that share a column and writes the block's part.
__device__ __forceinline__ void write_sums(const Job& job, const Walk& walk, const F8& sum, const F8& product,
                                           float* shared) {
  const int chunks = job.C / 8;
  if (int(threadIdx.x) < walk.step * chunks) {
    store8(shared + (walk.row * chunks * 8 + walk.column) * 2, sum);
    store8(shared + (walk.row * chunks * 8 + walk.column) * 2 + 8, product);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * job.C; i += threads) {
    const int which = i / job.C, column = i % job.C;
    float total = 0;
    for (int row = 0; row < walk.step; ++row)
      total += shared[(row * job.C + column / 8 * 8) * 2 + which * 8 + column % 8];
    job.out.partial[(int64_t(blockIdx.x) * 2 + which) * job.C + column] = job.out.finish(which, column, total);
  }
}

template <int MI, int NJ, int resident>
__global__ void __launch_bounds__(threads, blocks_by_registers(resident))
    pointwise_kernel(const __grid_constant__ Job job) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(bf16, shared);
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, pitch_k = job.pitch_k(),
            pitch_c = job.pitch_c();
  const int k0 = (warp & ((1 << job.log_warps_k) - 1)) * MI * 16, c0 = (warp >> job.log_warps_k) * NJ * 16;
  bf16* w = shared + 2 * job.stage_elements();
  bf16* dx = w + job.padded_k() * pitch_c;
  float* table = reinterpret_cast<float*>(dx + job.tile_rows * pitch_c);
  float *x_table = table + 3 * job.K, *out_table = x_table + 2 * job.C;
  const int y_at = job.tile_rows * pitch_k, x_at = 2 * y_at;

  const auto fetch = [&](int tile, bf16* stage) {
    const int first = job.first_row(tile);
    if (tile < job.tiles) {
      fetch_tile(job.dy.first(), stage, Walk(job.chunks_k, job.tile_rows), pitch_k, job.K, first, job.rows,
                 job.tile_rows);
      if (job.dy.pair())
        fetch_tile(job.dy.second(), stage + y_at, Walk(job.chunks_k, job.tile_rows), pitch_k, job.K, first, job.rows,
                   job.tile_rows);
      fetch_tile(job.x.first(), stage + x_at, Walk(job.chunks_c, job.tile_rows), pitch_c, job.C, first, job.rows,
                 job.tile_rows);
    }
    cp_commit();
  };

  // joins the first group
  fetch_tile(job.w, w, Walk(job.chunks_c, job.padded_k()), pitch_c, job.C, 0, job.K, job.padded_k());
  fetch(int(blockIdx.x), shared);
  if (job.dy.active())
    for (int i = thread; i < job.K; i += threads) job.dy.fill(table + halved(i, job.K / 2), job.K, i);
  if (job.x.active())
    for (int i = thread; i < job.C; i += threads) job.x.fill(x_table + halved(i, job.C / 2), job.C, i);
  for (int i = thread; i < job.C; i += threads) job.out.fill(out_table + halved(i, job.C / 2), job.C, i);
  __syncthreads();

  float acc[MI][2 * NJ][4] = {};
  F8 sum = zero8(), product = zero8();
  bool odd = false;
#pragma unroll 1
  for (int tile = int(blockIdx.x); tile < job.tiles; tile += int(gridDim.x)) {
    const int first = job.first_row(tile);
    bf16* stage = shared + (odd ? job.stage_elements() : 0);
    odd = !odd;
    fetch(tile + int(gridDim.x), shared + (odd ? job.stage_elements() : 0));
    cp_wait<1>();
    make_gradient(job, stage, stage + y_at, Walk(job.chunks_k, job.tile_rows), table, first);
    make_activation(job, stage + x_at, Walk(job.chunks_c, job.tile_rows), x_table, first);
    __syncthreads();
    input_gradient(job, stage, w, dx, warp, lane);
    weight_gradient_step<MI, NJ>(job, stage, stage + x_at, k0, c0, lane, acc);
    __syncthreads();
    const Walk walk_out(job.chunks_out, job.tile_rows);
    const int last = min(job.tile_rows, job.rows - first);
#pragma unroll 1
    for (int row = walk_out.row; row < last; row += walk_out.step)
      job.out.store(first + row, walk_out.column, load8(dx + row * pitch_c + walk_out.column),
                    job.out.fetch(first + row, walk_out.column), out_table + walk_out.column / 2, job.C, sum, product);
  }
  cp_wait<0>();

#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int j = 0; j < 2 * NJ; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int k = k0 + i * 16 + lane / 4 + h * 8, c = c0 + j * 8 + lane % 4 * 2;
        if (k < job.K && c < job.C)
          store_as<float2>(job.dw + (int64_t(blockIdx.x) * job.K + k) * job.C + c,
                           make_float2(acc[i][j][h * 2], acc[i][j][h * 2 + 1]));
      }
  if (!job.out.partial) return;
  __syncthreads();  // everything shared is free
  write_sums(job, Walk(job.chunks_out, job.tile_rows), sum, product, reinterpret_cast<float*>(shared));
}

// The squares of a warp, 2 x 2 or, for larger weights, 3 x 4 (0.9 % of a step of mobilenet_v2 at 224 px by the clock),
// and how the warps lie, for K x C weights.
struct Plan {
  int squares_k, log_warps_k;  // squares_k 0: none fits
  Plan(int K, int C) : squares_k(0), log_warps_k(0) {
    const int k = (K + 15) / 16, c = (C + 15) / 16;
    for (const auto& [mi, nj] : {std::pair{2, 2}, std::pair{3, 4}})
      for (int log_k = 0; warps >> log_k > 0; ++log_k)
        if ((mi << log_k) >= k && (warps >> log_k) * nj >= c && squares_k == 0) {
          squares_k = mi;
          log_warps_k = log_k;
        }
  }
};

}  // namespace

// On cards with less shared memory than an H100's, weights that fill it take two products instead.
bool fits_pointwise(const Context& ctx, const ConvShape& s, DType type) {
  return type == DType::bf16 && is_pointwise(s) && s.rows() < 1 << 30 && s.k <= 512 && s.c <= 512 &&
         s.k * s.c <= 24576 && Plan(s.k, s.c).squares_k > 0 &&
         Layout{s.k, s.c, 32}.shared_bytes() <= ctx.card.block_shared_bytes;
}

bool suits_pointwise(const Context& ctx, const ConvShape& s, DType type) {
  // Every block leaves 4 K C bytes that are written and read again; the pass saved is 4 K bytes a pixel.
  const int64_t multiprocessors = ctx.card.multiprocessors;
  return fits_pointwise(ctx, s, type) && s.rows() >= 4 * multiprocessors * s.c && s.rows() >= 64 * 2 * multiprocessors;
}

void pointwise_backward(Context& ctx, const ConvShape& s, const LazyInput& x, const LazyGradient& dy, const void* w,
                        float* dw, const GradientTarget& target) {
  check_dense(s);
  const Plan plan(s.k, s.c);
  const auto kernel = plan.squares_k == 2 ? &pointwise_kernel<2, 2, 2> : &pointwise_kernel<3, 4, 1>;
  const int resident = plan.squares_k == 2 ? 2 : 1;
  Job job{{s.k, s.c, 64},
          int(s.rows()),
          plan.log_warps_k,
          FastDivide(uint32_t(s.oh * s.ow)),
          Chunks((s.k + 15) / 16 * 16),
          Chunks((s.c + 15) / 16 * 16),
          Chunks(s.c),
          read::Gradient<bf16>(dy),
          read::Activation<bf16>(x),
          static_cast<const bf16*>(w),
          ReachTarget<bf16>(s, where::Phase(s, 0, 0), target),
          nullptr};
  if (job.shared_bytes() > ctx.card.shared_bytes / size_t(resident) - 1024) job.tile_rows = 32;
  const size_t shared = job.shared_bytes();
  allow_shared_memory(kernel, shared);
  job.tiles = int((s.rows() + job.tile_rows - 1) / job.tile_rows);
  job.back = ctx.turn();
  const int most = ctx.card.multiprocessors * resident_blocks(kernel, threads, shared, resident),
            each = (job.tiles + most - 1) / most, blocks = (job.tiles + each - 1) / each;
  const size_t weights = size_t(s.k) * s.c;
  job.dw = partial_sums(ctx).take(ctx, blocks, int64_t(weights));
  if (target.y) job.out.partial = static_cast<float*>(ctx.scratch(size_t(blocks) * 2 * s.c * 4));
  LGD_LAUNCH(ctx, kernel, unsigned(blocks), threads, shared, job);
  partial_sums(ctx).add(ctx, {{job.dw, dw, int64_t(weights), blocks}});
  if (target.y) finish_gradient(ctx, job.out.partial, blocks, s.c, s.rows(), target.norm);
}

}  // namespace lgd
