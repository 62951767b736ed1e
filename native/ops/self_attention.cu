// Self-attention (ops/self_attention.h), forward: the scores stay on the chip.
//
// bfloat16: a block has 64 queries of a head of an image, a warp 16 of them, whose fragments stay in registers. Keys
// and values come by cp.async, 64 tokens at a time and two such tiles deep. Scores, their running maximum and sum
// (online softmax: when the maximum grows, what was summed before shrinks) and the output are accumulators of mma.sync;
// the scores' fragments are, rounded, the operand of the second product, since both lie alike. At least 8 N T C bytes
// move (3 in, 1 out, of 2 each) for 4 N T^2 C operations. float32, for checking: a warp has one query, and its scores
// lie in shared memory.
#include "core/cuda_device.cuh"
#include "ops/grids.cuh"
#include "ops/self_attention.h"
#include "ops/self_attention_tiles.cuh"

namespace lgd {
namespace {

constexpr int queries = 64, keys = 64, threads = 128;
template <int D>
constexpr size_t shared_bytes = size_t(2) * 2 * keys * pitch<D> * sizeof(bf16);

template <int D>
__global__ void __launch_bounds__(threads, blocks_by_registers(D > 80   ? 2
                                                               : D > 64 ? 3
                                                                        : 4))
    flash_kernel(SelfAttentionShape s, const bf16* qkv, bf16* out) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(bf16, shared);  // [stage][keys, values][64][pitch]
  const int lane = threadIdx.x % 32, width = s.channels / s.heads, pair = lane % 4 * 2;
  // this lane's rows: row0 and row0 + 8
  const int first = int(blockIdx.x) * queries, row0 = first + int(threadIdx.x) / 32 * 16 + lane / 4;
  const bf16* head = qkv + int64_t(blockIdx.z) * s.tokens * 3 * s.channels + int64_t(blockIdx.y) * width;
  const float scale = rsqrtf(float(width));

  const HeadRows queries_of{head, 3 * int64_t(s.channels)}, keys_of{head + s.channels, queries_of.stride},
      values_of{head + 2 * s.channels, queries_of.stride};

  uint32_t q[D / 16][4];
  load_rows<D>(q, queries_of, s.tokens, width, row0);

  float o[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  const int reach = s.causal ? min(s.tokens, first + queries) : s.tokens, tiles = (reach + keys - 1) / keys;
  const auto fetch = [&](int tile) {
    fetch_rows<D, keys, threads>(keys_of, values_of, s.tokens, width, tile * keys,
                                 shared + tile % 2 * 2 * keys * pitch<D>);
  };
  fetch(0);
  cp_commit();
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    bf16* k_tile = shared + tile % 2 * 2 * keys * pitch<D>;
    bf16* v_tile = k_tile + keys * pitch<D>;
    if (tile + 1 < tiles) fetch(tile + 1);
    cp_commit();
    cp_wait<1>();
    __syncthreads();

    float score[keys / 8][4] = {};
    multiply_by_rows<D>(score, q, k_tile);
    soften<D>(score, s, scale, row0, tile * keys + pair, most, total, o,
              [&](int j, int e, float numerator) { score[j][e] = numerator; });
    multiply_by_columns<D>(o, score, v_tile);
    __syncthreads();  // the stage is free
  }
  cp_wait<0>();

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    total[h] += shfl_xor(total[h], 1);
    total[h] += shfl_xor(total[h], 2);
    const int row = row0 + h * 8;
    if (row >= s.tokens) continue;
    const float factor = 1.f / total[h];
    bf16* to = out + (int64_t(blockIdx.z) * s.tokens + row) * s.channels + int64_t(blockIdx.y) * width + pair;
#pragma unroll
    for (int j = 0; j < D / 8; ++j)
      if (j * 8 < width) store_as<uint32_t>(to + j * 8, pack2(o[j][h * 2] * factor, o[j][h * 2 + 1] * factor));
  }
}

__global__ void __launch_bounds__(threads) checked_kernel(SelfAttentionShape s, const float* qkv, float* out) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(float, shared);  // [warp][tokens]
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, width = s.channels / s.heads,
            row = int(blockIdx.x) * 4 + warp;
  if (row >= s.tokens) return;
  const float* head = qkv + int64_t(blockIdx.z) * s.tokens * 3 * s.channels + int64_t(blockIdx.y) * width;
  const float* query = head + int64_t(row) * 3 * s.channels;
  float* score = shared + warp * s.tokens;
  const int reach = s.causal ? row + 1 : s.tokens;
  const float scale = rsqrtf(float(width));
  float most = -INFINITY, total = 0;
  for (int t = lane; t < reach; t += 32) {
    const float* key = head + s.channels + int64_t(t) * 3 * s.channels;
    float dot = 0;
    for (int c = 0; c < width; ++c) dot = fmaf(query[c], key[c], dot);
    score[t] = dot * scale;
    most = fmaxf(most, score[t]);
  }
  most = most_of_warp(most);
  for (int t = lane; t < reach; t += 32) total += score[t] = exp_of(score[t] - most);
  total = sum_of_warp(total);
  __syncwarp();
  for (int c = lane; c < width; c += 32) {
    const float* value = head + 2 * s.channels + c;
    float sum = 0;
    for (int t = 0; t < reach; ++t) sum = fmaf(score[t], value[int64_t(t) * 3 * s.channels], sum);
    out[(int64_t(blockIdx.z) * s.tokens + row) * s.channels + int64_t(blockIdx.y) * width + c] = sum / total;
  }
}

template <int D>
void launch_flash(Context& ctx, const SelfAttentionShape& s, const void* qkv, void* out) {
  allow_shared_memory(flash_kernel<D>, shared_bytes<D>);
  LGD_LAUNCH(ctx, flash_kernel<D>, dim3(unsigned((s.tokens + queries - 1) / queries), unsigned(s.heads), unsigned(s.n)),
             threads, shared_bytes<D>, s, static_cast<const bf16*>(qkv), static_cast<bf16*>(out));
}

}  // namespace

void self_attention_forward_cuda(Context& ctx, const SelfAttentionShape& s, DType type, const void* qkv, void* out) {
  const int width = s.channels / s.heads;
  LGD_CHECK(width % 8 == 0 && width <= 128, "BAD_SHAPE", "a head of self-attention is ", width,
            " channels wide. Allowed on CUDA: a multiple of 8 up to 128.");
  LGD_CHECK(s.n < 65536 && s.heads < 65536, "BAD_SHAPE", "self-attention has ", s.n, " images of ", s.heads,
            " heads. Allowed on CUDA: less than 65,536 of either.");
  if (type == DType::f32) {
    const size_t bytes = size_t(4) * s.tokens * sizeof(float);
    const size_t most = ctx.card.block_shared_bytes;
    LGD_CHECK(bytes <= most, "BAD_SHAPE", "self-attention in float32 holds at most ", most / (4 * sizeof(float)),
              " tokens on this GPU, found ", s.tokens, ". Use bfloat16.");
    allow_shared_memory(checked_kernel, bytes);
    LGD_LAUNCH(ctx, checked_kernel, dim3(unsigned((s.tokens + 3) / 4), unsigned(s.heads), unsigned(s.n)), threads,
               bytes, s, static_cast<const float*>(qkv), static_cast<float*>(out));
    return;
  }
  if (width <= 32) launch_flash<32>(ctx, s, qkv, out);
  else if (width <= 64) launch_flash<64>(ctx, s, qkv, out);
  else if (width <= 80) launch_flash<80>(ctx, s, qkv, out);
  else if (width <= 96) launch_flash<96>(ctx, s, qkv, out);
  else launch_flash<128>(ctx, s, qkv, out);
}

}  // namespace lgd
