#include "semantic/bank_update.h"

#include <algorithm>

#include "semantic/kernels.h"

namespace lgd {

namespace {

struct UpdateMemory {
  float *unit, *norm, *scores;
  int32_t *assignment, *links;

  UpdateMemory(Carver& carver, const AggregateShape& shape, int64_t rows_at_once, int64_t stride) {
    unit = carver.take<float>(shape.rows * shape.dimension);
    norm = carver.take<float>(shape.rows);
    scores = carver.take<float>(rows_at_once * stride);
    assignment = carver.take<int32_t>(shape.rows);
    links = carver.take<int32_t>(2 * shape.rows);
  }
};

}  // namespace

void run_bank_update(Context& device, int64_t dimension, int64_t categories, float momentum, const std::vector<TeacherBatch>& batches,
                     const BankTargets& targets, const KnownTeachers& known, int32_t* assignment, UpdateRecord* record) {
  semantic_kernels(device).bank_update(device, dimension, categories, momentum, batches, targets, known, assignment, record);
}

void bank_update_cpu(Context& device, int64_t dimension, int64_t categories, float momentum, const std::vector<TeacherBatch>& batches,
                     const BankTargets& targets, const KnownTeachers&, int32_t* assignment, UpdateRecord* record) {
  AggregateShape shape = {0, dimension, categories, momentum};
  for (const TeacherBatch& batch : batches) shape.rows += batch.rows;
  const int64_t stride = score_stride(categories);
  const int64_t rows_at_once = std::clamp<int64_t>(score_budget() / (std::max<int64_t>(stride, 1) * int64_t(sizeof(float))), 1, shape.rows);
  Carver sizes(nullptr);
  UpdateMemory(sizes, shape, rows_at_once, stride);
  Carver carver(device.scratch(sizes.used()));
  const UpdateMemory memory(carver, shape, rows_at_once, stride);
  if (!assignment) assignment = memory.assignment;

  int64_t begin = 0;
  for (const TeacherBatch& batch : batches) {
    normalise_rows_cpu(device, batch.rows, dimension, batch.embeddings, memory.unit + begin * dimension, memory.norm + begin);
    begin += batch.rows;
  }
  device.zero(record, sizeof(UpdateRecord));
  find_faults_cpu(device, shape.rows, memory.norm, &record->teacher);
  if (targets.textual) {
    for (begin = 0; begin < shape.rows; begin += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, shape.rows - begin);
      similarities_cpu(device, rows, categories, dimension, memory.unit + begin * dimension, targets.textual, memory.scores, stride);
      nearest_anchor_cpu(device, rows, categories, memory.scores, stride, assignment + begin);
    }
    aggregate_cpu(device, shape, memory.unit, assignment, memory.links, targets.visual, targets.seen, record);
  }
  if (targets.queue)
    enqueue_cpu(device, shape.rows, dimension, memory.unit, targets.queue_position, targets.queue_size, targets.queue, &record->teacher);
}

}  // namespace lgd
