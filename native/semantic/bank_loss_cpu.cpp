#include "semantic/bank_loss.h"

#include <cmath>

#include "ops/common_cpu.h"
#include "ops/vector_cpu.h"
#include "semantic/matrix_cpu.h"

namespace lgd {
namespace {

// Sums over one part of one image's softmax, in units of e^(peak). Entries at the peak count exactly 1 each and are kept apart.
struct PartSums {
  double student_below, teacher_below;   // sums of the exponentials below the peak
  int64_t student_peaks, teacher_peaks;  // entries at the peak
  double cross, self;                    // sum of e_teacher * (s - s_peak) / t_S and of e_teacher * (t - t_peak) / t_T; both <= 0
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
  const double s_rest = sums.student_below + double(sums.student_peaks - 1), t_rest = sums.teacher_below + double(sums.teacher_peaks - 1);
  const double s_sum = 1 + s_rest, t_sum = 1 + t_rest;
  // q - p where both are at their peak: 1 / Z_S - 1 / Z_T without the cancellation.
  const double both = (t_rest - s_rest) / (s_sum * t_sum);
  PartResult result;
  result.loss = std::log1p(s_rest) - sums.cross / t_sum;
  result.entropy = std::log1p(t_rest) - sums.self / t_sum;
  result.own_mass = own_teacher / t_sum;
  result.own_weight = 0;
  if (own.present) result.own_weight = float(weight * (own_student == 1 && own_teacher == 1 ? both : own_student / s_sum - own_teacher / t_sum));
  if (weight != 0) LGD_DISPATCH(difference_row)(n, s, t, float(weight / s_sum), float(weight / t_sum), float(weight * both));
  return result;
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

void similarities_cpu(Context& device, int64_t m, int64_t n, int64_t dimension, const float* rows, const float* anchors, float* scores, int64_t stride) {
  multiply_cpu(device.pool, {m, n, dimension}, rows, dimension, anchors, dimension, true, scores, stride);
}

void bank_softmax_cpu(Context& device, const SoftmaxBlock& block, const float* student_unit, const float* teacher_unit, float* student, float* teacher,
                      float* own_weight, RowStats* stats) {
  device.pool.for_range(block.rows, row_grain(block.total), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float *s = student + i * block.stride, *t = teacher + i * block.stride;
      RowStats row = {};
      own_weight[i] = 0;
      if (block.textual > 0) row.agreement = LGD_DISPATCH(row_nearest)(block.textual, s) == LGD_DISPATCH(row_nearest)(block.textual, t);
      if (block.textual_part) {
        const PartResult part = softmax_part(block.textual, s, t, {false, 0}, block, block.textual_weight);
        row.loss_textual = part.loss;
        row.entropy_textual = part.entropy;
      }
      if (block.visual_part) {
        const float score = float(LGD_DISPATCH(dot_product)(block.dimension, student_unit + i * block.dimension, teacher_unit + i * block.dimension));
        const PartResult part = softmax_part(block.total - block.textual, s + block.textual, t + block.textual, {true, score}, block, block.visual_weight);
        row.loss_visual = part.loss;
        row.entropy_visual = part.entropy;
        row.own_mass = part.own_mass;
        own_weight[i] = part.own_weight;
      }
      stats[i] = row;
    }
  });
}

void anchor_sums_cpu(Context& device, int64_t m, int64_t n, int64_t dimension, const float* weights, int64_t stride, const float* anchors, bool add, float* sums) {
  multiply_cpu(device.pool, {m, dimension, n}, weights, stride, anchors, dimension, false, sums, dimension, add);
}

void finish_gradient_cpu(Context& device, int64_t m, int64_t dimension, const float* sums, const float* own_weight, const float* student_unit,
                         const float* teacher_unit, const float* norm, float* d_student) {
  device.pool.for_range(m, row_grain(dimension), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i * dimension;
      if (norm[i] > 0)
        LGD_DISPATCH(gradient_row)(dimension, sums + at, own_weight[i], student_unit + at, teacher_unit + at, norm[i], d_student + at);
      else std::fill_n(d_student + at, dimension, 0.0f);
    }
  });
}

void reduce_loss_cpu(Context&, int64_t batch, const RowStats* stats, const float* norms, LossRecord* record) {
  LossRecord sum = {};
  for (int64_t i = 0; i < batch; ++i) {
    sum.loss_visual += stats[i].loss_visual;
    sum.loss_textual += stats[i].loss_textual;
    sum.entropy_visual += stats[i].entropy_visual;
    sum.entropy_textual += stats[i].entropy_textual;
    sum.own_mass += stats[i].own_mass;
    sum.agreement += stats[i].agreement;
  }
  for (double* value : {&sum.loss_visual, &sum.loss_textual, &sum.entropy_visual, &sum.entropy_textual, &sum.own_mass, &sum.agreement}) *value /= double(batch);
  sum.student = faults_of(batch, norms);
  sum.teacher = faults_of(batch, norms + batch);
  *record = sum;
}

}  // namespace lgd
