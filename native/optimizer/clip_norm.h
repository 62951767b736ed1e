// Clipping of gradients by their norm, over the flat table of all parameters, as torch.nn.utils.clip_grad_norm_ does:
//   norm = |gradient_scale| sqrt(sum of g^2);   factor = min(1, most / (norm + 1e-6)).
// The optimiser multiplies by the factor what it reads (SgdStep::clip, AdamwStep::clip); the gradients stay as they are.
// The squares are added in float64, in an order that the table's size (and of CUDA the card) alone decides: the norm is
// finite where all gradients are. Where it is not, the factor is 1: nothing may hide gradients that are no numbers.
#pragma once
#include "core/context.h"
#include "core/philox.h"  // LGD_HOST_DEVICE

namespace lgd {

struct ClipRule {
  double scale, most;  // |gradient_scale|; above 0
};
LGD_HOST_DEVICE float clip_factor(const ClipRule& rule, double norm) {
  const double factor = rule.most / (norm + 1e-6);
  return factor > 0 && factor < 1 ? float(factor) : 1.f;  // 0 is of an infinite norm
}

// gradient [count], aligned to 16 bytes. factor: device memory; norm: the host's, on CUDA pinned.
void clip_norm_cpu(Context&, int64_t count, const float* gradient, const ClipRule&, float* factor, double* norm);
void clip_norm_cuda(Context&, int64_t count, const float* gradient, const ClipRule&, float* factor, double* norm);

}  // namespace lgd
