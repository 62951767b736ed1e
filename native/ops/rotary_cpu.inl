// Vector code of ops/rotary.h, once per instruction set: one token's queries and keys.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

// `heads`: of the queries and of the keys together. angles: W / 2 cosines, then as many sines. y may be x.
void rotary_token(int heads, int half, const float* x, const float* angles, float* y) {
  for (int head = 0; head < heads; ++head, x += 2 * half, y += 2 * half) {
    LGD_FOR_VECTORS(d, width, half) {
      const int count = int(width);
      const Vec a = load_n(x + d, count), b = load_n(x + half + d, count), cosine = load_n(angles + d, count),
                sine = load_n(angles + half + d, count);
      store_n(y + d, a * cosine - b * sine, count);
      store_n(y + half + d, b * cosine + a * sine, count);
    }
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
