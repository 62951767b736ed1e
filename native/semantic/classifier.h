// Softmax regression on frozen features, the arithmetic of linear probes: H classifiers of K classes side by side on
// the same rows, so that a sweep over learning rates costs one product.
//   logits[i,h,k] = x_i . W[h K + k] + b[h K + k];   p = softmax over k;   loss_ih = -log p[y_i]
//   d[i,h,k] = scale (p_k - [k = y_i]);   dW = d^T x,  db = sum_i d_i
// Shapes: x [N,D], W [H K, D], b [H K]. Least work: 2 N D H K multiply-adds; logits are formed for as many rows at a
// time as fit a fixed budget. Sums run over the rows in a fixed order, so the same rows give the same bits.
#pragma once
#include "core/philox.h"  // LGD_HOST_DEVICE
#include "semantic/bank_loss.h"

namespace lgd {

// Rows of logits become results and gradients.
struct SoftmaxRows {
  int64_t rows = 0, classes = 0, heads = 1;
  const float* logits = nullptr;  // [rows, stride], column h K + k
  int64_t stride = 0;
  const float* bias = nullptr;      // [H K], or null
  const int32_t* labels = nullptr;  // [rows], 0 to K - 1; negative: a row without a class, of no loss and no gradient
  float scale = 1;
  // value (i, h K + k) goes to i * row_step + (h K + k) * class_step; null: not wanted. May be the logits themselves
  float* gradient = nullptr;
  int64_t row_step = 0, class_step = 0;
  // [rows, H, 3]: loss; the class with the largest logit; how many classes come before the right one. May be null
  float* results = nullptr;
};
// Whether class k comes before the right one: lower classes among equals, and where either logit is no number, so that
// no such row counts as right.
LGD_HOST_DEVICE bool comes_before(float value, int64_t k, float right, int64_t label) {
  return k != label && !(value < right || (value == right && k > label));
}
void softmax_rows_cpu(Context&, const SoftmaxRows&);
void softmax_rows_cuda(Context&, const SoftmaxRows&);

// to[i] = from[rows[i]], rows of D values.
void gather_rows_cpu(Context&, int64_t count, int64_t dimension, const float* from, const int32_t* rows, float* to);
void gather_rows_cuda(Context&, int64_t count, int64_t dimension, const float* from, const int32_t* rows, float* to);

// sums[m,D] (add: +)= sum over n of weights[m,n] x[n,D], and totals[m] (add: +)= sum over n of weights[m,n]; weights
// [m, stride].
struct WeightedSums {
  int64_t m = 0, n = 0, dimension = 0;
  const float* weights = nullptr;
  int64_t stride = 0;
  const float* x = nullptr;
  bool add = false;
  float *sums = nullptr, *totals = nullptr;
  float* product = nullptr;  // [m,D] working memory
};
void weighted_sums_cpu(Context&, const WeightedSums&);
void weighted_sums_cuda(Context&, const WeightedSums&);

}  // namespace lgd
