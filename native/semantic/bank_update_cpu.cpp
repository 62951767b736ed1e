#include <algorithm>
#include <vector>

#include "ops/common_cpu.h"
#include "semantic/bank_update.h"

namespace lgd {

void nearest_anchor_cpu(Context& device, int64_t m, int64_t n, const float* scores, int64_t stride, int32_t* nearest) {
  device.pool.for_range(m, ceil_div(16384, n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = scores + i * stride;
      nearest[i] = int32_t(std::max_element(row, row + n) - row);
    }
  });
}

namespace {

// V_k from its members, which are images [first] and later with the same assignment.
void move_anchor(const AggregateShape& shape, const float* unit, const int32_t* assignment, int64_t first, bool seen, float* anchor, float* mean) {
  const int64_t dimension = shape.dimension;
  std::copy_n(unit + first * dimension, dimension, mean);
  int64_t members = 1;
  for (int64_t i = first + 1; i < shape.rows; ++i) {
    if (assignment[i] != assignment[first]) continue;
    ++members;
    for (int64_t d = 0; d < dimension; ++d) mean[d] += unit[i * dimension + d];
  }
  const float keep = seen ? shape.momentum : 0, take = (1 - keep) / float(members);
  for (int64_t d = 0; d < dimension; ++d) anchor[d] = seen ? keep * anchor[d] + take * mean[d] : take * mean[d];
}

}  // namespace

void aggregate_cpu(Context& device, const AggregateShape& shape, const float* unit, const int32_t* assignment, int32_t* links, float* visual,
                   uint8_t* seen, UpdateRecord* record) {
  if (record->teacher.none()) {
    int32_t* first = links;  // the images that are the first of their category, in their order
    std::vector<bool> met(shape.categories);
    int64_t hit = 0;
    for (int64_t i = 0; i < shape.rows; ++i) {
      if (met[assignment[i]]) continue;
      met[assignment[i]] = true;
      first[hit++] = int32_t(i);
    }
    device.pool.for_range(hit, 4, [&](int64_t begin, int64_t end) {
      std::vector<float> mean(shape.dimension);
      for (int64_t h = begin; h < end; ++h) {
        const int32_t category = assignment[first[h]];
        move_anchor(shape, unit, assignment, first[h], seen[category], visual + category * shape.dimension, mean.data());
        seen[category] = 1;
      }
    });
    record->categories_hit = double(hit);
  }
  record->categories_seen = double(std::count(seen, seen + shape.categories, uint8_t(1)));
}

void enqueue_cpu(Context&, int64_t rows, int64_t dimension, const float* unit, int64_t position, int64_t size, float* queue, const RowFaults* faults) {
  if (!faults->none()) return;
  for (int64_t i = std::max<int64_t>(0, rows - size); i < rows; ++i)
    std::copy_n(unit + i * dimension, dimension, queue + (position + i) % size * dimension);
}

}  // namespace lgd
