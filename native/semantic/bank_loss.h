// The distillation loss over the banks and its gradient.
//
// Shapes: B images, D embedding, anchors A [N,D] = [textual bank L | visual bank V | queue], row-major; L takes the
// first `textual` rows. Student x_i and teacher y_i are raw; z_i = x_i / |x_i|, u_i = y_i / |y_i|.
//   textual part:  scores z_i . L_k  and  u_i . L_k
//   visual part:   scores z_i . a_k  and  u_i . a_k, with a_0 = u_i, the image's own teacher embedding (u_i . a_0 = 1),
//                  then V and the queue
//   p = softmax(teacher scores / t_T),  q = softmax(student scores / t_S)         (within one part)
//   loss of a part = mean_i -sum_k p_ik log q_ik;   entropy = mean_i -sum_k p_ik log p_ik;   KL = loss - entropy
//   L = alpha * visual + (1 - alpha) * textual
// Gradient. With w the part's weight, log q_k = s_k - log sum_j exp s_j, s_k = z.a_k / t_S and sum_k p_k = 1:
//   dL/ds_k = w / B (q_k - p_k),  so  g_i = dL/dz_i = w / (B t_S) sum_k (q_ik - p_ik) a_k,  summed over the parts.
// a_k and p are constants. z = x / |x| has the Jacobian (I - z z^T) / |x|, so
//   dL/dx_i = (g_i - (g_i . z_i) z_i) / |x_i|.
//
// Least work: 3 B N D multiply-adds (the scores of student and teacher, then the gradient). Memory is bounded for any B
// and N: where the scores of the batch do not fit a fixed budget, float32 products take the images in blocks that do,
// and float16 products keep sums alone and form the scores a second time for the gradient (bank_loss.cu). Accuracy:
// scores and sums in float32 or better. A softmax is kept as 1 + (rest), with the row's peak taken out of the sum, so
// that log(1 + rest) and q - p keep their digits when both are nearly one-hot (t_T = 0.01 makes that the rule).
#pragma once
#include "core/context.h"
#include "core/philox.h"  // LGD_HOST_DEVICE

namespace lgd {

// How products are formed; sums are float32 in each.
enum class Products : uint8_t {
  f32,
  f16,  // on tensor cores, operands rounded to float16; CUDA only
};

// How float16 operands lie in memory: rows of `planes` planes of D values, each filled with zeros up to `plane` of
// them. Rounding two unit rows to 11 bits moves their product by about 2e-4 / sqrt(D) (bfloat16's 8 bits: 1.6e-3), a
// logit by 1 / t times that. Where this is more than about 1e-3 a second plane holds what the rounding left, and the
// product has 22 bits, but for the sum: tensor cores cut off what float32 has no room for where float32 units round, at
// most 2^-23 of the sum for each sixteen products, always towards zero (Fasi et al. 2021; not measured here).
struct OperandLayout {
  int plane = 0, planes = 1;
  LGD_HOST_DEVICE int64_t stride() const { return int64_t(plane) * planes; }
};
inline OperandLayout operand_layout(int64_t dimension, float student_temperature, float teacher_temperature) {
  const double coldest = student_temperature < teacher_temperature ? student_temperature : teacher_temperature;
  return {int((dimension + 7) / 8 * 8), double(dimension) * coldest * coldest < 0.03 ? 2 : 1};
}

// The first rows of a batch that cannot be used, counted from 1; 0: none (so that a zeroed record is a good one).
struct RowFaults {
  int32_t zero, non_finite;
  LGD_HOST_DEVICE bool none() const { return zero == 0 && non_finite == 0; }
};

// What one loss leaves behind: means over the batch, in nats. Plain data: it lives in device memory.
struct LossRecord {
  double loss_visual, loss_textual, entropy_visual, entropy_textual, own_mass, agreement;
  RowFaults student, teacher;
  double loss_feature;  // of feature_loss.h
};

// What a bank update leaves behind.
struct UpdateRecord {
  double categories_hit, categories_seen;
  RowFaults teacher;  // when either is set, neither bank nor queue was touched
};

struct BankLossShape {
  int64_t batch = 0, dimension = 0;
  int64_t textual = 0, visual = 0, queue = 0;  // rows of each section of the anchors
  // does the part exist? (an unused textual bank still gives `agreement`)
  bool textual_part = true, visual_part = true;
  int64_t anchors() const { return textual + visual + queue; }
};
struct BankLossSettings {
  float alpha = 0.5f, student_temperature = 0.2f, teacher_temperature = 0.01f;
  float scale = 1;  // of the gradient
  Products products = Products::f32;
};

// Device memory that a loss reads and writes.
struct BankLossArrays {
  const float *student, *teacher;  // [B,D] raw
  const float* anchors;            // [N,D]
  // those sections of the anchors, where they do not lie behind the one before (CPU only)
  const float *visual = nullptr, *queue = nullptr;
  const void* operands = nullptr;  // the anchors as float16 rows in operand_layout(); Products::f16 only
  float* d_student;                // [B,D] <- scale * dL/d student
  LossRecord* record;
  UpdateRecord* cleared = nullptr;  // <- zeros: no update was made of this step yet
  // What a bank update can go by instead of forming it again (CUDA; null: not wanted): the teacher's unit rows [B,D],
  // their norms [B] (0 of a zero row, NaN of one that is not finite) and nearest categories [B].
  float *teacher_unit = nullptr, *teacher_norm = nullptr;
  int32_t* assignment = nullptr;
};

// The whole loss. A row that is zero or not finite counts as a zero embedding with a zero gradient and is named in the
// record. Enqueues and returns; takes the device's scratch memory.
void bank_loss_cpu(Context&, const BankLossShape&, const BankLossSettings&, const BankLossArrays&);
void bank_loss_cuda(Context&, const BankLossShape&, const BankLossSettings&, const BankLossArrays&);

// operands <- the rows [N,D] as float16. CUDA only.
void write_operands(Context& device, int64_t rows, int64_t dimension, OperandLayout layout, const float* values,
                    void* operands);

// The anchors that the gradient needs: a part without weight is left out, as its scores do not become weights.
struct GradientRange {
  int64_t begin, end;
  GradientRange(const BankLossShape& shape, float textual_weight, float visual_weight)
      : begin(shape.textual_part && textual_weight != 0 ? 0 : shape.textual),
        end(shape.visual_part && visual_weight != 0 ? shape.anchors() : shape.textual) {}
  int64_t size() const { return end - begin; }
};

// unit[i] = x[i] / |x[i]|, norm[i] = |x[i]| (sums in double). A zero row: unit 0, norm 0; a row that is not finite:
// unit 0, norm NaN. unit may be x.
void normalise_rows_cpu(Context&, int64_t rows, int64_t dimension, const float* x, float* unit, float* norm);
void normalise_rows_cuda(Context&, int64_t rows, int64_t dimension, const float* x, float* unit, float* norm);

// faults <- the first zero and the first non-finite row by their norms.
void find_faults_cpu(Context&, int64_t rows, const float* norm, RowFaults* faults);
void find_faults_cuda(Context&, int64_t rows, const float* norm, RowFaults* faults);

// scores[m,n] = rows[m] . anchors[n]; rows [M,D], anchors [N,D], scores with `stride` floats a row (a multiple of 4, at
// least N).
void similarities_cpu(Context&, int64_t m, int64_t n, int64_t dimension, const float* rows, const float* anchors,
                      float* scores, int64_t stride);
void similarities_cuda(Context&, int64_t m, int64_t n, int64_t dimension, const float* rows, const float* anchors,
                       float* scores, int64_t stride);

// What one image adds to the means of LossRecord.
struct RowStats {
  double loss_visual, loss_textual, entropy_visual, entropy_textual, own_mass, agreement;
};

}  // namespace lgd
