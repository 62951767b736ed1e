// Matrix products on the CPU, for the products of embeddings and banks.
#pragma once
#include <cstdint>

#include "core/thread_pool.h"

namespace lgd {

// c[m,n] = sum_k a[m,k] b(k,n), float32 throughout; b(k,n) is b[n, k] when b_transposed (rows of b are anchors), else
// b[k, n]. lda, ldb, ldc: floats from one row to the next. Sums over k are formed in steps of a fixed length, so
// results do not depend on the number of threads. c is written, or added to with `add`; k == 0 counts as zeros.
struct MatrixShape {
  int64_t m, n, k;
};
void multiply_cpu(ThreadPool& pool, const MatrixShape& shape, const float* a, int64_t lda, const float* b, int64_t ldb,
                  bool b_transposed, float* c, int64_t ldc, bool add = false);

}  // namespace lgd
