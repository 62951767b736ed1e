// The k nearest rows by cosine: retrieval, nearest-neighbour classification, zero-shot top-k.
#pragma once
#include "semantic/bank_loss.h"

namespace lgd {

// For each row of scores [M, stride] its k largest of n columns in falling order, the lower column first among equals:
// indices, values [M,k], k <= n.
void select_top_cpu(Context&, int64_t m, int64_t n, int64_t k, const float* scores, int64_t stride, int32_t* indices,
                    float* values);
void select_top_cuda(Context&, int64_t m, int64_t n, int64_t k, const float* scores, int64_t stride, int32_t* indices,
                     float* values);

}  // namespace lgd
