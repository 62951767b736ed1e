// Vector code of semantic/row_check.h, once per instruction set.
#include "ops/vector_cpu.inl"

namespace lgd::LGD_ISA {
namespace {

// The largest of the values' bits without their signs, which are in the order of the magnitudes.
int32_t largest_bits(int64_t n, const float* x) {
  constexpr int32_t magnitude = 0x7fffffff;
  VecI most[4] = {};
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    for (int part = 0; part < 4; ++part) {
      const VecI bits = (VecI)load(x + i + part * lanes) & magnitude;
      most[part] = bits > most[part] ? bits : most[part];
    }
  }
  for (; i < n; i += lanes) {
    const VecI bits = (VecI)(n - i < lanes ? load_n(x + i, int(n - i)) : load(x + i)) & magnitude;
    most[0] = bits > most[0] ? bits : most[0];
  }
  int32_t largest = 0;
  for (const VecI& part : most)
    for (int lane = 0; lane < lanes; ++lane) largest = part[lane] > largest ? part[lane] : largest;
  return largest;
}

}  // namespace
}  // namespace lgd::LGD_ISA
