// The products of the semantic operations with float32 operands:
//   out[part][m,n] = sum over the part's k of a[m,k] b(k,n)
//   b(k,n) = b[n,k] (anchors as rows: scores) or b[k,n] (sums of anchors)
// Rows may have any length and alignment.
#pragma once
#include "core/cuda_device.cuh"

namespace lgd::products {

struct Operand {
  const float* data;
  int64_t stride;  // floats from row to row
  bool vectors;    // rows start on 16 bytes
};
inline Operand operand(const float* data, int64_t stride) {
  return {data, stride, reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 4 == 0};
}

struct Problem {
  Operand a, b;
  int64_t m, n, k;
  float* out;
  int64_t out_stride, part_size = 0;  // floats
};

// With the sums over k in `parts` shares.
void multiply_f32(Context& device, const Problem& problem, int64_t parts, bool b_transposed);

}  // namespace lgd::products
