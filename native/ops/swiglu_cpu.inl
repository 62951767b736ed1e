// Vector code of ops/swiglu.h, once per instruction set.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

void swiglu_rows(int64_t rows, int channels, const float* x, float* y) {
  for (int64_t row = 0; row < rows; ++row, x += 2 * int64_t(channels), y += channels) {
    LGD_FOR_VECTORS(c, width, channels) {
      const int count = int(width);
      store_n(y + c, act_value<Act::silu>(load_n(x + c, count)) * load_n(x + channels + c, count), count);
    }
  }
}

}  // namespace
}  // namespace lgd::LGD_ISA
