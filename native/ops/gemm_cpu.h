// Matrix products of the CPU's convolutions. One operand of each product is a matrix that is never stored: its rows are
// pixels of a grid, its columns the taps of a kernel times the channels ("patches"). The kernels read it through one
// pointer for each row and tap, so that a 1x1 convolution, a 3x3 one, and the data gradient of either are the same code
// without a copy.
#pragma once
#include "ops/conv.h"

namespace lgd {

// The register tile of an instruction set: rows of patches and columns of the product.
struct TileShape {
  int rows, columns;
};

// Row (n, gy, gx) and tap t meet pixel (gy * step + tap_y[t], gx * step + tap_x[t]) of image n; zeros outside of the
// image.
struct Patches {
  const float* image;  // [n, height, width, depth]
  int n, height, width, depth;
  int grid_h, grid_w, step;
  int taps;
  const int *tap_y, *tap_x;

  int64_t rows() const { return int64_t(n) * grid_h * grid_w; }
  // One tap that reads the grid itself: a plain matrix [rows, depth].
  bool plain() const {
    return taps == 1 && step == 1 && tap_y[0] == 0 && tap_x[0] == 0 && grid_h == height && grid_w == width;
  }
  // So few channels that whole patches are copied side by side first.
  bool copied() const { return taps > 1 && depth < 16; }
};

// out[row, column] (+)= sum over taps t and channels d of patch[row, t, d] * w[tap_weight[t] + d * w_depth + column *
// w_column], then the epilogue. The row of grid pixel (gy, gx) is pixel (out_y + gy * out_step, out_x + gx * out_step)
// of an image of `out`. One of w_depth, w_column is 1.
struct PatchGemm {
  Patches patches;
  const float* w;
  const int64_t* tap_weight;
  int64_t w_depth, w_column;
  float* out;  // [n, out_h, out_w, columns]
  int columns, out_h, out_w, out_step, out_y, out_x;
  bool accumulate;
  Epilogue epilogue;
};
void patch_gemm(Context&, const PatchGemm&);

// dw[k, t, d] += sum over rows of dy[row, k] * patch[row, t, d].   dy [rows, k], dw [k, taps, depth].
struct PatchOuter {
  Patches patches;
  const float* dy;
  int k;
  float* dw;
};
void patch_outer(Context&, const PatchOuter&);

// d_bias[k] += sum over rows of dy[row, k].
void column_sums(Context&, int64_t rows, int k, const float* dy, float* d_bias);

}  // namespace lgd
