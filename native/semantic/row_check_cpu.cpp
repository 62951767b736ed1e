#include "semantic/row_check.h"

#include <vector>

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"

#define LGD_ISA_FILE "semantic/row_check_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

RowFaults check_rows(Context& device, int64_t rows, int64_t dimension, const float* values) {
  // the bits; those of a NaN without its sign are above, of finite values below
  constexpr int32_t infinity = 0x7f800000;
  constexpr int64_t values_a_part = 65536;
  const Partition parts(rows, values_a_part / std::max<int64_t>(dimension, 1), 256);
  std::vector<RowFaults> found(size_t(parts.parts));
  const auto largest_bits = LGD_DISPATCH(largest_bits);
  device.pool.for_each(parts.parts, [&](int, int64_t part) {
    RowFaults faults = {};
    for (int64_t row = parts.end(part) - 1; row >= parts.begin(part); --row) {
      const int32_t largest = largest_bits(dimension, values + row * dimension);
      if (largest == 0) faults.zero = int32_t(row + 1);
      if (largest >= infinity) faults.non_finite = int32_t(row + 1);
    }
    found[part] = faults;
  });
  RowFaults first = {};
  for (const RowFaults& faults : found) {
    if (first.zero == 0) first.zero = faults.zero;
    if (first.non_finite == 0) first.non_finite = faults.non_finite;
  }
  return first;
}

}  // namespace lgd
