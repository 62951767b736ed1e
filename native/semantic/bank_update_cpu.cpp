#include "semantic/bank_update.h"

#include <algorithm>
#include <vector>

#include "ops/common_cpu.h"
#include "semantic/kernels.h"

namespace lgd {

namespace {

struct UpdateShape {
  int64_t rows, dimension, categories;
  float momentum;
};

struct UpdateMemory {
  float *unit, *norm, *scores;
  int32_t* assignment;

  UpdateMemory(Carver& carver, const UpdateShape& shape, int64_t rows_at_once, int64_t stride) {
    unit = carver.take<float>(shape.rows * shape.dimension);
    norm = carver.take<float>(shape.rows);
    scores = carver.take<float>(rows_at_once * stride);
    assignment = carver.take<int32_t>(shape.rows);
  }
};

// nearest[m] = argmax_n scores[m,n], the lowest n among equals.
void find_nearest(Context& device, int64_t m, int64_t n, const float* scores, int64_t stride, int32_t* nearest) {
  device.pool.for_range(m, ceil_div(16384, n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = scores + i * stride;
      nearest[i] = int32_t(std::max_element(row, row + n) - row);
    }
  });
}

// V_k from its members, which are images [first] and later with the same assignment.
void move_anchor(const UpdateShape& shape, const float* unit, const int32_t* assignment, int64_t first, bool seen,
                 float* anchor, float* mean) {
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

// Leaves the bank alone when record->teacher names a fault; fills the two counts either way.
void move_anchors(Context& device, const UpdateShape& shape, const float* unit, const int32_t* assignment,
                  float* visual, uint8_t* seen, UpdateRecord* record) {
  if (record->teacher.none()) {
    std::vector<int64_t> first;  // the images that are the first of their category
    std::vector<bool> met(shape.categories);
    for (int64_t i = 0; i < shape.rows; ++i) {
      if (met[assignment[i]]) continue;
      met[assignment[i]] = true;
      first.push_back(i);
    }
    device.pool.for_range(int64_t(first.size()), 4, [&](int64_t begin, int64_t end) {
      std::vector<float> mean(shape.dimension);
      for (int64_t h = begin; h < end; ++h) {
        const int32_t category = assignment[first[h]];
        move_anchor(shape, unit, assignment, first[h], seen[category], visual + category * shape.dimension,
                    mean.data());
        seen[category] = 1;
      }
    });
    record->categories_hit = double(first.size());
  }
  record->categories_seen = double(std::count(seen, seen + shape.categories, uint8_t(1)));
}

// First in, first out: row i of `unit` goes to slot (position + i) mod size; of more rows than slots only the last
// `size` stay.
void enqueue(int64_t rows, int64_t dimension, const float* unit, int64_t position, int64_t size, float* queue) {
  for (int64_t i = std::max<int64_t>(0, rows - size); i < rows; ++i)
    std::copy_n(unit + i * dimension, dimension, queue + (position + i) % size * dimension);
}

}  // namespace

void bank_update_cpu(Context& device, int64_t dimension, int64_t categories, float momentum,
                     const std::vector<TeacherBatch>& batches, const BankTargets& targets, const KnownTeachers&,
                     int32_t* assignment, UpdateRecord* record) {
  UpdateShape shape = {0, dimension, categories, momentum};
  for (const TeacherBatch& batch : batches) shape.rows += batch.rows;
  const int64_t stride = score_stride(categories);
  const int64_t rows_at_once = rows_at_a_time(shape.rows, stride);
  const auto memory = carve<UpdateMemory>(device, shape, rows_at_once, stride);
  if (!assignment) assignment = memory.assignment;

  int64_t begin = 0;
  for (const TeacherBatch& batch : batches) {
    normalise_rows_cpu(device, batch.rows, dimension, batch.embeddings, memory.unit + begin * dimension,
                       memory.norm + begin);
    begin += batch.rows;
  }
  device.zero(record, sizeof(UpdateRecord));
  find_faults_cpu(device, shape.rows, memory.norm, &record->teacher);
  if (targets.textual) {
    for (begin = 0; begin < shape.rows; begin += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, shape.rows - begin);
      similarities_cpu(device, rows, categories, dimension, memory.unit + begin * dimension, targets.textual,
                       memory.scores, stride);
      find_nearest(device, rows, categories, memory.scores, stride, assignment + begin);
    }
    move_anchors(device, shape, memory.unit, assignment, targets.visual, targets.seen, record);
  }
  if (targets.queue && record->teacher.none())
    enqueue(shape.rows, dimension, memory.unit, targets.queue_position, targets.queue_size, targets.queue);
}

}  // namespace lgd
