// CLIP's attention pooling (ops/attention.h), forward only. Memory-bound, bytes at least: tokens read x, write as much
// and a row more; attention read k and v, with one multiply-add for each of their elements, as there is one query. In
// bfloat16 a plan has absorbed_attention.cu instead, where it can.
#include "core/cuda_device.cuh"
#include "ops/attention.h"

namespace lgd {

namespace {

// A thread has 8 channels of one image and walks over its pixels: x is read once.
template <class T>
__global__ void __launch_bounds__(128)
    tokens_kernel(int pixels, int chunks, const T* x, const float* position, T* tokens) {
  wait_for_inputs();
  const int chunk = blockIdx.x * 128 + threadIdx.x, n = blockIdx.y;
  if (chunk >= chunks) return;
  F8 sum = zero8();
  for (int p = 0; p < pixels; ++p) {
    F8 v = load8(x + ((int64_t(n) * pixels + p) * chunks + chunk) * 8);
    const F8 at = load8(position + (int64_t(p + 1) * chunks + chunk) * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      sum.v[i] += v.v[i];
      v.v[i] += at.v[i];
    }
    store8(tokens + ((int64_t(n) * (pixels + 1) + p + 1) * chunks + chunk) * 8, v);
  }
  const F8 at = load8(position + int64_t(chunk) * 8);
#pragma unroll
  for (int i = 0; i < 8; ++i) sum.v[i] = sum.v[i] / float(pixels) + at.v[i];
  store8(tokens + (int64_t(n) * (pixels + 1) * chunks + chunk) * 8, sum);
}

template <class T>
__global__ void __launch_bounds__(256)
    first_token_kernel(int64_t vectors, int count, int chunks, const T* tokens, T* y) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256)
    store8(y + e * 8, load8(tokens + (e / chunks * count * chunks + e % chunks) * 8));
}

// Of all tokens where they are written, else of the first of each image.
template <class T>
__global__ void __launch_bounds__(256)
    first_token_gradient_kernel(int64_t vectors, int count, int chunks, const T* dy, T* d_tokens, bool accumulate) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const int64_t row = e / chunks, image = accumulate ? row : row / count;
    const bool is_first = accumulate || row % count == 0;
    const F8 gradient = is_first ? load8(dy + (image * chunks + e % chunks) * 8) : zero8();
    put8(d_tokens + ((accumulate ? image * count : row) * chunks + e % chunks) * 8, gradient, accumulate);
  }
}

// Block: one head of one image. Warps share the tokens for the scores, then threads share the channels for the average.
template <class T>
__global__ void __launch_bounds__(128) attention_kernel(AttentionShape s, const T* q, const T* k, const T* v, T* out) {
  wait_for_inputs();
  LGD_DYNAMIC_SHARED(float, scores);  // [tokens]
  const int head = blockIdx.x, n = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32,
            size = s.channels / s.heads;
  const int64_t offset = int64_t(head) * size;
  const T* query = q + int64_t(n) * s.channels + offset;
  const float scale = rsqrtf(float(size));
  for (int t = warp; t < s.tokens; t += 4) {
    const T* key = k + (int64_t(n) * s.tokens + t) * s.channels + offset;
    float dot = 0;
    for (int c = lane; c < size; c += 32) dot = fmaf(load1(query + c), load1(key + c), dot);
    dot = sum_of_warp(dot);
    if (lane == 0) scores[t] = dot * scale;
  }
  __syncthreads();
  float most = -INFINITY, total = 0;
  for (int t = 0; t < s.tokens; ++t) most = fmaxf(most, scores[t]);
  for (int t = 0; t < s.tokens; ++t) total += exp_of(scores[t] - most);
  for (int c = threadIdx.x; c < size; c += 128) {
    float sum = 0;
    for (int t = 0; t < s.tokens; ++t)
      sum = fmaf(exp_of(scores[t] - most), load1(v + (int64_t(n) * s.tokens + t) * s.channels + offset + c), sum);
    store1(out + int64_t(n) * s.channels + offset + c, sum / total);
  }
}

}  // namespace

void tokens_forward_cuda(Context& ctx, int n, int pixels, int c, DType type, const void* x, const float* position,
                         void* tokens) {
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, tokens_kernel<T>, dim3((c / 8 + 127) / 128, n), 128, 0, pixels, c / 8, static_cast<const T*>(x),
               position, static_cast<T*>(tokens));
  });
}

void first_token_forward_cuda(Context& ctx, int n, int tokens_count, int c, DType type, const void* tokens, void* y) {
  const int64_t vectors = int64_t(n) * c / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, first_token_kernel<T>, blocks_for(vectors, 256), 256, 0, vectors, tokens_count, c / 8,
               static_cast<const T*>(tokens), static_cast<T*>(y));
  });
}

void first_token_backward_cuda(Context& ctx, int n, int tokens_count, int c, DType type, const void* dy, void* d_tokens,
                               bool accumulate) {
  const int64_t vectors = int64_t(n) * (accumulate ? 1 : tokens_count) * c / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, first_token_gradient_kernel<T>, blocks_for(vectors, 256), 256, 0, vectors, tokens_count, c / 8,
               static_cast<const T*>(dy), static_cast<T*>(d_tokens), accumulate);
  });
}

void query_attention_forward_cuda(Context& ctx, const AttentionShape& s, DType type, const void* q, const void* k,
                                  const void* v, void* out) {
  LGD_CHECK(s.tokens * 4 <= 48 * 1024, "BAD_SHAPE", "attention pooling holds at most 12,288 tokens on CUDA, found ",
            s.tokens);
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, attention_kernel<T>, dim3(s.heads, s.n), 128, size_t(s.tokens) * 4, s, static_cast<const T*>(q),
               static_cast<const T*>(k), static_cast<const T*>(v), static_cast<T*>(out));
  });
}

}  // namespace lgd
