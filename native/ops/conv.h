// Dense convolution and linear layers (a linear layer is a 1x1 convolution on 1x1 images).
//
//   y[n,oy,ox,k] = sum_{r,s,c} x[n, oy*stride - pad + r*dilation, ox*stride - pad + s*dilation, c] * w[k,r,s,c]
//
// with zeros outside of x.
// Activations NHWC, weights [K][R][S][C] ("KRSC"). On CUDA, C and K are multiples of 8 (channels are padded with
// zeros).
#pragma once
#include "core/activation.h"
#include "core/context.h"

namespace lgd {

struct ConvShape {
  int n, h, w, c;  // input
  int k, r, s;     // output channels, kernel height and width
  int stride, pad, dilation;
  int oh, ow;  // output
  // Above 0: the input is images of four channels (ops/layout.h) seen as pairs of neighbouring pixels: c is 8, w counts
  // pairs, and s the pairs that hold the kernel's pair_taps taps along x. The stride is even, so every window begins
  // with a pair: where pad is odd, with a pixel before its first tap. Weights of pixels that no tap reads are zero.
  int pair_taps = 0;

  constexpr int64_t rows() const { return int64_t(n) * oh * ow; }
  constexpr int taps() const { return r * s; }
  constexpr int stride_x() const { return pair_taps ? stride / 2 : stride; }
  constexpr int pad_x() const { return pair_taps ? (pad + 1) / 2 : pad; }
};
// A linear layer over `rows` vectors.
constexpr ConvShape linear_shape(int rows, int inputs, int outputs) {
  return {rows, 1, 1, inputs, outputs, 1, 1, 1, 0, 1, 1, 1};
}
// Does each output pixel read the input pixel in its own place alone?
constexpr bool is_pointwise(const ConvShape& s) { return s.taps() == 1 && s.stride == 1 && s.pad == 0; }
// A convolution of images by pixels as one by pairs of them: of even width and stride, without dilation
// (graph/shape.cpp asks for it).
constexpr ConvShape by_pairs(ConvShape s) {
  s.pair_taps = s.s;
  s.s = (s.s + s.pad % 2 + 1) / 2;
  s.w /= 2;
  s.c = 8;
  return s;
}

// What happens to an output element before it is stored: act(scale[k] * y + shift[k] + residual). Null pointers are
// left out. Forward-only plans fold batch norm here; a bias is a shift without a scale.
struct Epilogue {
  const float* scale = nullptr;    // [K]
  const float* shift = nullptr;    // [K]
  const void* residual = nullptr;  // like y
  Act act = Act::none;
  // Of dense convolutions through none, relu or relu6: gets the mean of each 2x2 window of output pixels,
  // [N,OH/2,OW/2,K]; null: nobody wants it. y may then be null, which is not stored (and has no residual); else OH and
  // OW are even.
  void* mean = nullptr;
};

// x, y: `type`; w: `type`.
void conv_forward_cpu(Context&, const ConvShape&, DType type, const void* x, const void* w, const Epilogue&, void* y);
void conv_forward_cuda(Context&, const ConvShape&, DType type, const void* x, const void* w, const Epilogue&, void* y);
// Two 1x1 convolutions whose results are added, as one product over the channels of both inputs; for forward-only
// plans, with the norms folded:
//   y[m,k] = act(sum_i w[k,i] x[m,i] + sum_i w[k,c+i] x2[m,i] + shift[k])
struct ConvSumShape {
  int64_t rows;  // m, pixels
  int c, c2, k;  // channels of x and x2, output channels; on CUDA c is a multiple of 32
  constexpr int64_t weights() const { return int64_t(k) * (c + c2); }
};
struct FoldedConv {
  const float *w, *scale, *shift;  // [K][C] float32, [K], [K]
};
// w [K][C+C2] storage type = (scale1 w1, scale2 w2), shift [K] = shift1 + shift2.
void conv_sum_fold_cpu(Context&, const ConvSumShape&, DType type, const FoldedConv& first, const FoldedConv& second,
                       void* w, float* shift);
void conv_sum_fold_cuda(Context&, const ConvSumShape&, DType type, const FoldedConv& first, const FoldedConv& second,
                        void* w, float* shift);
void conv_sum_forward_cpu(Context&, const ConvSumShape&, DType type, const void* x, const void* x2, const void* w,
                          const float* shift, Act act, void* y);
void conv_sum_forward_cuda(Context&, const ConvSumShape&, DType type, const void* x, const void* x2, const void* w,
                           const float* shift, Act act, void* y);
// dx = dy * w^T (transposed convolution); accumulate: dx += .
void conv_backward_data_cpu(Context&, const ConvShape&, DType type, const void* dy, const void* w, void* dx,
                            bool accumulate);
void conv_backward_data_cuda(Context&, const ConvShape&, DType type, const void* dy, const void* w, void* dx,
                             bool accumulate);
// dw [K][R][S][C] float32 +=; d_bias [K] float32 += sum of dy, or null.
void conv_backward_weight_cpu(Context&, const ConvShape&, DType type, const void* x, const void* dy, float* dw,
                              float* d_bias);
void conv_backward_weight_cuda(Context&, const ConvShape&, DType type, const void* x, const void* dy, float* dw,
                               float* d_bias);

}  // namespace lgd
