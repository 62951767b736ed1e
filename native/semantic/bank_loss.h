// The distillation loss over the banks and its gradient.
//
// Shapes: B images, D embedding, anchors A [N,D] = [textual bank L | visual bank V | queue], row-major; L takes the first `textual` rows.
// Student x_i and teacher y_i are raw; z_i = x_i / |x_i|, u_i = y_i / |y_i|.
//   textual part:  scores z_i . L_k  and  u_i . L_k
//   visual part:   scores z_i . a_k  and  u_i . a_k, where a_0 = u_i (the image's own teacher embedding: u_i . a_0 = 1), then V and the queue
//   p = softmax(teacher scores / t_T),  q = softmax(student scores / t_S)         (within one part)
//   loss of a part = mean_i -sum_k p_ik log q_ik;   entropy = mean_i -sum_k p_ik log p_ik;   KL = loss - entropy
//   L = alpha * visual + (1 - alpha) * textual
// Gradient. With w the part's weight, log q_k = s_k - log sum_j exp s_j, s_k = z.a_k / t_S and sum_k p_k = 1:
//   dL/ds_k = w / B (q_k - p_k)        so   g_i = dL/dz_i = w / (B t_S) sum_k (q_ik - p_ik) a_k     (summed over the parts)
// a_k and p are constants. z = x / |x| has the Jacobian (I - z z^T) / |x|, so   dL/dx_i = (g_i - (g_i . z_i) z_i) / |x_i|.
//
// Least work: 3 B N D multiply-adds (the scores of student and teacher, then the gradient). Images are taken in blocks whose scores fit a
// fixed budget (2 N floats an image), so memory is bounded for any B and N and no product is formed twice.
// Accuracy: scores and sums in float32 or better. A softmax is kept as 1 + (rest), with the row's peak taken out of the sum, so that
// log(1 + rest) and q - p keep their digits when both are nearly one-hot (t_T = 0.01 makes that the rule).
#pragma once
#include "core/device.h"
#include "core/philox.h"  // LGD_HOST_DEVICE

namespace lgd {

// How products are formed; sums are float32 in each.
enum class Products : uint8_t {
  f32,
  bf16_split,  // tensor cores: every operand as the sum of two bfloat16 numbers, three products (about 16 bits); CUDA only
};

// The first rows of a batch that cannot be used, counted from 1; 0: none (so that a zeroed record is a good one).
struct RowFaults {
  int32_t zero, non_finite;
  LGD_HOST_DEVICE bool none() const { return zero == 0 && non_finite == 0; }
};

// What one loss leaves behind: means over the batch, in nats. Plain data: it lives in device memory.
struct LossRecord {
  double loss_visual, loss_textual, entropy_visual, entropy_textual, own_mass, agreement;
  RowFaults student, teacher;
};

struct BankLossShape {
  int64_t batch = 0, dimension = 0;
  int64_t textual = 0, visual = 0, queue = 0;  // rows of each section of the anchors
  bool textual_part = true, visual_part = true;  // does the part exist? (an unused textual bank still gives `agreement`)
  int64_t anchors() const { return textual + visual + queue; }
};
struct BankLossSettings {
  float alpha = 0.5f, student_temperature = 0.2f, teacher_temperature = 0.01f;
  float scale = 1;  // of the gradient
  Products products = Products::f32;
};

// The whole loss: student, teacher [B,D] raw, anchors [N,D], d_student [B,D] = scale * dL/d student; record in device memory.
// A row that is zero or not finite counts as a zero embedding with a zero gradient and is named in the record.
// Enqueues and returns; takes the device's scratch memory.
void run_bank_loss(Device& device, const BankLossShape& shape, const BankLossSettings& settings, const float* student, const float* teacher,
                   const float* anchors, float* d_student, LossRecord* record);

// ---- the operations it is made of; device memory throughout ------------------------------------------------------------------

// unit[i] = x[i] / |x[i]|, norm[i] = |x[i]| (sums in double). A zero row: unit 0, norm 0; a row that is not finite: unit 0, norm NaN.
void normalise_rows_cpu(Device&, int64_t rows, int64_t dimension, const float* x, float* unit, float* norm);
void normalise_rows_cuda(Device&, int64_t rows, int64_t dimension, const float* x, float* unit, float* norm);

// faults <- the first zero and the first non-finite row by their norms.
void find_faults_cpu(Device&, int64_t rows, const float* norm, RowFaults* faults);
void find_faults_cuda(Device&, int64_t rows, const float* norm, RowFaults* faults);

// scores[m,n] = rows[m] . anchors[n];  rows [M,D], anchors [N,D], scores with `stride` floats a row (a multiple of 4, at least N).
void similarities_cpu(Device&, int64_t m, int64_t n, int64_t dimension, const float* rows, const float* anchors, float* scores, int64_t stride, Products);
void similarities_cuda(Device&, int64_t m, int64_t n, int64_t dimension, const float* rows, const float* anchors, float* scores, int64_t stride, Products);

// One block of images: their scores become the gradient's weights, in place.
struct SoftmaxBlock {
  int64_t rows, dimension;
  int64_t textual, total;              // columns [0, textual) and [textual, total)
  int64_t stride;
  bool textual_part, visual_part;
  float student_temperature, teacher_temperature;
  float textual_weight, visual_weight;  // factor of (q - p): scale * w / (B t_S)
};
struct RowStats {
  double loss_visual, loss_textual, entropy_visual, entropy_textual, own_mass, agreement;
};
// student, teacher: scores [rows, stride]; student_unit, teacher_unit [rows, D]. Writes weight * (q - p) over the student's scores, the own
// entry's to own_weight [rows], and stats [rows]. The teacher's scores are destroyed.
void bank_softmax_cpu(Device&, const SoftmaxBlock&, const float* student_unit, const float* teacher_unit, float* student, float* teacher,
                      float* own_weight, RowStats* stats);
void bank_softmax_cuda(Device&, const SoftmaxBlock&, const float* student_unit, const float* teacher_unit, float* student, float* teacher,
                       float* own_weight, RowStats* stats);

// sums[part][m] = sum over the part's share of n of weights[m,n] anchors[n];  weights [M, stride], sums [parts, M, D].
// The number of parts depends on the shape only; whoever reads adds them in order.
int64_t anchor_sum_parts_cpu(int64_t m, int64_t n, int64_t dimension);
int64_t anchor_sum_parts_cuda(int64_t m, int64_t n, int64_t dimension);
void anchor_sums_cpu(Device&, int64_t m, int64_t n, int64_t dimension, const float* weights, int64_t stride, const float* anchors, int64_t parts,
                     float* sums, Products);
void anchor_sums_cuda(Device&, int64_t m, int64_t n, int64_t dimension, const float* weights, int64_t stride, const float* anchors, int64_t parts,
                      float* sums, Products);

// d_student[m] = (g - (g.z) z) / norm[m], g = sum of the parts + own_weight[m] u; z, u the unit rows. A row whose norm is 0 or NaN gets zeros.
void finish_gradient_cpu(Device&, int64_t m, int64_t dimension, int64_t parts, const float* sums, const float* own_weight, const float* student_unit,
                         const float* teacher_unit, const float* norm, float* d_student);
void finish_gradient_cuda(Device&, int64_t m, int64_t dimension, int64_t parts, const float* sums, const float* own_weight, const float* student_unit,
                          const float* teacher_unit, const float* norm, float* d_student);

// record <- means of stats [B] and the faults by the norms [2,B] (student, then teacher).
void reduce_loss_cpu(Device&, int64_t batch, const RowStats* stats, const float* norms, LossRecord* record);
void reduce_loss_cuda(Device&, int64_t batch, const RowStats* stats, const float* norms, LossRecord* record);

}  // namespace lgd
