// Softmax regression on CUDA: one block a row and classifier for the softmax, the float32 tiles of products_f32.cu for
// the products.
#include "semantic/block_reduce.cuh"
#include "semantic/classifier.h"
#include "semantic/products_f32.cuh"

namespace lgd {

namespace {

__global__ void __launch_bounds__(reduce_threads) softmax_rows_kernel(const __grid_constant__ SoftmaxRows work) {
  wait_for_inputs();
  const int64_t row = blockIdx.x, head = blockIdx.y, classes = work.classes, first = head * classes;
  const float* logits = work.logits + row * work.stride + first;
  const auto logit = [&](int64_t k) { return work.bias ? logits[k] + work.bias[first + k] : logits[k]; };
  const int32_t label = work.labels[row];
  const float right = label >= 0 ? logit(label) : 0.f;
  Candidate best[1] = {no_candidate()};
  double counts[1] = {0};
  for (int64_t k = threadIdx.x; k < classes; k += reduce_threads) {
    const float value = logit(k);
    const Candidate one = {value, int32_t(k)};
    if (before(one, best[0])) best[0] = one;
    counts[0] += label >= 0 && comes_before(value, k, right, label);
  }
  block_first(best);
  block_sum(counts);
  const float peak = best[0].score;
  double sum[1] = {0};
  for (int64_t k = threadIdx.x; k < classes; k += reduce_threads) sum[0] += exp(double(logit(k) - peak));
  block_sum(sum);
  if (threadIdx.x == 0 && work.results) {
    float* result = work.results + (row * work.heads + head) * 3;
    result[0] = label >= 0 ? float(log(sum[0]) - double(right - peak)) : 0.f;
    result[1] = best[0].column == no_column ? 0.f : float(best[0].column);
    result[2] = float(counts[0]);
  }
  if (!work.gradient) return;
  __syncthreads();  // the gradient may lie over the logits, of which every thread has read the right one
  for (int64_t k = threadIdx.x; k < classes; k += reduce_threads)
    work.gradient[row * work.row_step + (first + k) * work.class_step] =
        label >= 0 ? work.scale * float(exp(double(logit(k) - peak)) / sum[0] - (k == label ? 1.0 : 0.0)) : 0.f;
}

__global__ void gather_rows_kernel(int64_t dimension, const float* from, const int32_t* rows, float* to) {
  wait_for_inputs();
  const float* source = from + int64_t(rows[blockIdx.x]) * dimension;
  for (int64_t d = threadIdx.x; d < dimension; d += reduce_threads) to[blockIdx.x * dimension + d] = source[d];
}

__global__ void add_kernel(int64_t count, const float* from, float* to) {
  wait_for_inputs();
  const int64_t i = int64_t(blockIdx.x) * reduce_threads + threadIdx.x;
  if (i < count) to[i] += from[i];
}

__global__ void totals_kernel(const __grid_constant__ WeightedSums work) {
  wait_for_inputs();
  double total[1] = {0};
  for (int64_t j = threadIdx.x; j < work.n; j += reduce_threads)
    total[0] += double(work.weights[blockIdx.x * work.stride + j]);
  block_sum(total);
  if (threadIdx.x == 0) work.totals[blockIdx.x] = float(total[0] + (work.add ? double(work.totals[blockIdx.x]) : 0.0));
}

}  // namespace

void softmax_rows_cuda(Context& device, const SoftmaxRows& work) {
  LGD_LAUNCH(device, softmax_rows_kernel, dim3(unsigned(work.rows), unsigned(work.heads), 1), reduce_threads, 0, work);
}

void gather_rows_cuda(Context& device, int64_t count, int64_t dimension, const float* from, const int32_t* rows,
                      float* to) {
  LGD_LAUNCH(device, gather_rows_kernel, unsigned(count), reduce_threads, 0, dimension, from, rows, to);
}

void weighted_sums_cuda(Context& device, const WeightedSums& work) {
  float* out = work.add ? work.product : work.sums;
  const int64_t values = work.m * work.dimension;
  const products::Problem problem = {products::operand(work.weights, work.stride),
                                     products::operand(work.x, work.dimension),
                                     work.m,
                                     work.dimension,
                                     work.n,
                                     out,
                                     work.dimension};
  products::multiply_f32(device, problem, 1, false);
  if (work.add)
    LGD_LAUNCH(device, add_kernel, unsigned((values + reduce_threads - 1) / reduce_threads), reduce_threads, 0, values,
               out, work.sums);
  LGD_LAUNCH(device, totals_kernel, unsigned(work.m), reduce_threads, 0, work);
}

}  // namespace lgd
