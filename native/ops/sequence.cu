// ops/sequence.h: 8 channels a thread. Memory-bound: what a sequence is made of is read and the sequence written once.
#include "core/cuda_device.cuh"
#include "ops/partial_sums.h"
#include "ops/sequence.h"

namespace lgd {
namespace {

// Of what is no digit, a NaN too, the nearest: the table is not left.
template <class T>
__device__ __forceinline__ int digit_at(const T* digit) {
  return int(fminf(fmaxf(load1(digit), 0.f), 255.f));
}
template <class T>
__device__ __forceinline__ int id_at(const T* ids, int64_t row, int id_channels) {
  const T* digits = ids + row * id_channels;
  return digit_at(digits) + 256 * digit_at(digits + 1) + 65536 * digit_at(digits + 2);
}

__device__ __forceinline__ F8 sum8(F8 a, const F8& b) {
#pragma unroll
  for (int i = 0; i < 8; ++i) a.v[i] += b.v[i];
  return a;
}

template <class T>
__global__ void __launch_bounds__(256) positions_kernel(SequenceShape s, int64_t vectors, int first, const T* x,
                                                        const float* position, const float* constant, T* y) {
  wait_for_inputs();
  const int chunks = s.channels / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const int64_t row = e / chunks, n = row / s.tokens;
    const int t = int(row % s.tokens), c = int(e % chunks) * 8;
    const F8 at = load8(position + int64_t(t) * s.channels + c);
    if (t < first) store8(y + e * 8, constant ? sum8(load8(constant + int64_t(t) * s.channels + c), at) : at);
    else store8(y + e * 8, sum8(load8(x + (n * (s.tokens - first) + t - first) * s.channels + c), at));
  }
}

// A thread has 8 channels of a token, and one part of the images: its sums go to partial[part], and what is no constant
// token's on to dx.
template <class T>
__global__ void __launch_bounds__(256) positions_gradient_kernel(SequenceShape s, int64_t vectors, int64_t behind,
                                                                 const T* dy, T* dx, bool accumulate, float* partial) {
  wait_for_inputs();
  const int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (e >= vectors) return;
  const int64_t all = int64_t(s.tokens) * s.channels / 8;
  const int begin = int(int64_t(s.n) * blockIdx.y / gridDim.y), end = int(int64_t(s.n) * (blockIdx.y + 1) / gridDim.y);
  F8 sum = zero8();
#pragma unroll 2
  for (int64_t n = begin; n < end; ++n) {
    const F8 gradient = load8(dy + (n * all + e) * 8);
    sum = sum8(sum, gradient);
    if (dx && e >= behind) put8(dx + (n * (all - behind) + e - behind) * 8, gradient, accumulate);
  }
  store8(partial + (blockIdx.y * vectors + e) * 8, sum);
}

template <class T>
__global__ void __launch_bounds__(256) words_kernel(SequenceShape s, int64_t vectors, int id_channels, int words,
                                                    const T* ids, const float* word, const float* position, T* y) {
  wait_for_inputs();
  const int chunks = s.channels / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const int64_t row = e / chunks;
    const int c = int(e % chunks) * 8, id = min(id_at(ids, row, id_channels), words - 1);
    store8(y + e * 8,
           sum8(load8(word + int64_t(id) * s.channels + c), load8(position + row % s.tokens * s.channels + c)));
  }
}

template <class T>
__global__ void __launch_bounds__(256)
    end_token_kernel(SequenceShape s, int64_t vectors, int id_channels, int end, const T* x, const T* ids, T* y) {
  wait_for_inputs();
  const int chunks = s.channels / 8;
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256) {
    const int64_t n = e / chunks;
    int t = 0;
    while (t < s.tokens - 1 && id_at(ids, n * s.tokens + t, id_channels) != end) ++t;
    store8(y + e * 8, load8(x + (n * s.tokens + t) * s.channels + e % chunks * 8));
  }
}

template <class T>
__global__ void __launch_bounds__(256) repeat_kernel(int64_t vectors, int chunks, const float* value, T* y) {
  wait_for_inputs();
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < vectors; e += int64_t(gridDim.x) * 256)
    store8(y + e * 8, load8(value + e % chunks * 8));
}

}  // namespace

void positions_forward_cuda(Context& ctx, const SequenceShape& s, DType type, int first, const void* x,
                            const float* position, const float* constant, void* y) {
  const int64_t vectors = int64_t(s.n) * s.tokens * s.channels / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, positions_kernel<T>, blocks_for(vectors, 256), 256, 0, s, vectors, first, static_cast<const T*>(x),
               position, constant, static_cast<T*>(y));
  });
}

void positions_backward_cuda(Context& ctx, const SequenceShape& s, DType type, int first, const void* dy, void* dx,
                             bool accumulate, float* d_position, float* d_constant) {
  // the sums of the first `tokens` tokens
  const auto sum_images = [&](int tokens, void* to, float* sums) {
    const int64_t vectors = int64_t(tokens) * s.channels / 8;
    const unsigned columns = unsigned((vectors + 255) / 256);
    const int parts = int(std::clamp<int64_t>(ctx.card.multiprocessors * 8 / columns, 1, (s.n + 3) / 4));
    float* partial = partial_sums(ctx).take(ctx, parts, vectors * 8);
    with_type(type, [&]<class T>(T) {
      LGD_LAUNCH(ctx, positions_gradient_kernel<T>, dim3(columns, unsigned(parts)), 256, 0, s, vectors,
                 int64_t(first) * s.channels / 8, static_cast<const T*>(dy), static_cast<T*>(to), accumulate, partial);
    });
    partial_sums(ctx).add(ctx, {{partial, sums, vectors * 8, parts}});
  };
  sum_images(s.tokens, dx, d_position);
  if (d_constant) sum_images(first, nullptr, d_constant);
}

void words_forward_cuda(Context& ctx, const SequenceShape& s, DType type, int id_channels, int words, const void* ids,
                        const float* word, const float* position, void* y) {
  const int64_t vectors = int64_t(s.n) * s.tokens * s.channels / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, words_kernel<T>, blocks_for(vectors, 256), 256, 0, s, vectors, id_channels, words,
               static_cast<const T*>(ids), word, position, static_cast<T*>(y));
  });
}

void end_token_forward_cuda(Context& ctx, const SequenceShape& s, DType type, int id_channels, int end, const void* x,
                            const void* ids, void* y) {
  const int64_t vectors = int64_t(s.n) * s.channels / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, end_token_kernel<T>, blocks_for(vectors, 256), 256, 0, s, vectors, id_channels, end,
               static_cast<const T*>(x), static_cast<const T*>(ids), static_cast<T*>(y));
  });
}

void repeat_forward_cuda(Context& ctx, int n, int channels, DType type, const float* value, void* y) {
  const int64_t vectors = int64_t(n) * channels / 8;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, repeat_kernel<T>, blocks_for(vectors, 256), 256, 0, vectors, channels / 8, value,
               static_cast<T*>(y));
  });
}

}  // namespace lgd
