// ops/rotary.h: a thread has eight channels of the first half of a head and those of the second that they turn against.
// Memory-bound: queries and keys are read and written once, 8 N T C bytes of bfloat16 in place; the table is small.
#include "core/cuda_device.cuh"
#include "ops/rotary.h"

namespace lgd {
namespace {

template <class T>
__global__ void __launch_bounds__(256)
    rotary_kernel(RotaryShape s, int64_t pairs, int pairs_of_row, const T* qkv, const float* table, T* y) {
  wait_for_inputs();
  const int half = s.channels / s.heads / 2, turned = s.channels / 8;  // pairs of a row's queries and keys
  for (int64_t e = int64_t(blockIdx.x) * 256 + threadIdx.x; e < pairs; e += int64_t(gridDim.x) * 256) {
    const int64_t row = e / pairs_of_row;
    const int pair = int(e % pairs_of_row), head = pair / (half / 8), d = pair % (half / 8) * 8,
              position = int(row % s.tokens) - s.first;
    const bool turns = pair < turned && position >= 0;
    if (!turns && y == qkv) continue;
    const int64_t at = row * 3 * s.channels + int64_t(head) * 2 * half + d;
    F8 a = load8(qkv + at), b = load8(qkv + at + half);
    if (turns) {
      const float* angles = table + int64_t(position) * 2 * half + d;
      const F8 cosine = load8(angles), sine = load8(angles + half);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float left = a.v[i];
        a.v[i] = left * cosine.v[i] - b.v[i] * sine.v[i];
        b.v[i] = b.v[i] * cosine.v[i] + left * sine.v[i];
      }
    }
    store8(y + at, a);
    store8(y + at + half, b);
  }
}

}  // namespace

void rotary_forward_cuda(Context& ctx, const RotaryShape& s, DType type, const void* qkv, const float* table, void* y) {
  const int width = s.channels / s.heads;
  LGD_CHECK(width % 16 == 0, "BAD_SHAPE", "a head with rotary positions is ", width,
            " channels wide. Allowed on CUDA: a multiple of 16.");
  const int pairs_of_row = (y == qkv ? 2 : 3) * s.channels / 16;
  const int64_t pairs = int64_t(s.n) * s.tokens * pairs_of_row;
  with_type(type, [&]<class T>(T) {
    LGD_LAUNCH(ctx, rotary_kernel<T>, blocks_for(pairs, 256), 256, 0, s, pairs, pairs_of_row,
               static_cast<const T*>(qkv), table, static_cast<T*>(y));
  });
}

}  // namespace lgd
