// Feature regression, the plainest baseline: the student's embedding is turned towards the teacher's, without any bank.
//   z_i = x_i / |x_i|, u_i = y_i / |y_i|;   L = mean_i (1 - z_i . u_i)
//   dL/dz_i = -u_i / B, and through the norm   dL/dx_i = -(u_i - (z_i . u_i) z_i) / (B |x_i|)
// Least work: 3 B D values are moved, one launch over the images and one for the means.
#pragma once
#include "semantic/bank_loss.h"

namespace lgd {

struct FeatureLoss {
  int64_t batch = 0, dimension = 0;
  float scale = 1;                 // of the gradient
  const float *student, *teacher;  // [B,D] raw
  // [B,D] <- scale * dL/d student; zeros for a row that is zero or not finite, here or in the teacher's
  float* d_student;
  float *norms, *cosine;  // working memory: [2,B] and [B]
  LossRecord* record;     // <- loss_feature and the faults; the rest stays
};
void feature_loss_cpu(Context&, const FeatureLoss&);
void feature_loss_cuda(Context&, const FeatureLoss&);

}  // namespace lgd
