// The k largest of each row of scores. One block a row; each thread keeps the best of its own share of the columns, and
// only the thread whose candidate was taken looks through its share again: about n + k n / 256 reads a row.
#include "semantic/block_reduce.cuh"
#include "semantic/top_similar.h"

namespace lgd {

namespace {

__global__ void select_top_kernel(int64_t n, int64_t k, const float* scores, int64_t stride, int32_t* indices,
                                  float* values) {
  wait_for_inputs();
  const float* row = scores + blockIdx.x * stride;
  // The best of this thread's columns that comes after `taken`.
  const auto next_after = [&](const Candidate& taken) {
    Candidate best = no_candidate();
    for (int64_t i = threadIdx.x; i < n; i += reduce_threads) {
      const Candidate one = {row[i], int32_t(i)};
      if (before(taken, one) && before(one, best)) best = one;
    }
    return best;
  };
  Candidate mine = next_after({__int_as_float(0x7f800000), -1});
  for (int64_t place = 0; place < k; ++place) {
    Candidate best[1] = {mine};
    block_first(best);
    const Candidate taken = best[0];
    if (threadIdx.x == 0) {
      indices[blockIdx.x * k + place] = taken.column;
      values[blockIdx.x * k + place] = taken.score;
    }
    if (mine.column == taken.column) mine = next_after(taken);
  }
}

}  // namespace

void select_top_cuda(Context& device, int64_t m, int64_t n, int64_t k, const float* scores, int64_t stride,
                     int32_t* indices, float* values) {
  LGD_LAUNCH(device, select_top_kernel, unsigned(m), reduce_threads, 0, n, k, scores, stride, indices, values);
}

}  // namespace lgd
