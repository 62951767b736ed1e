// Attention pooling whose keys and values are never formed (ops/attention.h, AbsorbedShape): three kernels.
//
//   queries   u[n,h,:] = Wk_h^T q[n,h,:]                       the matrix core, a head's columns after the other's
//   pool      y[n,h,:] = sum_t softmax(u[n,h,:] . x[n,t,:]) x[n,t,:]      a block an image, in place of u
//   values    out[n,h,:] = Wv_h y[n,h,:] + bv_h                the matrix core
//
// Bytes at least: x once, u twice and y twice (each 2 heads C an image), the weights. The pool reads x a second time,
// by then from level-2 cache.
//
// The pool needs no copies to shared memory: the order of a sum does not matter as long as both operands have the same,
// nor that of columns as long as they are stored where they belong. So a lane takes 16 bytes of a row, eight channels,
// and says that they are the ones that mma.sync wants of it.
#include "core/cuda_device.cuh"
#include "ops/attention.h"
#include "ops/conv_loaders.cuh"
#include "ops/lazy_operands.cuh"
#include "ops/matrix_core.cuh"
#include "ops/store_output.cuh"

namespace lgd {
namespace {

constexpr int head_size = AbsorbedShape::size;

// Rows of which each column tile of the output reads others: matrix row = row * row_step + head * head_rows, from
// column head * head_columns on. The head is that of the block's columns, of which tiles_a_head tiles are one head's.
struct HeadRows {
  static constexpr bool k_outer = false, overlaps = false;
  int rows, width, row_pitch, row_step, head_rows, head_columns, tiles_a_head;
  constexpr int channels() const { return width; }
  constexpr int pitch() const { return row_pitch; }

  template <class Mine>
  struct State : where::InnerChunks<Mine> {
    int head;
    __device__ __forceinline__ void init(const HeadRows& of, int first, int thread) {
      where::InnerChunks<Mine>::init(of, first, thread);
      head = int(blockIdx.y) / of.tiles_a_head;
    }
    __device__ __forceinline__ int column(const HeadRows& of, int tile) const {
      return head * of.head_columns + tile * Mine::BK + this->k;
    }
    __device__ __forceinline__ uint32_t row(const HeadRows& of, int, int slot, bool& inside) const {
      const int row = this->row0 + slot * Mine::step;
      inside = row < of.rows;
      return uint32_t(row * of.row_step + head * of.head_rows);
    }
  };
};

// Weights [heads * head_size][width] as head_size rows of [heads][width] columns (k outer); a tile of columns is of one
// head.
struct HeadWeights {
  static constexpr bool k_outer = true, overlaps = false;
  int width;
  constexpr int channels() const { return width; }
  constexpr int pitch() const { return width; }

  template <class Mine>
  struct State {
    int column0, row0;
    __device__ __forceinline__ void init(const HeadWeights& of, int first, int thread) {
      const int head = first / of.width;
      column0 = first - head * of.width + thread % Mine::chunks * Mine::chunk;
      row0 = head * head_size + thread / Mine::chunks;
    }
    __device__ __forceinline__ void begin(const HeadWeights&, int) {}
    __device__ __forceinline__ int column(const HeadWeights&, int) const { return column0; }
    __device__ __forceinline__ uint32_t row(const HeadWeights&, int tile, int slot, bool& inside) const {
      inside = true;
      return uint32_t(row0 + tile * Mine::BK + slot * Mine::step);
    }
  };
};

// ---- the pool -------------------------------------------------------------------------------------------------------
constexpr int warps = 4, heads_at_once = 32, tokens_at_once = 64, channels_at_once = 64;
constexpr int score_pitch = tokens_at_once + 4;  // floats: of the parts that warps leave

constexpr int padded_tokens(int tokens) { return (tokens + 15) / 16 * 16; }
// floats
constexpr int logit_pitch(int tokens) { return (tokens + tokens_at_once - 1) / tokens_at_once * tokens_at_once + 4; }
// bf16
constexpr int weight_pitch(int tokens) { return padded_tokens(tokens) + 8; }
constexpr size_t pool_shared(int tokens) {
  return size_t(warps) * heads_at_once * score_pitch * 4 + size_t(heads_at_once) * logit_pitch(tokens) * 4 +
         size_t(heads_at_once) * weight_pitch(tokens) * 2;
}

__device__ __forceinline__ uint4 load_row(const bf16* row, bool inside) {
  return inside ? load_as<uint4>(row) : make_uint4(0, 0, 0, 0);
}

// A warp's part of scores[32 heads][64 tokens]: its blocks of 32 channels. A lane has eight channels of rows lane/4,
// lane/4 + 8 and so on; its first four are one product, its last four another.
__device__ __forceinline__ void partial_scores(const bf16* u, const bf16* x, int channels, int heads, int tokens,
                                               int warp, int lane, float* part) {
  constexpr int MI = heads_at_once / 16, NI = tokens_at_once / 8;
  float acc[MI][NI][4] = {};
  const int row = lane / 4, first = lane % 4 * 8;
  for (int c = warp * 32; c < channels; c += warps * 32) {
    uint4 a[2 * MI], b[NI];
#pragma unroll
    for (int i = 0; i < 2 * MI; ++i)
      a[i] = load_row(u + int64_t(row + i * 8) * channels + c + first, row + i * 8 < heads);
#pragma unroll
    for (int j = 0; j < NI; ++j) b[j] = load_row(x + int64_t(row + j * 8) * channels + c + first, row + j * 8 < tokens);
#pragma unroll
    for (int i = 0; i < MI; ++i) {
      const uint32_t low[4] = {a[2 * i].x, a[2 * i + 1].x, a[2 * i].y, a[2 * i + 1].y},
                     high[4] = {a[2 * i].z, a[2 * i + 1].z, a[2 * i].w, a[2 * i + 1].w};
#pragma unroll
      for (int j = 0; j < NI; ++j) {
        mma_bf16_16816(acc[i][j], low, {b[j].x, b[j].y});
        mma_bf16_16816(acc[i][j], high, {b[j].z, b[j].w});
      }
    }
  }
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int j = 0; j < NI; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        store_as<float2>(part + (i * 16 + half * 8 + row) * score_pitch + j * 8 + lane % 4 * 2,
                         make_float2(acc[i][j][half * 2], acc[i][j][half * 2 + 1]));
}

// Softmax of one head's logits, to bf16; beyond the last token zeros.
__device__ __forceinline__ void softmax_row(const float* logits, int tokens, int lane, bf16* weights) {
  float most = -INFINITY, total = 0;
  for (int t = lane; t < tokens; t += 32) most = fmaxf(most, logits[t]);
  most = most_of_warp(most);
  for (int t = lane; t < tokens; t += 32) total += exp_of(logits[t] - most);
  total = sum_of_warp(total);
  for (int t = lane; t < padded_tokens(tokens); t += 32)
    store1(weights + t, t < tokens ? exp_of(logits[t] - most) / total : 0.f);
}

// y[32 heads][64 channels] = weights x: a lane has eight channels of four tokens in sixteen, and gets sixteen channels
// of each of its heads.
__device__ __forceinline__ void weighted_sum(const bf16* weights, int pitch, const bf16* x, int channels, int heads,
                                             int tokens, int lane, bf16* y) {
  constexpr int MI = heads_at_once / 16, NI = channels_at_once / 8;
  float acc[MI][NI][4] = {};
  const int row = lane / 4, pair = lane % 4 * 2;
  for (int t = 0; t < tokens; t += 16) {
    uint4 v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = t + pair + i / 2 * 8 + i % 2;
      v[i] = load_row(x + int64_t(token) * channels + row * 8, token < tokens);
    }
    uint32_t a[MI][4];
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
      for (int q = 0; q < 4; ++q)
        a[i][q] = load_as<uint32_t>(weights + (i * 16 + q % 2 * 8 + row) * pitch + t + pair + q / 2 * 8);
    const uint32_t words[4][4] = {{v[0].x, v[0].y, v[0].z, v[0].w},
                                  {v[1].x, v[1].y, v[1].z, v[1].w},
                                  {v[2].x, v[2].y, v[2].z, v[2].w},
                                  {v[3].x, v[3].y, v[3].z, v[3].w}};
#pragma unroll
    for (int j = 0; j < NI; ++j) {  // column 8 row + j
      const int w = j / 2;
      const uint32_t b[2] = {j % 2 ? high_halves(words[0][w], words[1][w]) : low_halves(words[0][w], words[1][w]),
                             j % 2 ? high_halves(words[2][w], words[3][w]) : low_halves(words[2][w], words[3][w])};
#pragma unroll
      for (int i = 0; i < MI; ++i) mma_bf16_16816(acc[i][j], a[i], b);
    }
  }
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int head = i * 16 + half * 8 + row;
      if (head >= heads) continue;
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        F8 values;
#pragma unroll
        for (int j = 0; j < NI; ++j) values.v[j] = acc[i][j][half * 2 + q];
        store8(y + int64_t(head) * channels + (pair + q) * 8, values);
      }
    }
}

__global__ void __launch_bounds__(warps * 32) pool_kernel(AbsorbedShape s, const bf16* x, bf16* u) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(float, parts);
  float* const logits = parts + warps * heads_at_once * score_pitch;
  const int pitch = logit_pitch(s.tokens), thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  bf16* const weights = reinterpret_cast<bf16*>(logits + heads_at_once * pitch);
  const float scale = rsqrtf(float(head_size));
  x += int64_t(blockIdx.x) * s.tokens * s.channels;
  u += int64_t(blockIdx.x) * s.heads * s.channels;
  for (int head = 0; head < s.heads; head += heads_at_once, u += int64_t(heads_at_once) * s.channels) {
    const int heads = min(heads_at_once, s.heads - head);
    for (int t = 0; t < s.tokens; t += tokens_at_once) {
      partial_scores(u, x + int64_t(t) * s.channels, s.channels, heads, s.tokens - t, warp, lane,
                     parts + warp * heads_at_once * score_pitch);
      __syncthreads();
      for (int i = thread; i < heads_at_once * tokens_at_once; i += warps * 32) {
        const int row = i / tokens_at_once, column = i % tokens_at_once;
        float sum = 0;
        for (int part = 0; part < warps; ++part) sum += parts[(part * heads_at_once + row) * score_pitch + column];
        logits[row * pitch + t + column] = sum * scale;
      }
      __syncthreads();
    }
    for (int row = warp; row < heads_at_once; row += warps)
      softmax_row(logits + row * pitch, s.tokens, lane, weights + row * weight_pitch(s.tokens));
    __syncthreads();
    for (int c = warp * channels_at_once; c < s.channels; c += warps * channels_at_once)
      weighted_sum(weights, weight_pitch(s.tokens), x + c, s.channels, heads, s.tokens, lane, u + c);
  }
}

template <class Tile, class A, class B>
void multiply(Context& ctx, const A& a, const B& b, const StoreOutput<bf16>& out, int64_t M, int64_t N, int64_t K) {
  matrix::launch_walking<bf16, Tile>(ctx, a, b, out, M, N, K);
}

}  // namespace

void absorbed_attention_forward_cuda(Context& ctx, const AbsorbedShape& s, DType type, const void* q, const void* x,
                                     const void* wk, const void* wv, const float* bv, void* out) {
  using Stored = read::Stored<bf16>;
  using Wide = matrix::Tiles<4>::Wide;
  using Small = matrix::Tiles<4>::Small;
  static_assert(Small::BN == head_size);
  static_assert(Wide::BN == 128);  // no tile has columns of two heads
  LGD_CHECK(type == DType::bf16 && can_absorb(s), "BAD_SHAPE",
            "attention pooling without keys and values is for bfloat16, channels a multiple of 128 and at most 256 "
            "tokens, found ",
            s.channels, " and ", s.tokens);
  bf16* const u = static_cast<bf16*>(ctx.scratch(size_t(s.n) * s.heads * s.channels * sizeof(bf16)));
  const int64_t columns = int64_t(s.heads) * s.channels;
  multiply<Wide>(ctx,
                 Loader{HeadRows{s.n, head_size, s.inner(), 1, 0, head_size, s.channels / Wide::BN},
                        Stored{static_cast<const bf16*>(q)}},
                 Loader{HeadWeights{s.channels}, Stored{static_cast<const bf16*>(wk)}},
                 {u, columns, nullptr, nullptr, nullptr, Act::none}, s.n, columns, head_size);
  allow_shared_memory(pool_kernel, pool_shared(s.tokens));
  LGD_LAUNCH(ctx, pool_kernel, dim3(unsigned(s.n)), warps * 32, pool_shared(s.tokens), s, static_cast<const bf16*>(x),
             u);
  multiply<Small>(ctx, Loader{HeadRows{s.n, s.channels, s.channels, s.heads, 1, 0, 1}, Stored{u}},
                  Loader{where::Rows{s.inner(), s.channels}, Stored{static_cast<const bf16*>(wv)}},
                  {static_cast<bf16*>(out), s.inner(), nullptr, bv, nullptr, Act::none}, s.n, s.inner(), s.channels);
}

}  // namespace lgd
