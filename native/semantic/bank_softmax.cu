// Both softmaxes of every image, their losses and entropies, and the weights of the gradient, in place.
// Reads the scores three times (peaks, sums, weights) and writes them twice; a row of 2 K values stays in cache between the passes.
// One block an image; the entries of a row are spread over its threads.
#include "semantic/bank_loss.h"
#include "semantic/block_reduce.cuh"

namespace lgd {

namespace {

__device__ float block_peak(int64_t n, const float* row) { return block_row_first(n, row).score; }

// The entry in front of the visual part; see bank_loss.h.
struct OwnEntry {
  bool present;
  float student_score;
};
struct PartResult {
  double loss, entropy, own_mass;
  float own_weight;
};

// One part of one image, by the whole block. s and t become exponentials; s then weight * (q - p) unless weight is 0.
__device__ PartResult softmax_part(int64_t n, float* s, float* t, OwnEntry own, const SoftmaxBlock& block, float weight) {
  float s_peak = block_peak(n, s), t_peak = block_peak(n, t);
  if (own.present) {
    s_peak = fmaxf(s_peak, own.student_score);
    t_peak = fmaxf(t_peak, 1.f);
  }
  const float s_factor = 1 / block.student_temperature, t_factor = 1 / block.teacher_temperature;
  // Below the peak, at the peak (each entry counts 1), for student and teacher; then the two sums over the teacher's exponentials.
  double sums[6] = {};
  for (int64_t k = threadIdx.x; k < n; k += reduce_threads) {
    const float ds = (s[k] - s_peak) * s_factor, dt = (t[k] - t_peak) * t_factor;
    const float es = ds == 0 ? 1.f : expf(ds), et = dt == 0 ? 1.f : expf(dt);
    sums[0] += ds == 0 ? 0 : es;
    sums[1] += ds == 0 ? 1 : 0;
    sums[2] += dt == 0 ? 0 : et;
    sums[3] += dt == 0 ? 1 : 0;
    sums[4] += double(et) * ds;
    sums[5] += double(et) * dt;
    s[k] = es;
    t[k] = et;
  }
  block_sum(sums);
  double own_student = 0, own_teacher = 0;
  if (own.present) {
    const double ds = double(own.student_score - s_peak) * s_factor, dt = double(1.f - t_peak) * t_factor;
    own_student = exp(ds);
    own_teacher = exp(dt);
    sums[0] += ds == 0 ? 0 : own_student;
    sums[1] += ds == 0 ? 1 : 0;
    sums[2] += dt == 0 ? 0 : own_teacher;
    sums[3] += dt == 0 ? 1 : 0;
    sums[4] += own_teacher * ds;
    sums[5] += own_teacher * dt;
  }
  // Z = 1 + rest, and q - p = 1 / Z_S - 1 / Z_T without cancellation where both are at their peak.
  const double s_rest = sums[0] + (sums[1] - 1), t_rest = sums[2] + (sums[3] - 1), s_sum = 1 + s_rest, t_sum = 1 + t_rest;
  const double both = (t_rest - s_rest) / (s_sum * t_sum);
  PartResult result;
  result.loss = log1p(s_rest) - sums[4] / t_sum;
  result.entropy = log1p(t_rest) - sums[5] / t_sum;
  result.own_mass = own_teacher / t_sum;
  result.own_weight = 0;
  if (own.present) result.own_weight = float(weight * (own_student == 1 && own_teacher == 1 ? both : own_student / s_sum - own_teacher / t_sum));
  if (weight != 0) {
    const float from_student = float(weight / s_sum), from_teacher = float(weight / t_sum), at_both = float(weight * both);
    for (int64_t k = threadIdx.x; k < n; k += reduce_threads) {  // each thread reads what it wrote
      const float es = s[k], et = t[k];
      s[k] = es == 1 && et == 1 ? at_both : es * from_student - et * from_teacher;
    }
  }
  return result;
}

__global__ void bank_softmax_kernel(SoftmaxBlock block, const float* __restrict__ student_unit, const float* __restrict__ teacher_unit, float* student,
                                    float* teacher, float* __restrict__ own_weight, RowStats* __restrict__ stats) {
  const int64_t row = blockIdx.x;
  float *s = student + row * block.stride, *t = teacher + row * block.stride;
  RowStats result = {};
  float own = 0;
  if (block.textual > 0) result.agreement = block_row_first(block.textual, s).column == block_row_first(block.textual, t).column;
  if (block.textual_part) {
    const PartResult part = softmax_part(block.textual, s, t, {false, 0}, block, block.textual_weight);
    result.loss_textual = part.loss;
    result.entropy_textual = part.entropy;
  }
  if (block.visual_part) {
    double score[1] = {0};
    for (int64_t d = threadIdx.x; d < block.dimension; d += reduce_threads)
      score[0] += double(student_unit[row * block.dimension + d]) * double(teacher_unit[row * block.dimension + d]);
    block_sum(score);
    const PartResult part =
        softmax_part(block.total - block.textual, s + block.textual, t + block.textual, {true, float(score[0])}, block, block.visual_weight);
    result.loss_visual = part.loss;
    result.entropy_visual = part.entropy;
    result.own_mass = part.own_mass;
    own = part.own_weight;
  }
  if (threadIdx.x != 0) return;
  own_weight[row] = own;
  stats[row] = result;
}

}  // namespace

void bank_softmax_cuda(Device& device, const SoftmaxBlock& block, const float* student_unit, const float* teacher_unit, float* student, float* teacher,
                       float* own_weight, RowStats* stats) {
  LGD_LAUNCH(device, bank_softmax_kernel, unsigned(block.rows), reduce_threads, 0, block, student_unit, teacher_unit, student, teacher, own_weight, stats);
}

}  // namespace lgd
