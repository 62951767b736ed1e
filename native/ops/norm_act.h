// Batch normalisation in training, with what follows it: y = act(gamma * xhat + beta + residual), xhat = (x - mean) *
// rstd.
//
// M = N*H*W rows of C channels. mean, biased variance over the M rows; running_var takes the unbiased variance
// (torch.nn.BatchNorm2d): running <- (1 - momentum) running + momentum batch.
// Backward, with u the argument of act, g = dy * act'(u):
//   d_beta = sum g;  d_gamma = sum g xhat;  dx = gamma rstd (g - d_beta / M - xhat d_gamma / M);  d_residual = g.
#pragma once
#include "core/activation.h"
#include "core/context.h"

namespace lgd {

struct NormShape {
  int64_t rows;
  int channels;
  float eps, momentum;
  Act act;
};

struct NormForward {
  const void* x;
  const void* residual;  // or null
  const float *gamma, *beta;
  float *running_mean, *running_var;  // updated
  float *mean, *rstd;                 // [C] saved for backward
  void* y;
};
void norm_act_forward_cpu(Context&, const NormShape&, DType type, const NormForward&);
void norm_act_forward_cuda(Context&, const NormShape&, DType type, const NormForward&);

struct NormBackward {
  const void *x, *residual, *dy;  // residual: the forward's, or null
  const float *gamma, *beta, *mean, *rstd;
  float *d_gamma, *d_beta;  // +=
  void* dx;                 // written, or added to when accumulate_dx
  void* d_residual;         // or null
  bool accumulate_dx, accumulate_residual;
};
void norm_act_backward_cpu(Context&, const NormShape&, DType type, const NormBackward&);
void norm_act_backward_cuda(Context&, const NormShape&, DType type, const NormBackward&);

// Evaluation: y = act(x * scale + shift + residual), scale = gamma / sqrt(running_var + eps), shift = beta -
// running_mean * scale. norm_fold writes scale and shift [C]; affine_act applies them (null scale: 1; null shift: 0).
void norm_fold_cpu(Context&, int channels, float eps, const float* gamma, const float* beta, const float* running_mean,
                   const float* running_var, float* scale, float* shift);
void norm_fold_cuda(Context&, int channels, float eps, const float* gamma, const float* beta, const float* running_mean,
                    const float* running_var, float* scale, float* shift);
void affine_act_forward_cpu(Context&, int64_t rows, int channels, DType type, const void* x, const float* scale,
                            const float* shift, const void* residual, Act act, void* y);
void affine_act_forward_cuda(Context&, int64_t rows, int channels, DType type, const void* x, const float* scale,
                             const float* shift, const void* residual, Act act, void* y);

}  // namespace lgd
