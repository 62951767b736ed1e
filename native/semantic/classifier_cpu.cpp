#include "semantic/classifier.h"

#include <cmath>

#include "ops/common_cpu.h"
#include "semantic/matrix_cpu.h"

namespace lgd {

namespace {

// One image under one classifier.
void softmax_row(const SoftmaxRows& work, int64_t row, int64_t head) {
  const int64_t classes = work.classes, first = head * classes;
  const float* logits = work.logits + row * work.stride + first;
  const auto logit = [&](int64_t k) { return work.bias ? logits[k] + work.bias[first + k] : logits[k]; };
  const int32_t label = work.labels[row];
  const float right = label >= 0 ? logit(label) : 0;
  int64_t best = 0, before = 0;
  float peak = logit(0);
  for (int64_t k = 0; k < classes; ++k) {
    const float value = logit(k);
    if (value > peak) best = k, peak = value;
    before += label >= 0 && comes_before(value, k, right, label);
  }
  double sum = 0;
  for (int64_t k = 0; k < classes; ++k) sum += std::exp(double(logit(k) - peak));
  if (work.results) {
    float* result = work.results + (row * work.heads + head) * 3;
    result[0] = label >= 0 ? float(std::log(sum) - double(right - peak)) : 0;
    result[1] = float(best);
    result[2] = float(before);
  }
  if (!work.gradient) return;
  for (int64_t k = 0; k < classes; ++k)
    work.gradient[row * work.row_step + (first + k) * work.class_step] =
        label >= 0 ? work.scale * float(std::exp(double(logit(k) - peak)) / sum - (k == label)) : 0;
}

}  // namespace

void softmax_rows_cpu(Context& device, const SoftmaxRows& work) {
  device.pool.for_range(work.rows, ceil_div(2048, work.classes * work.heads), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t head = 0; head < work.heads; ++head) softmax_row(work, row, head);
  });
}

void gather_rows_cpu(Context& device, int64_t count, int64_t dimension, const float* from, const int32_t* rows,
                     float* to) {
  device.pool.for_range(count, ceil_div(65536, dimension), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      std::copy_n(from + int64_t(rows[i]) * dimension, dimension, to + i * dimension);
  });
}

void weighted_sums_cpu(Context& device, const WeightedSums& work) {
  multiply_cpu(device.pool, {work.m, work.dimension, work.n}, work.weights, work.stride, work.x, work.dimension, false,
               work.sums, work.dimension, work.add);
  for (int64_t i = 0; i < work.m; ++i) {
    double total = work.add ? work.totals[i] : 0;
    for (int64_t j = 0; j < work.n; ++j) total += work.weights[i * work.stride + j];
    work.totals[i] = float(total);
  }
}

}  // namespace lgd
