#include <algorithm>
#include <numeric>
#include <vector>

#include "ops/common_cpu.h"
#include "semantic/top_similar.h"

namespace lgd {

void select_top_cpu(Context& device, int64_t m, int64_t n, int64_t k, const float* scores, int64_t stride,
                    int32_t* indices, float* values) {
  device.pool.for_range(m, ceil_div(4096, n), [&](int64_t begin, int64_t end) {
    std::vector<int32_t> order(n);
    for (int64_t i = begin; i < end; ++i) {
      const float* row = scores + i * stride;
      std::iota(order.begin(), order.end(), 0);
      std::partial_sort(order.begin(), order.begin() + k, order.end(),
                        [row](int32_t a, int32_t b) { return row[a] > row[b] || (row[a] == row[b] && a < b); });
      std::copy_n(order.begin(), k, indices + i * k);
      for (int64_t j = 0; j < k; ++j) values[i * k + j] = row[order[j]];
    }
  });
}

}  // namespace lgd
