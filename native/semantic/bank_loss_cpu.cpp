#include "semantic/bank_loss.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"
#include "semantic/kernels.h"
#include "semantic/matrix_cpu.h"

namespace lgd {
namespace {

// Sums over one part of one image's softmax, in units of e^(peak). Entries at the peak count exactly 1 each and are
// kept apart.
struct PartSums {
  double student_below, teacher_below;   // sums of the exponentials below the peak
  int64_t student_peaks, teacher_peaks;  // entries at the peak
  // sum of e_teacher * (s - s_peak) / t_S and of e_teacher * (t - t_peak) / t_T; both <= 0
  double cross, self;
};

}  // namespace
}  // namespace lgd

#define LGD_ISA_FILE "semantic/bank_loss_cpu.inl"
#include "core/foreach_isa.h"

namespace lgd {

namespace {

// Rows a thread takes at least, so that a share is worth waking a thread for.
int64_t row_grain(int64_t row_length) { return ceil_div(16384, std::max<int64_t>(row_length, 1)); }

RowFaults faults_of(int64_t rows, const float* norm) {
  RowFaults faults = {};
  for (int64_t i = rows - 1; i >= 0; --i) {
    if (norm[i] == 0) faults.zero = int32_t(i + 1);
    if (std::isnan(norm[i])) faults.non_finite = int32_t(i + 1);
  }
  return faults;
}

// One block of images: their scores become the gradient's weights, in place.
struct SoftmaxBlock {
  int64_t rows, dimension;
  int64_t textual, total;  // columns [0, textual) and [textual, total)
  int64_t stride;
  bool textual_part, visual_part;
  float student_temperature, teacher_temperature;
  float textual_weight, visual_weight;  // factor of (q - p): scale * w / (B t_S)
};

// The entry in front of the visual part: the image's own teacher embedding, whose teacher score is 1.
struct OwnEntry {
  bool present;
  float student_score;
};
struct PartResult {
  double loss, entropy, own_mass;
  float own_weight;
};

// One part of one image. Turns the student's scores into weight * (q - p); leaves them alone when weight is 0.
PartResult softmax_part(int64_t n, float* s, float* t, OwnEntry own, const SoftmaxBlock& block, float weight) {
  float s_peak = LGD_DISPATCH(row_maximum)(n, s), t_peak = LGD_DISPATCH(row_maximum)(n, t);
  if (own.present) {
    s_peak = std::max(s_peak, own.student_score);
    t_peak = std::max(t_peak, 1.0f);
  }
  const float s_factor = 1 / block.student_temperature, t_factor = 1 / block.teacher_temperature;
  PartSums sums = LGD_DISPATCH(exponentials)(n, s, t, s_peak, t_peak, s_factor, t_factor);
  double own_student = 0, own_teacher = 0;
  if (own.present) {
    const double ds = double(own.student_score - s_peak) * s_factor, dt = double(1.0f - t_peak) * t_factor;
    own_student = std::exp(ds);
    own_teacher = std::exp(dt);
    if (ds == 0) ++sums.student_peaks;
    else sums.student_below += own_student;
    if (dt == 0) ++sums.teacher_peaks;
    else sums.teacher_below += own_teacher;
    sums.cross += own_teacher * ds;
    sums.self += own_teacher * dt;
  }
  // Z = 1 + rest. One peak entry is the 1; further ones, and everything below, are the rest.
  const double s_rest = sums.student_below + double(sums.student_peaks - 1),
               t_rest = sums.teacher_below + double(sums.teacher_peaks - 1);
  const double s_sum = 1 + s_rest, t_sum = 1 + t_rest;
  // q - p where both are at their peak: 1 / Z_S - 1 / Z_T without the cancellation.
  const double both = (t_rest - s_rest) / (s_sum * t_sum);
  PartResult result;
  result.loss = std::log1p(s_rest) - sums.cross / t_sum;
  result.entropy = std::log1p(t_rest) - sums.self / t_sum;
  result.own_mass = own_teacher / t_sum;
  result.own_weight = 0;
  if (own.present)
    result.own_weight =
        float(weight * (own_student == 1 && own_teacher == 1 ? both : own_student / s_sum - own_teacher / t_sum));
  if (weight != 0)
    LGD_DISPATCH(difference_row)(n, s, t, float(weight / s_sum), float(weight / t_sum), float(weight * both));
  return result;
}

// student, teacher: scores [rows, stride]; student_unit, teacher_unit [rows, D]. Writes weight * (q - p) over the
// student's scores, the own entry's to own_weight [rows], and stats [rows]. The teacher's scores are destroyed.
void form_weights(Context& device, const SoftmaxBlock& block, const float* student_unit, const float* teacher_unit,
                  float* student, float* teacher, float* own_weight, RowStats* stats) {
  device.pool.for_range(block.rows, row_grain(block.total), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float *s = student + i * block.stride, *t = teacher + i * block.stride;
      RowStats row = {};
      own_weight[i] = 0;
      if (block.textual > 0)
        row.agreement = LGD_DISPATCH(row_nearest)(block.textual, s) == LGD_DISPATCH(row_nearest)(block.textual, t);
      if (block.textual_part) {
        const PartResult part = softmax_part(block.textual, s, t, {false, 0}, block, block.textual_weight);
        row.loss_textual = part.loss;
        row.entropy_textual = part.entropy;
      }
      if (block.visual_part) {
        const float score = float(LGD_DISPATCH(dot_product)(block.dimension, student_unit + i * block.dimension,
                                                            teacher_unit + i * block.dimension));
        const PartResult part = softmax_part(block.total - block.textual, s + block.textual, t + block.textual,
                                             {true, score}, block, block.visual_weight);
        row.loss_visual = part.loss;
        row.entropy_visual = part.entropy;
        row.own_mass = part.own_mass;
        own_weight[i] = part.own_weight;
      }
      stats[i] = row;
    }
  });
}

// d_student[m] = (g - (g.z) z) / norm[m], g = sums[m] + own_weight[m] u; z, u the unit rows. A row whose norm is 0 or
// NaN gets zeros.
void finish_gradient(Context& device, int64_t m, int64_t dimension, const float* sums, const float* own_weight,
                     const float* student_unit, const float* teacher_unit, const float* norm, float* d_student) {
  device.pool.for_range(m, row_grain(dimension), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i * dimension;
      if (norm[i] > 0)
        LGD_DISPATCH(gradient_row)(dimension, sums + at, own_weight[i], student_unit + at, teacher_unit + at, norm[i],
                                   d_student + at);
      else std::fill_n(d_student + at, dimension, 0.0f);
    }
  });
}

// record <- means of stats [B] and the faults by the norms [2,B] (student, then teacher).
void reduce_loss(int64_t batch, const RowStats* stats, const float* norms, LossRecord* record) {
  LossRecord sum = {};
  for (int64_t i = 0; i < batch; ++i) {
    sum.loss_visual += stats[i].loss_visual;
    sum.loss_textual += stats[i].loss_textual;
    sum.entropy_visual += stats[i].entropy_visual;
    sum.entropy_textual += stats[i].entropy_textual;
    sum.own_mass += stats[i].own_mass;
    sum.agreement += stats[i].agreement;
  }
  for (double* value :
       {&sum.loss_visual, &sum.loss_textual, &sum.entropy_visual, &sum.entropy_textual, &sum.own_mass, &sum.agreement})
    *value /= double(batch);
  sum.student = faults_of(batch, norms);
  sum.teacher = faults_of(batch, norms + batch);
  *record = sum;
}

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

void normalise_rows_cpu(Context& device, int64_t rows, int64_t dimension, const float* x, float* unit, float* norm) {
  device.pool.for_range(rows, row_grain(dimension), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = x + i * dimension;
      norm[i] = float(std::sqrt(LGD_DISPATCH(dot_product)(dimension, row, row)));
      if (!std::isfinite(norm[i])) norm[i] = std::nanf("");
      if (norm[i] > 0) LGD_DISPATCH(scale_row)(dimension, row, 1 / double(norm[i]), unit + i * dimension);
      else std::fill_n(unit + i * dimension, dimension, 0.0f);
    }
  });
}

void find_faults_cpu(Context&, int64_t rows, const float* norm, RowFaults* faults) { *faults = faults_of(rows, norm); }

void similarities_cpu(Context& device, int64_t m, int64_t n, int64_t dimension, const float* rows, const float* anchors,
                      float* scores, int64_t stride) {
  multiply_cpu(device.pool, {m, n, dimension}, rows, dimension, anchors, dimension, true, scores, stride);
}

void bank_loss_cpu(Context& device, const BankLossShape& shape, const BankLossSettings& settings,
                   const BankLossArrays& arrays) {
  LGD_CHECK(settings.products == Products::f32, "BAD_OPTION",
            "the CPU backend forms float32 products; bfloat16 was asked for");
  const int64_t batch = shape.batch, dimension = shape.dimension, total = shape.anchors();
  const int64_t stride = score_stride(total);
  const int64_t rows_at_once = rows_at_a_time(batch, 2 * stride);
  SoftmaxBlock block = softmax_block(shape, settings, stride);
  const GradientRange range(shape, block.textual_weight, block.visual_weight);
  const std::vector<AnchorPiece> pieces = anchor_pieces(shape, arrays);

  const auto memory = carve<LossMemory>(device, shape, rows_at_once, stride);
  for (int64_t first = 0; first < batch; first += rows_at_once) {
    const int64_t rows = std::min(rows_at_once, batch - first);
    block.rows = rows;
    float* student_unit = memory.units;
    float* teacher_unit = memory.units + rows * dimension;
    float* student_scores = memory.scores;
    float* teacher_scores = memory.scores + rows * stride;
    float* student_norm = memory.norms + first;
    normalise_rows_cpu(device, rows, dimension, arrays.student + first * dimension, student_unit, student_norm);
    normalise_rows_cpu(device, rows, dimension, arrays.teacher + first * dimension, teacher_unit,
                       memory.norms + batch + first);
    for (const auto& [begin, end, anchors] : pieces)
      similarities_cpu(device, 2 * rows, end - begin, dimension, memory.units, anchors, memory.scores + begin, stride);
    form_weights(device, block, student_unit, teacher_unit, student_scores, teacher_scores, memory.own_weight,
                 memory.stats + first);
    bool add = false;
    for (const auto& [piece_begin, piece_end, anchors] : pieces) {
      const int64_t begin = std::max(piece_begin, range.begin), end = std::min(piece_end, range.end);
      if (begin >= end) continue;
      multiply_cpu(device.pool, {rows, dimension, end - begin}, student_scores + begin, stride,
                   anchors + (begin - piece_begin) * dimension, dimension, false, memory.sums, dimension, add);
      add = true;
    }
    if (!add) std::fill_n(memory.sums, rows * dimension, 0.0f);
    finish_gradient(device, rows, dimension, memory.sums, memory.own_weight, student_unit, teacher_unit, student_norm,
                    arrays.d_student + first * dimension);
  }
  reduce_loss(batch, memory.stats, memory.norms, arrays.record);
  if (arrays.cleared) *arrays.cleared = {};
}

}  // namespace lgd
