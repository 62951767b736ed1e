// Products with float32 operands: which shares of the reduction, and the kernel of products_f32.cu.
#include "semantic/loss_kernels.cuh"
#include "semantic/products.cuh"

namespace lgd {

namespace {

void multiply(Context& device, products::Problem& problem, int64_t parts, bool b_transposed) {
  if (problem.m == 0 || problem.n == 0) return;
  constexpr int64_t step = 16;  // shares of k are whole steps, so that only the last is ragged
  problem.k_per_part = (problem.k + parts * step - 1) / (parts * step) * step;
  products::multiply_f32(device, problem, parts, b_transposed);
}

}  // namespace

void similarities_cuda(Context& device, int64_t m, int64_t n, int64_t dimension, const float* rows, const float* anchors, float* scores, int64_t stride) {
  products::Problem problem = {products::operand(rows, dimension), products::operand(anchors, dimension), m, n, dimension, 0, scores, stride, 0};
  multiply(device, problem, 1, true);
}

namespace loss_cuda {

// The results are few (B D) and the sums long: shares of the anchors fill the chip.
int64_t sum_parts_f32(int64_t batch, int64_t dimension, int64_t anchor_count) {
  constexpr int64_t blocks_wanted = 264, least_share = 128;
  const int64_t tiles = ((batch + products::tile - 1) / products::tile) * ((dimension + products::tile - 1) / products::tile);
  const int64_t fill = blocks_wanted / tiles, most = anchor_count / least_share;
  const int64_t parts = fill < most ? fill : most;
  return parts < 1 ? 1 : parts;
}

void form_sums_f32(Context& device, int64_t batch, int64_t dimension, int64_t anchor_count, const float* weights, int64_t stride, const float* anchors,
                   int64_t parts, float* sums) {
  products::Problem problem = {products::operand(weights, stride), products::operand(anchors, dimension), batch, dimension, anchor_count, 0, sums, dimension, batch * dimension};
  multiply(device, problem, parts, false);
}

}  // namespace loss_cuda

}  // namespace lgd
