// Language-guided knowledge aggregation on the device. Everything is small beside the similarities: the assignments are a few
// kilobytes, and of the bank only the rows that were hit are read and written.
#include "semantic/bank_update.h"
#include "semantic/block_reduce.cuh"

namespace lgd {

namespace {

__global__ void nearest_kernel(int64_t n, const float* __restrict__ scores, int64_t stride, int32_t* __restrict__ nearest) {
  const Candidate first = block_row_first(n, scores + blockIdx.x * stride);
  if (threadIdx.x == 0) nearest[blockIdx.x] = first.column;
}

// Chains the images of a category in their order: is_first[i], and next[i] the following member or `rows`. One thread an image.
__global__ void link_members_kernel(int64_t rows, const int32_t* __restrict__ assignment, int32_t* __restrict__ is_first, int32_t* __restrict__ next) {
  const int64_t i = int64_t(blockIdx.x) * reduce_threads + threadIdx.x;
  if (i >= rows) return;
  const int32_t category = assignment[i];
  int64_t before = i - 1, after = i + 1;
  while (before >= 0 && assignment[before] != category) --before;
  while (after < rows && assignment[after] != category) ++after;
  is_first[i] = before < 0;
  next[i] = int32_t(after);
}

// One block an image; the first of each category moves its anchor. Members are added in their order.
__global__ void move_anchors_kernel(AggregateShape shape, const float* __restrict__ unit, const int32_t* __restrict__ assignment,
                                    const int32_t* __restrict__ is_first, const int32_t* __restrict__ next, float* __restrict__ visual, uint8_t* seen,
                                    const UpdateRecord* __restrict__ record) {
  const int64_t image = blockIdx.x;
  if (!is_first[image] || !record->teacher.none()) return;
  const int32_t category = assignment[image];
  const bool known = seen[category] != 0;
  int members = 0;
  for (int64_t i = image; i < shape.rows; i = next[i]) ++members;
  const float keep = known ? shape.momentum : 0.f, take = (1 - keep) / float(members);
  float* anchor = visual + category * shape.dimension;
  for (int64_t d = threadIdx.x; d < shape.dimension; d += reduce_threads) {
    float sum = 0;
    for (int64_t i = image; i < shape.rows; i = next[i]) sum += unit[i * shape.dimension + d];
    anchor[d] = known ? keep * anchor[d] + take * sum : take * sum;
  }
  __syncthreads();  // every thread has read the flag
  if (threadIdx.x == 0) seen[category] = 1;
}

__global__ void count_kernel(int64_t rows, int64_t categories, const int32_t* __restrict__ is_first, const uint8_t* __restrict__ seen, UpdateRecord* record) {
  double counts[2] = {0, 0};
  for (int64_t i = threadIdx.x; i < rows; i += reduce_threads) counts[0] += is_first[i];
  for (int64_t k = threadIdx.x; k < categories; k += reduce_threads) counts[1] += seen[k];
  block_sum(counts);
  if (threadIdx.x != 0) return;
  record->categories_hit = record->teacher.none() ? counts[0] : 0;
  record->categories_seen = counts[1];
}

__global__ void enqueue_kernel(int64_t first, int64_t dimension, const float* __restrict__ unit, int64_t position, int64_t size, float* __restrict__ queue,
                               const RowFaults* __restrict__ faults) {
  if (!faults->none()) return;
  const int64_t row = first + blockIdx.x, slot = (position + row) % size;
  for (int64_t d = threadIdx.x; d < dimension; d += reduce_threads) queue[slot * dimension + d] = unit[row * dimension + d];
}

}  // namespace

void nearest_anchor_cuda(Device& device, int64_t m, int64_t n, const float* scores, int64_t stride, int32_t* nearest) {
  LGD_LAUNCH(device, nearest_kernel, unsigned(m), reduce_threads, 0, n, scores, stride, nearest);
}

void aggregate_cuda(Device& device, const AggregateShape& shape, const float* unit, const int32_t* assignment, int32_t* links, float* visual,
                    uint8_t* seen, UpdateRecord* record) {
  int32_t *is_first = links, *next = links + shape.rows;
  LGD_LAUNCH(device, link_members_kernel, blocks_for(shape.rows, reduce_threads), reduce_threads, 0, shape.rows, assignment, is_first, next);
  LGD_LAUNCH(device, move_anchors_kernel, unsigned(shape.rows), reduce_threads, 0, shape, unit, assignment, is_first, next, visual, seen, record);
  LGD_LAUNCH(device, count_kernel, 1, reduce_threads, 0, shape.rows, shape.categories, is_first, seen, record);
}

void enqueue_cuda(Device& device, int64_t rows, int64_t dimension, const float* unit, int64_t position, int64_t size, float* queue, const RowFaults* faults) {
  const int64_t first = rows > size ? rows - size : 0;
  LGD_LAUNCH(device, enqueue_kernel, unsigned(rows - first), reduce_threads, 0, first, dimension, unit, position, size, queue, faults);
}

}  // namespace lgd
