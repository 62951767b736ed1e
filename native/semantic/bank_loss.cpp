#include "semantic/bank_loss.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "semantic/kernels.h"

namespace lgd {

#ifdef LGD_WITH_CUDA
const SemanticKernels& cuda_semantic_kernels();  // kernels.cu
#else
void write_operands(Context&, int64_t, int64_t, OperandLayout, const float*, void*) { throw_error("DEVICE_UNAVAILABLE", {"this build has no CUDA kernels"}); }
#endif

const SemanticKernels& semantic_kernels(const Context& device) {
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

int64_t score_budget(int64_t usual) {
  const char* text = std::getenv("LGDISTILL_SCORE_BYTES");
  return text && *text ? std::max<int64_t>(1, std::atoll(text)) : usual;
}

namespace {

// What one block of images needs, and what outlives the block.
struct LossMemory {
  float *units, *scores, *own_weight, *sums, *norms;
  RowStats* stats;

  LossMemory(Carver& carver, const BankLossShape& shape, int64_t rows, int64_t stride) {
    units = carver.take<float>(2 * rows * shape.dimension);  // student rows, then teacher rows: one product serves both
    scores = carver.take<float>(2 * rows * stride);
    own_weight = carver.take<float>(rows);
    sums = carver.take<float>(rows * shape.dimension);
    norms = carver.take<float>(2 * shape.batch);
    stats = carver.take<RowStats>(shape.batch);
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

// Rows [begin, end) of the anchors, which lie behind each other at `rows`.
struct AnchorPiece {
  int64_t begin, end;
  const float* rows;
};

// The anchors as few pieces as they lie in: one, unless a caller's arrays lie apart.
std::vector<AnchorPiece> anchor_pieces(const BankLossShape& shape, const BankLossArrays& arrays) {
  std::vector<AnchorPiece> pieces;
  int64_t begin = 0;
  const auto append = [&](int64_t count, const float* apart) {
    if (count > 0 && (apart || pieces.empty())) pieces.push_back({begin, begin, apart ? apart : arrays.anchors});
    if (count > 0) pieces.back().end += count;
    begin += count;
  };
  append(shape.textual, nullptr);
  append(shape.visual, arrays.visual);
  append(shape.queue, arrays.queue);
  return pieces;
}

}  // namespace

GradientRange::GradientRange(const BankLossShape& shape, float textual_weight, float visual_weight) {
  begin = shape.textual_part && textual_weight != 0 ? 0 : shape.textual;
  end = shape.visual_part && visual_weight != 0 ? shape.anchors() : shape.textual;
}

void run_bank_loss(Context& device, const BankLossShape& shape, const BankLossSettings& settings, const BankLossArrays& arrays) {
  semantic_kernels(device).bank_loss(device, shape, settings, arrays);
}

void bank_loss_cpu(Context& device, const BankLossShape& shape, const BankLossSettings& settings, const BankLossArrays& arrays) {
  LGD_CHECK(settings.products == Products::f32, "BAD_OPTION", "the CPU backend forms float32 products; bfloat16 was asked for");
  const int64_t batch = shape.batch, dimension = shape.dimension, total = shape.anchors();
  const int64_t stride = score_stride(total);
  const int64_t per_row = 2 * std::max<int64_t>(stride, 1) * int64_t(sizeof(float));
  const int64_t rows_at_once = std::clamp<int64_t>(score_budget() / per_row, 1, batch);
  SoftmaxBlock block = softmax_block(shape, settings, stride);
  const GradientRange range(shape, block.textual_weight, block.visual_weight);
  const std::vector<AnchorPiece> pieces = anchor_pieces(shape, arrays);

  Carver sizes(nullptr);
  LossMemory(sizes, shape, rows_at_once, stride);
  Carver carver(device.scratch(sizes.used()));
  const LossMemory memory(carver, shape, rows_at_once, stride);

  for (int64_t first = 0; first < batch; first += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, batch - first);
    block.rows = rows;
    float* student_unit = memory.units;
    float* teacher_unit = memory.units + rows * dimension;
    float* student_scores = memory.scores;
    float* teacher_scores = memory.scores + rows * stride;
    float* student_norm = memory.norms + first;
    normalise_rows_cpu(device, rows, dimension, arrays.student + first * dimension, student_unit, student_norm);
    normalise_rows_cpu(device, rows, dimension, arrays.teacher + first * dimension, teacher_unit, memory.norms + batch + first);
    for (const auto& [begin, end, anchors] : pieces)
      similarities_cpu(device, 2 * rows, end - begin, dimension, memory.units, anchors, memory.scores + begin, stride);
    bank_softmax_cpu(device, block, student_unit, teacher_unit, student_scores, teacher_scores, memory.own_weight, memory.stats + first);
    bool add = false;
    for (const auto& [piece_begin, piece_end, anchors] : pieces) {
      const int64_t begin = std::max(piece_begin, range.begin), end = std::min(piece_end, range.end);
      if (begin >= end) continue;
      anchor_sums_cpu(device, rows, end - begin, dimension, student_scores + begin, stride, anchors + (begin - piece_begin) * dimension, add, memory.sums);
      add = true;
    }
    if (!add) std::fill_n(memory.sums, rows * dimension, 0.0f);
    finish_gradient_cpu(device, rows, dimension, memory.sums, memory.own_weight, student_unit, teacher_unit, student_norm, arrays.d_student + first * dimension);
  }
  reduce_loss_cpu(device, batch, memory.stats, memory.norms, arrays.record);
  if (arrays.cleared) *arrays.cleared = {};
}

}  // namespace lgd
