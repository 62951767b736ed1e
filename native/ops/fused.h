// Training steps in which batch norm, activation and squeeze-and-excitation are never stored: they happen inside the
// convolutions around them.
//
// A convolution stores its raw output y and leaves the norm's numbers; whoever reads the activation makes it from y on
// the way (LazyInput). Backward, the last kernel that adds to an activation's gradient multiplies it by act' and leaves
// the norm's sums (GradientTarget), and the convolution below makes the gradient of y from that on the way
// (LazyGradient). So a layer moves forward: y in, y out; backward: g, y and the input in, g out.
//
// Layouts as in conv.h; N images of P = H*W pixels, M = N P rows, C channels. Every reduction adds in a fixed order.
// Numbers per channel are float32 [C], per image and channel float32 or storage type [N,C]. Sources: Ioffe and Szegedy
// 2015 (batch norm and its gradient); Hu et al. 2018 (squeeze and excitation).
#pragma once
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/pool.h"

namespace lgd {

// An activation made from what is stored:  x[n,p,c] = act(scale[c] y[n,p,c] + shift[c]) * gate[n,c].
// Padding of a convolution is zero in x, not in y.
struct LazyInput {
  const void* y = nullptr;                         // [N,H,W,C] storage type
  const float *scale = nullptr, *shift = nullptr;  // null: x is y itself, act is none, gate is null
  Act act = Act::none;
  const void* gate = nullptr;  // [N,C] storage type; null: 1
};

// The batch norm behind a convolution: takes the statistics of the raw output as it is stored.
struct NormTarget {
  float eps = 0, momentum = 0;
  const float *gamma = nullptr, *beta = nullptr;
  float *running_mean = nullptr, *running_var = nullptr;  // moved as torch.nn.BatchNorm2d does (unbiased variance)
  float *mean = nullptr, *rstd = nullptr;                 // written: of this batch (biased variance)
  float *scale = nullptr, *shift = nullptr;               // written: scale = gamma rstd, shift = beta - mean scale
};

// The gradient of a raw output y, made from that of the activation above it:  dy = a[c] h + b[c] y + c[c]  with
//   without a gate:   h = g, which went through a GradientTarget already
//   with one:         h = (g gate[n,c] + pooled[n,c]) act'(scale y + shift), g the gradient of the gated activation
struct LazyGradient {
  const void* g = nullptr;  // like y, storage type
  const void* y = nullptr;  // null: dy is g itself, nothing else is set
  const float *a = nullptr, *b = nullptr, *c = nullptr;
  const void* gate = nullptr;                      // [N,C] storage type
  const float* pooled = nullptr;                   // [N,C]: gradient that came through the squeeze, for each pixel
  const float *scale = nullptr, *shift = nullptr;  // with a gate
  Act act = Act::none;                             // with a gate
};

// What the sums of a norm's gradient turn into. sum = sum over rows of g, product = sum over rows of g xhat, xhat = (y
// - mean) rstd:
//   d_beta += sum, d_gamma += product,
//   a = gamma rstd,  b = -gamma rstd^2 product / M,  c = -gamma rstd sum / M - b mean.
struct NormGradient {
  const float *gamma = nullptr, *mean = nullptr, *rstd = nullptr;
  float *d_gamma = nullptr, *d_beta = nullptr;
  float *a = nullptr, *b = nullptr, *c = nullptr;
};

// Where the gradient of the input of a convolution or a pool goes. Without y: g (+)= dx. With y (the input is an
// activation over a norm, and this is the last contribution to its gradient): g = (dx [+ g]) act'(u), and the norm's
// sums of the stored g are finished.
struct GradientTarget {
  void* g = nullptr;  // storage type
  bool accumulate = false;
  const void* y = nullptr;  // raw output under the norm
  // null: u = scale y + shift. Else the activation as stored; act' is taken there (none, relu, relu6)
  const void* activated = nullptr;
  const float *scale = nullptr, *shift = nullptr;
  Act act = Act::none;
  NormGradient norm;
};

// y = conv(x), and the norm's numbers. groups 1 / depthwise (shapes as in depthwise.h, stride 1 or 2, dilation 1; x has
// no gate).
void conv_norm_forward_cpu(Context&, const ConvShape&, DType type, const LazyInput& x, const void* w, const NormTarget&,
                           void* y);
void conv_norm_forward_cuda(Context&, const ConvShape&, DType type, const LazyInput& x, const void* w,
                            const NormTarget&, void* y);
void depthwise_norm_forward_cpu(Context&, const ConvShape&, DType type, const LazyInput& x, const void* w,
                                const NormTarget&, void* y);
void depthwise_norm_forward_cuda(Context&, const ConvShape&, DType type, const LazyInput& x, const void* w,
                                 const NormTarget&, void* y);

// dw += , and the gradient of x (target null: not wanted). dy never has a gate where groups are 1.
void conv_norm_backward_cpu(Context&, const ConvShape&, DType type, const LazyInput& x, const LazyGradient& dy,
                            const void* w, float* dw, const GradientTarget* target);
void conv_norm_backward_cuda(Context&, const ConvShape&, DType type, const LazyInput& x, const LazyGradient& dy,
                             const void* w, float* dw, const GradientTarget* target);
void depthwise_norm_backward_cpu(Context&, const ConvShape&, DType type, const LazyInput& x, const LazyGradient& dy,
                                 const void* w, float* dw, const GradientTarget* target);
void depthwise_norm_backward_cuda(Context&, const ConvShape&, DType type, const LazyInput& x, const LazyGradient& dy,
                                  const void* w, float* dw, const GradientTarget* target);

// Rows of a join and of the norm gradient below: `images` images of `pixels` pixels.
struct RowsShape {
  int images;
  int64_t pixels;
  int channels;
  constexpr int64_t rows() const { return images * pixels; }
};

// out = act(keep[n] x + residual); residual may be null, and has neither activation nor gate. keep: stochastic depth
// per image as drop_forward draws it (drop null: 1); drop->elements_per_unit is an image.
void join_forward_cpu(Context&, const RowsShape&, DType type, const LazyInput& x, const LazyInput* residual,
                      const DropShape* drop, Act act, void* out);
void join_forward_cuda(Context&, const RowsShape&, DType type, const LazyInput& x, const LazyInput* residual,
                       const DropShape* drop, Act act, void* out);

// What a GradientTarget does, for a gradient that no convolution finished: target.g = keep[n] dy act'(u), and the
// norm's sums. dy may be target.g, which is then not written where that is dy itself (no act, no drop);
// target.accumulate is not used.
void norm_gradient_cpu(Context&, const RowsShape&, DType type, const void* dy, const DropShape* drop,
                       const GradientTarget& target);
void norm_gradient_cuda(Context&, const RowsShape&, DType type, const void* dy, const DropShape* drop,
                        const GradientTarget& target);

// Mean over an image's pixels, y[n,c] = mean_p x[n,p,c] (storage type); x has no gate.
void squeeze_forward_cpu(Context&, const RowsShape&, DType type, const LazyInput& x, void* pooled);
void squeeze_forward_cuda(Context&, const RowsShape&, DType type, const LazyInput& x, void* pooled);

// Squeeze and excitation backward, first half. g is the gradient of x (with its gate). With A = act(u) and sums over an
// image's pixels:
//   d_gate[n,c] = sum g A (storage type);  sums[0..3][n,c] = sum g act', sum g act' xhat, sum act', sum act' xhat
//     (float32 [4][N][C]).
void gate_backward_cpu(Context&, const RowsShape&, DType type, const LazyInput& x, const float* mean, const float* rstd,
                       const void* g, void* d_gate, float* sums);
void gate_backward_cuda(Context&, const RowsShape&, DType type, const LazyInput& x, const float* mean,
                        const float* rstd, const void* g, void* d_gate, float* sums);
// Second half, once d_pooled [N,C] (storage type, the gradient of squeeze_forward's result) is known: pooled[n,c] =
// d_pooled / P, and the norm's
//   sum = sum_n gate sums[0] + pooled sums[2],  product = sum_n gate sums[1] + pooled sums[3].
void gate_finish_cpu(Context&, const RowsShape&, DType type, const void* gate, const void* d_pooled, const float* sums,
                     float* pooled, const NormGradient&);
void gate_finish_cuda(Context&, const RowsShape&, DType type, const void* gate, const void* d_pooled, const float* sums,
                      float* pooled, const NormGradient&);

// Maximum over the window of x (no gate); backward as max_pool_backward. A target that is finished is x: its y, scale,
// shift and act are.
void lazy_max_pool_forward_cpu(Context&, const PoolShape&, DType type, const LazyInput& x, void* out);
void lazy_max_pool_forward_cuda(Context&, const PoolShape&, DType type, const LazyInput& x, void* out);
void lazy_max_pool_backward_cpu(Context&, const PoolShape&, DType type, const LazyInput& x, const void* d_out,
                                const GradientTarget&);
void lazy_max_pool_backward_cuda(Context&, const PoolShape&, DType type, const LazyInput& x, const void* d_out,
                                 const GradientTarget&);

#define LGD_FUSED_OPERATIONS(X) \
  X(conv_norm_forward)          \
  X(conv_norm_backward)         \
  X(depthwise_norm_forward)     \
  X(depthwise_norm_backward)    \
  X(join_forward)               \
  X(norm_gradient)              \
  X(squeeze_forward)            \
  X(gate_backward)              \
  X(gate_finish)                \
  X(lazy_max_pool_forward)      \
  X(lazy_max_pool_backward)

}  // namespace lgd
