// Row operations of the semantic loss: L2 norms, the way back through them, and the means over the batch.
// All are bound by memory: each reads and writes its rows once (the gradient's sums once more, from cache).
#include "semantic/bank_loss.h"
#include "semantic/block_reduce.cuh"

namespace lgd {

namespace {

// One warp a row. Sums in double: |x| must be right to float32's last bit, since t_T = 0.01 multiplies its error by 100.
__global__ void normalise_kernel(int64_t rows, int64_t dimension, const float* __restrict__ x, float* __restrict__ unit, float* __restrict__ norm) {
  const int64_t row = int64_t(blockIdx.x) * reduce_warps + threadIdx.x / 32;
  if (row >= rows) return;  // whole warps leave
  const int lane = threadIdx.x % 32;
  x += row * dimension;
  unit += row * dimension;
  double squares = 0;
  for (int64_t d = lane; d < dimension; d += 32) squares += double(x[d]) * double(x[d]);
  float length = float(sqrt(warp_sum(squares)));
  if (!(length < __int_as_float(0x7f800000))) length = __int_as_float(0x7fc00000);  // infinite or NaN becomes NaN
  const bool usable = length > 0;
  const double factor = usable ? 1 / double(length) : 0;
  for (int64_t d = lane; d < dimension; d += 32) unit[d] = usable ? float(x[d] * factor) : 0.f;
  if (lane == 0) norm[row] = length;
}

// The first faulty rows, counted from 1, given to every thread of the block.
__device__ RowFaults block_faults(int64_t rows, const float* norm) {
  // block_first finds the smallest column of equal scores: here the columns are row numbers.
  Candidate zero = no_candidate(), broken = no_candidate();
  for (int64_t row = threadIdx.x; row < rows; row += reduce_threads) {
    const float length = norm[row];
    if (length == 0 && zero.column == no_column) zero = {0, int32_t(row)};
    if (length != length && broken.column == no_column) broken = {0, int32_t(row)};
  }
  zero = block_first(zero);
  broken = block_first(broken);
  return {zero.column == no_column ? 0 : zero.column + 1, broken.column == no_column ? 0 : broken.column + 1};
}

__global__ void find_faults_kernel(int64_t rows, const float* norm, RowFaults* faults) {
  const RowFaults found = block_faults(rows, norm);
  if (threadIdx.x == 0) *faults = found;
}

// One block a row.
__global__ void finish_gradient_kernel(int64_t dimension, int64_t parts, int64_t part_size, const float* __restrict__ sums, const float* __restrict__ own_weight,
                                       const float* __restrict__ student_unit, const float* __restrict__ teacher_unit, const float* __restrict__ norm,
                                       float* __restrict__ d_student) {
  const int64_t row = blockIdx.x, at = row * dimension;
  const float length = norm[row], own = own_weight[row];
  if (!(length > 0)) {
    for (int64_t d = threadIdx.x; d < dimension; d += reduce_threads) d_student[at + d] = 0;
    return;
  }
  double along[1] = {0};
  for (int64_t d = threadIdx.x; d < dimension; d += reduce_threads) {
    float g = own * teacher_unit[at + d];
    for (int64_t part = 0; part < parts; ++part) g += sums[part * part_size + at + d];
    d_student[at + d] = g;
    along[0] += double(g) * double(student_unit[at + d]);
  }
  block_sum(along);
  const double factor = 1 / double(length);
  for (int64_t d = threadIdx.x; d < dimension; d += reduce_threads)  // each thread reads what it wrote
    d_student[at + d] = float((double(d_student[at + d]) - along[0] * double(student_unit[at + d])) * factor);
}

__global__ void reduce_loss_kernel(int64_t batch, const RowStats* __restrict__ stats, const float* __restrict__ norms, LossRecord* record) {
  double sums[6] = {};
  for (int64_t row = threadIdx.x; row < batch; row += reduce_threads) {
    const RowStats& one = stats[row];
    sums[0] += one.loss_visual;
    sums[1] += one.loss_textual;
    sums[2] += one.entropy_visual;
    sums[3] += one.entropy_textual;
    sums[4] += one.own_mass;
    sums[5] += one.agreement;
  }
  block_sum(sums);
  const RowFaults student = block_faults(batch, norms), teacher = block_faults(batch, norms + batch);
  if (threadIdx.x != 0) return;
  const double share = 1 / double(batch);
  *record = {sums[0] * share, sums[1] * share, sums[2] * share, sums[3] * share, sums[4] * share, sums[5] * share, student, teacher};
}

}  // namespace

void normalise_rows_cuda(Device& device, int64_t rows, int64_t dimension, const float* x, float* unit, float* norm) {
  LGD_LAUNCH(device, normalise_kernel, blocks_for(rows, reduce_warps), reduce_threads, 0, rows, dimension, x, unit, norm);
}

void find_faults_cuda(Device& device, int64_t rows, const float* norm, RowFaults* faults) {
  LGD_LAUNCH(device, find_faults_kernel, 1, reduce_threads, 0, rows, norm, faults);
}

void finish_gradient_cuda(Device& device, int64_t m, int64_t dimension, int64_t parts, const float* sums, const float* own_weight,
                          const float* student_unit, const float* teacher_unit, const float* norm, float* d_student) {
  LGD_LAUNCH(device, finish_gradient_kernel, unsigned(m), reduce_threads, 0, dimension, parts, m * dimension, sums, own_weight, student_unit, teacher_unit,
             norm, d_student);
}

void reduce_loss_cuda(Device& device, int64_t batch, const RowStats* stats, const float* norms, LossRecord* record) {
  LGD_LAUNCH(device, reduce_loss_kernel, 1, reduce_threads, 0, batch, stats, norms, record);
}

}  // namespace lgd
