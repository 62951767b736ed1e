#include "semantic/bank_loss.h"

#include <algorithm>

#include "semantic/kernels.h"

namespace lgd {

#ifdef LGD_WITH_CUDA
const SemanticKernels& cuda_semantic_kernels();  // kernels.cu
#endif

const SemanticKernels& semantic_kernels(const Device& device) {
  static const SemanticKernels cpu = {
#define LGD_ENTRY(name) &name##_cpu,
      LGD_SEMANTIC_OPERATIONS(LGD_ENTRY)
#undef LGD_ENTRY
  };
#ifdef LGD_WITH_CUDA
  if (device.kind == DeviceKind::cuda) return cuda_semantic_kernels();
#endif
  LGD_CHECK(device.kind == DeviceKind::cpu, "DEVICE_UNAVAILABLE", "this build has no CUDA kernels");
  return cpu;
}

namespace {

// What one block of images needs, and what outlives the block.
struct LossMemory {
  float *units, *scores, *own_weight, *sums, *norms;
  RowStats* stats;

  LossMemory(Carver& carver, const BankLossShape& shape, int64_t rows, int64_t stride, int64_t parts) {
    units = carver.take<float>(2 * rows * shape.dimension);  // student rows, then teacher rows: one product serves both
    scores = carver.take<float>(2 * rows * stride);
    own_weight = carver.take<float>(rows);
    sums = carver.take<float>(parts * rows * shape.dimension);
    norms = carver.take<float>(2 * shape.batch);
    stats = carver.take<RowStats>(shape.batch);
  }
};

// The anchors that the gradient needs: a part without weight is left out, as its scores do not become weights.
struct GradientRange {
  int64_t begin, end;
  explicit GradientRange(const SoftmaxBlock& block) {
    begin = block.textual_part && block.textual_weight != 0 ? 0 : block.textual;
    end = block.visual_part && block.visual_weight != 0 ? block.total : block.textual;
  }
};

SoftmaxBlock softmax_block(const BankLossShape& shape, const BankLossSettings& settings, int64_t stride) {
  const double factor = double(settings.scale) / (double(shape.batch) * settings.student_temperature);
  SoftmaxBlock block;
  block.rows = 0;  // of each block
  block.dimension = shape.dimension;
  block.textual = shape.textual;
  block.total = shape.anchors();
  block.stride = stride;
  block.textual_part = shape.textual_part;
  block.visual_part = shape.visual_part;
  block.student_temperature = settings.student_temperature;
  block.teacher_temperature = settings.teacher_temperature;
  block.textual_weight = float(factor * (1 - double(settings.alpha)));
  block.visual_weight = float(factor * settings.alpha);
  return block;
}

}  // namespace

void run_bank_loss(Device& device, const BankLossShape& shape, const BankLossSettings& settings, const float* student, const float* teacher,
                   const float* anchors, float* d_student, LossRecord* record) {
  const SemanticKernels& op = semantic_kernels(device);
  const int64_t batch = shape.batch, dimension = shape.dimension, total = shape.anchors();
  const int64_t stride = score_stride(total);
  const int64_t per_row = 2 * std::max<int64_t>(stride, 1) * int64_t(sizeof(float));
  const int64_t rows_at_once = std::clamp<int64_t>(score_budget_bytes / per_row, 1, batch);
  SoftmaxBlock block = softmax_block(shape, settings, stride);
  const GradientRange range(block);
  const int64_t parts = op.anchor_sum_parts(rows_at_once, range.end - range.begin, dimension);

  Carver sizes(nullptr);
  LossMemory(sizes, shape, rows_at_once, stride, parts);
  Carver carver(device.scratch(sizes.used()));
  const LossMemory memory(carver, shape, rows_at_once, stride, parts);

  for (int64_t first = 0; first < batch; first += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, batch - first);
    block.rows = rows;
    float* student_unit = memory.units;
    float* teacher_unit = memory.units + rows * dimension;
    float* student_scores = memory.scores;
    float* teacher_scores = memory.scores + rows * stride;
    float* student_norm = memory.norms + first;
    op.normalise_rows(device, rows, dimension, student + first * dimension, student_unit, student_norm);
    op.normalise_rows(device, rows, dimension, teacher + first * dimension, teacher_unit, memory.norms + batch + first);
    op.similarities(device, 2 * rows, total, dimension, memory.units, anchors, memory.scores, stride, settings.products);
    op.bank_softmax(device, block, student_unit, teacher_unit, student_scores, teacher_scores, memory.own_weight, memory.stats + first);
    op.anchor_sums(device, rows, range.end - range.begin, dimension, student_scores + range.begin, stride, anchors + range.begin * dimension, parts,
                   memory.sums, settings.products);
    op.finish_gradient(device, rows, dimension, parts, memory.sums, memory.own_weight, student_unit, teacher_unit, student_norm,
                       d_student + first * dimension);
  }
  op.reduce_loss(device, batch, memory.stats, memory.norms, record);
}

}  // namespace lgd
