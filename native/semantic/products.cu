// The products of semantic/bank_loss.h on CUDA: which kernel, and how the reduction is split.
#include "semantic/products.cuh"

#include "semantic/bank_loss.h"

namespace lgd {

namespace {

products::Operand operand(const float* data, int64_t stride) {
  return {data, stride, reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 4 == 0};
}

void multiply(Device& device, products::Problem& problem, int64_t parts, bool b_transposed, Products products) {
  if (problem.m == 0 || problem.n == 0) return;
  constexpr int64_t step = 32;  // shares of k are whole steps, so that only the last is ragged
  problem.k_per_part = (problem.k + parts * step - 1) / (parts * step) * step;
  if (products == Products::bf16_split) products::multiply_bf16(device, problem, parts, b_transposed);
  else products::multiply_f32(device, problem, parts, b_transposed);
}

}  // namespace

void similarities_cuda(Device& device, int64_t m, int64_t n, int64_t dimension, const float* rows, const float* anchors, float* scores, int64_t stride,
                       Products products) {
  products::Problem problem = {operand(rows, dimension), operand(anchors, dimension), m, n, dimension, 0, scores, stride, 0};
  multiply(device, problem, 1, true, products);
}

// The results are few (B x D) and the sums long (N): shares of N fill the chip.
int64_t anchor_sum_parts_cuda(int64_t m, int64_t n, int64_t dimension) {
  constexpr int64_t blocks_wanted = 264, least_share = 128;
  const int64_t tiles = ((m + products::tile - 1) / products::tile) * ((dimension + products::tile - 1) / products::tile);
  const int64_t fill = blocks_wanted / tiles, most = n / least_share;
  const int64_t parts = fill < most ? fill : most;
  return parts < 1 ? 1 : parts;
}

void anchor_sums_cuda(Device& device, int64_t m, int64_t n, int64_t dimension, const float* weights, int64_t stride, const float* anchors, int64_t parts,
                      float* sums, Products products) {
  products::Problem problem = {operand(weights, stride), operand(anchors, dimension), m, dimension, n, 0, sums, dimension, m * dimension};
  multiply(device, problem, parts, false, products);
}

}  // namespace lgd
