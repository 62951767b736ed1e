// Self-attention (ops/self_attention.h), backward. Nothing is added by two blocks, so two kernels form the scores, each
// in its own way around: 14 N T^2 C operations where 10 would do if they could be kept.
//
// bfloat16, each with 16 rows a warp, 64 a block (ops/self_attention_tiles.cuh):
//
//   queries: as forward, online: what is summed over keys is the softmax's numerators times (d_out . v - D), which
//     shrinks like the output when the maximum grows. Leaves of each row the logarithm of the softmax's sum, and D.
//   keys: over tiles of 32 queries, with these two numbers; both products have the keys as rows, so that weights and
//     slopes, rounded, are operands for the sums over queries.
//
// At least 22 N T C bytes move: the queries' kernel reads qkv, out and d_out and writes dq, the keys' reads qkv and
// d_out and writes dk and dv. float32, for checking: a warp has one query, or one key, and its row of weights and
// slopes lies in shared memory.
#include "core/cuda_device.cuh"
#include "ops/grids.cuh"
#include "ops/self_attention.h"
#include "ops/self_attention_tiles.cuh"

namespace lgd {
namespace {

constexpr int rows = 64, threads = 128, keys = 64, queries = 32;
template <int D, int columns>
constexpr size_t shared_bytes = size_t(2) * 2 * columns * pitch<D> * sizeof(bf16);

// What the softmax of a query's scores needs: exp(score - log_sum) is its weight.
struct RowNumbers {
  float log_sum, mean;  // mean: D
};
__host__ __device__ __forceinline__ int64_t row_pitch(const SelfAttentionShape& s) {
  return (s.tokens + queries - 1) / queries * queries;
}
__device__ __forceinline__ int64_t numbers_place(const SelfAttentionShape& s, int row) {
  return (int64_t(blockIdx.z) * s.heads + blockIdx.y) * row_pitch(s) + row;
}

// One head of one image, of T the storage type.
template <class T>
struct Head {
  int width;
  int64_t row;  // elements between tokens of qkv
  const T *qkv, *out, *d_out;
  T* d_qkv;
};
template <class T>
__device__ __forceinline__ Head<T> head_of(const SelfAttentionShape& s, const T* qkv, const T* out, const T* d_out,
                                           T* d_qkv) {
  const int width = s.channels / s.heads;
  const int64_t image = int64_t(blockIdx.z) * s.tokens * s.channels, at = int64_t(blockIdx.y) * width;
  return {width,
          3 * int64_t(s.channels),
          qkv + 3 * image + at,
          out + image + at,
          d_out + image + at,
          d_qkv + 3 * image + at};
}

__device__ __forceinline__ float low_of(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// This lane's two rows of sums, times `factor` each.
template <int D>
__device__ __forceinline__ void put_rows(bf16* to, int64_t stride, int tokens, int width, int row0,
                                         const float (&sum)[D / 8][4], const float (&factor)[2], bool accumulate) {
  const int pair = int(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = row0 + h * 8;
    if (row >= tokens) continue;
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      if (j * 8 >= width) continue;
      bf16* at = to + row * stride + j * 8 + pair;
      float low = sum[j][h * 2] * factor[h], high = sum[j][h * 2 + 1] * factor[h];
      if (accumulate) {
        const uint32_t old = load_as<uint32_t>(at);
        low += low_of(old);
        high += high_of(old);
      }
      store_as<uint32_t>(at, pack2(low, high));
    }
  }
}

template <int D>
__global__ void __launch_bounds__(threads, blocks_by_registers(3))
    query_gradient_kernel(SelfAttentionShape s, const bf16* qkv, const bf16* out, const bf16* d_out, bf16* d_qkv,
                          RowNumbers* numbers, bool accumulate) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(bf16, shared);  // [stage][keys, values][64][pitch]
  const Head<bf16> head = head_of(s, qkv, out, d_out, d_qkv);
  const int lane = threadIdx.x % 32, pair = lane % 4 * 2, width = head.width, first = int(blockIdx.x) * rows,
            row0 = first + int(threadIdx.x) / 32 * 16 + lane / 4;
  const HeadRows keys_of{head.qkv + s.channels, head.row}, values_of{head.qkv + 2 * s.channels, head.row};
  const float scale = rsqrtf(float(width));
  const int reach = s.causal ? min(s.tokens, first + rows) : s.tokens, tiles = (reach + keys - 1) / keys;
  const auto fetch = [&](int tile) {
    fetch_rows<D, keys, threads>(keys_of, values_of, s.tokens, width, tile * keys,
                                 shared + tile % 2 * 2 * keys * pitch<D>);
  };
  fetch(0);
  cp_commit();

  uint32_t q[D / 16][4], g[D / 16][4];
  float mean[2] = {0, 0};
  load_rows<D>(q, {head.out, s.channels}, s.tokens, width, row0);
  load_rows<D>(g, {head.d_out, s.channels}, s.tokens, width, row0);
#pragma unroll
  for (int k = 0; k < D / 16; ++k)
#pragma unroll
    for (int part = 0; part < 4; ++part)
      mean[part % 2] =
          fmaf(low_of(q[k][part]), low_of(g[k][part]), fmaf(high_of(q[k][part]), high_of(g[k][part]), mean[part % 2]));
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    mean[h] += shfl_xor(mean[h], 1);
    mean[h] += shfl_xor(mean[h], 2);
  }
  load_rows<D>(q, {head.qkv, head.row}, s.tokens, width, row0);

  float sum[D / 8][4] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    const bf16* k_tile = shared + tile % 2 * 2 * keys * pitch<D>;
    if (tile + 1 < tiles) fetch(tile + 1);
    cp_commit();
    cp_wait<1>();
    __syncthreads();

    float score[keys / 8][4] = {}, slope[keys / 8][4] = {};
    multiply_by_rows<D>(score, q, k_tile);
    multiply_by_rows<D>(slope, g, k_tile + keys * pitch<D>);
    soften<D>(score, s, scale, row0, tile * keys + pair, most, total, sum,
              [&](int j, int e, float numerator) { slope[j][e] = numerator * (slope[j][e] - mean[e / 2]); });
    multiply_by_columns<D>(sum, slope, k_tile);
    __syncthreads();  // the stage is free
  }
  cp_wait<0>();

  float factor[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    total[h] += shfl_xor(total[h], 1);
    total[h] += shfl_xor(total[h], 2);
    factor[h] = scale / total[h];
    const int row = row0 + h * 8;
    if (lane % 4 == 0 && row < s.tokens) numbers[numbers_place(s, row)] = {most[h] + __logf(total[h]), mean[h]};
  }
  put_rows<D>(head.d_qkv, head.row, s.tokens, width, row0, sum, factor, accumulate);
}

template <int D>
__global__ void __launch_bounds__(threads, blocks_by_registers(3))
    key_gradient_kernel(SelfAttentionShape s, const bf16* qkv, const bf16* d_out, bf16* d_qkv,
                        const RowNumbers* numbers, bool accumulate) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(bf16, shared);  // [stage][queries, gradients][32][pitch]
  const Head<bf16> head = head_of(s, qkv, d_out, d_out, d_qkv);
  const int lane = threadIdx.x % 32, pair = lane % 4 * 2, width = head.width, first = int(blockIdx.x) * rows,
            row0 = first + int(threadIdx.x) / 32 * 16 + lane / 4;
  const HeadRows queries_of{head.qkv, head.row}, gradients_of{head.d_out, s.channels};
  const float scale = rsqrtf(float(width));
  const auto fetch = [&](int tile) {
    fetch_rows<D, queries, threads>(queries_of, gradients_of, s.tokens, width, tile * queries,
                                    shared + tile % 2 * 2 * queries * pitch<D>);
  };
  const int begin = s.causal ? first / queries : 0, tiles = (s.tokens + queries - 1) / queries;
  fetch(begin);
  cp_commit();
  uint32_t k[D / 16][4], v[D / 16][4];
  load_rows<D>(k, {head.qkv + s.channels, head.row}, s.tokens, width, row0);
  load_rows<D>(v, {head.qkv + 2 * s.channels, head.row}, s.tokens, width, row0);

  float dk[D / 8][4] = {}, dv[D / 8][4] = {};
#pragma unroll 1
  for (int tile = begin; tile < tiles; ++tile) {
    const bf16* q_tile = shared + tile % 2 * 2 * queries * pitch<D>;
    const bf16* g_tile = q_tile + queries * pitch<D>;
    if (tile + 1 < tiles) fetch(tile + 1);
    cp_commit();
    cp_wait<1>();
    __syncthreads();

    float weight[queries / 8][4] = {}, slope[queries / 8][4] = {};
    multiply_by_rows<D>(weight, k, q_tile);
    multiply_by_rows<D>(slope, v, g_tile);
#pragma unroll
    for (int j = 0; j < queries / 8; ++j) {
      const int column0 = tile * queries + j * 8 + pair;
      const float4 two = load_as<float4>(numbers + numbers_place(s, column0));
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int column = column0 + e % 2, row = row0 + e / 2 * 8;
        const bool counts = column < s.tokens && (!s.causal || row <= column);
        weight[j][e] = counts ? exp_of(weight[j][e] * scale - (e % 2 ? two.z : two.x)) : 0.f;
        slope[j][e] = counts ? weight[j][e] * (slope[j][e] - (e % 2 ? two.w : two.y)) : 0.f;
      }
    }
    multiply_by_columns<D>(dv, weight, g_tile);
    multiply_by_columns<D>(dk, slope, q_tile);
    __syncthreads();  // the stage is free
  }
  cp_wait<0>();
  put_rows<D>(head.d_qkv + s.channels, head.row, s.tokens, width, row0, dk, {scale, scale}, accumulate);
  put_rows<D>(head.d_qkv + 2 * s.channels, head.row, s.tokens, width, row0, dv, {1, 1}, accumulate);
}

__device__ __forceinline__ float dot_of(const float* a, const float* b, int width) {
  float dot = 0;
  for (int c = 0; c < width; ++c) dot = fmaf(a[c], b[c], dot);
  return dot;
}
__device__ __forceinline__ void put1(float* to, float value, bool accumulate) {
  *to = accumulate ? *to + value : value;
}

__global__ void __launch_bounds__(threads)
    checked_query_gradient_kernel(SelfAttentionShape s, const float* qkv, const float* out, const float* d_out,
                                  float* d_qkv, RowNumbers* numbers, bool accumulate) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(float, shared);  // [warp][tokens]
  const Head<float> head = head_of(s, qkv, out, d_out, d_qkv);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = int(blockIdx.x) * 4 + warp;
  if (row >= s.tokens) return;
  const float *query = head.qkv + row * head.row, *gradient = head.d_out + int64_t(row) * s.channels;
  const float mean = dot_of(head.out + int64_t(row) * s.channels, gradient, head.width),
              scale = rsqrtf(float(head.width));
  float* slope = shared + warp * s.tokens;
  const int reach = s.causal ? row + 1 : s.tokens;
  float most = -INFINITY, total = 0;
  for (int t = lane; t < reach; t += 32) {
    slope[t] = dot_of(query, head.qkv + s.channels + t * head.row, head.width) * scale;
    most = fmaxf(most, slope[t]);
  }
  most = most_of_warp(most);
  for (int t = lane; t < reach; t += 32) total += exp_of(slope[t] - most);
  total = sum_of_warp(total);
  for (int t = lane; t < reach; t += 32)
    slope[t] = exp_of(slope[t] - most) / total *
               (dot_of(gradient, head.qkv + 2 * s.channels + t * head.row, head.width) - mean) * scale;
  if (lane == 0) numbers[numbers_place(s, row)] = {most + __logf(total), mean};
  __syncwarp();
  for (int c = lane; c < head.width; c += 32) {
    const float* key = head.qkv + s.channels + c;
    float sum = 0;
    for (int t = 0; t < reach; ++t) sum = fmaf(slope[t], key[t * head.row], sum);
    put1(head.d_qkv + row * head.row + c, sum, accumulate);
  }
}

__global__ void __launch_bounds__(threads)
    checked_key_gradient_kernel(SelfAttentionShape s, const float* qkv, const float* d_out, float* d_qkv,
                                const RowNumbers* numbers, bool accumulate) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(float, shared);  // [warp][weights, slopes][tokens]
  const Head<float> head = head_of(s, qkv, d_out, d_out, d_qkv);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, row = int(blockIdx.x) * 4 + warp;
  if (row >= s.tokens) return;
  const float *key = head.qkv + row * head.row + s.channels, *value = key + s.channels;
  const float scale = rsqrtf(float(head.width));
  float *weight = shared + warp * 2 * s.tokens, *slope = weight + s.tokens;
  const int begin = s.causal ? row : 0;
  for (int t = begin + lane; t < s.tokens; t += 32) {
    const RowNumbers of = numbers[numbers_place(s, t)];
    weight[t] = exp_of(dot_of(head.qkv + t * head.row, key, head.width) * scale - of.log_sum);
    slope[t] = weight[t] * (dot_of(head.d_out + int64_t(t) * s.channels, value, head.width) - of.mean) * scale;
  }
  __syncwarp();
  for (int c = lane; c < head.width; c += 32) {
    float dk = 0, dv = 0;
    for (int t = begin; t < s.tokens; ++t) {
      dk = fmaf(slope[t], head.qkv[t * head.row + c], dk);
      dv = fmaf(weight[t], head.d_out[int64_t(t) * s.channels + c], dv);
    }
    float* to = head.d_qkv + row * head.row + s.channels + c;
    put1(to, dk, accumulate);
    put1(to + s.channels, dv, accumulate);
  }
}

template <int D>
void launch_gradients(Context& ctx, const SelfAttentionShape& s, const bf16* qkv, const bf16* out, const bf16* d_out,
                      bf16* d_qkv, RowNumbers* numbers, bool accumulate) {
  const dim3 grid(unsigned((s.tokens + rows - 1) / rows), unsigned(s.heads), unsigned(s.n));
  LGD_LAUNCH(ctx, query_gradient_kernel<D>, grid, threads, (shared_bytes<D, keys>), s, qkv, out, d_out, d_qkv, numbers,
             accumulate);
  LGD_LAUNCH(ctx, key_gradient_kernel<D>, grid, threads, (shared_bytes<D, queries>), s, qkv, d_out, d_qkv, numbers,
             accumulate);
}

}  // namespace

void self_attention_backward_cuda(Context& ctx, const SelfAttentionShape& s, DType type, const void* qkv,
                                  const void* out, const void* d_out, void* d_qkv, bool accumulate) {
  const int width = s.channels / s.heads;
  LGD_CHECK(width % 8 == 0 && width <= widest_trained_head, "BAD_SHAPE", "a head of self-attention is ", width,
            " channels wide. Allowed in training on CUDA: a multiple of 8 up to ", widest_trained_head, ".");
  LGD_CHECK(type == DType::bf16 || s.tokens <= most_float32_tokens, "BAD_SHAPE",
            "self-attention in float32 trains at most ", most_float32_tokens, " tokens, found ", s.tokens,
            ". Use bfloat16.");
  LGD_CHECK(s.n < 65536 && s.heads < 65536, "BAD_SHAPE", "self-attention has ", s.n, " images of ", s.heads,
            " heads. Allowed on CUDA: less than 65,536 of either.");
  auto* numbers = static_cast<RowNumbers*>(ctx.scratch(size_t(s.n) * s.heads * row_pitch(s) * sizeof(RowNumbers)));
  if (type == DType::bf16) {
    const auto launch = width <= 32 ? launch_gradients<32> : launch_gradients<64>;
    return launch(ctx, s, static_cast<const bf16*>(qkv), static_cast<const bf16*>(out), static_cast<const bf16*>(d_out),
                  static_cast<bf16*>(d_qkv), numbers, accumulate);
  }
  const size_t row = size_t(4) * s.tokens * sizeof(float);
  allow_shared_memory(checked_query_gradient_kernel, row);
  allow_shared_memory(checked_key_gradient_kernel, 2 * row);
  const dim3 grid(unsigned((s.tokens + 3) / 4), unsigned(s.heads), unsigned(s.n));
  LGD_LAUNCH(ctx, checked_query_gradient_kernel, grid, threads, row, s, static_cast<const float*>(qkv),
             static_cast<const float*>(out), static_cast<const float*>(d_out), static_cast<float*>(d_qkv), numbers,
             accumulate);
  LGD_LAUNCH(ctx, checked_key_gradient_kernel, grid, threads, 2 * row, s, static_cast<const float*>(qkv),
             static_cast<const float*>(d_out), static_cast<float*>(d_qkv), numbers, accumulate);
}

}  // namespace lgd
