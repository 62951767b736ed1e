// Operations on single elements, `count` of them, and random dropping.
#pragma once
#include "core/activation.h"
#include "core/context.h"

namespace lgd {

// y = act(x); dx (+)= dy * act'(x).
void act_forward_cpu(Context&, int64_t count, DType type, Act act, const void* x, void* y);
void act_forward_cuda(Context&, int64_t count, DType type, Act act, const void* x, void* y);
void act_backward_cpu(Context&, int64_t count, DType type, Act act, const void* x, const void* dy, void* dx,
                      bool accumulate);
void act_backward_cuda(Context&, int64_t count, DType type, Act act, const void* x, const void* dy, void* dx,
                       bool accumulate);

// y = a + b. With y == a: a running sum.
void add_forward_cpu(Context&, int64_t count, DType type, const void* a, const void* b, void* y);
void add_forward_cuda(Context&, int64_t count, DType type, const void* a, const void* b, void* y);

// Squeeze-and-excitation's product: y[n,p,c] = x[n,p,c] * s[n,c], p over `pixels` positions.
// Backward: dx (+)= dy * s;  ds[n,c] = sum_p dy * x (written).
struct ScaleShape {
  int n;
  int64_t pixels;
  int channels;
};
void channel_scale_forward_cpu(Context&, const ScaleShape&, DType type, const void* x, const void* s, void* y);
void channel_scale_forward_cuda(Context&, const ScaleShape&, DType type, const void* x, const void* s, void* y);
void channel_scale_backward_cpu(Context&, const ScaleShape&, DType type, const void* x, const void* s, const void* dy,
                                void* dx, bool accumulate_dx, void* ds);
void channel_scale_backward_cuda(Context&, const ScaleShape&, DType type, const void* x, const void* s, const void* dy,
                                 void* dx, bool accumulate_dx, void* ds);

// Dropout (per element) and stochastic depth (per image, torchvision's "row" mode): y = x * keep / (1 - p). keep of
// unit i (i the element, or the image) is unit_float(philox(seed, step * 2^20 + node, i / 4).word[i % 4]) >= p: the
// same on every backend, so backward draws it again: dx (+)= dy * keep / (1 - p). Of a dropout whose rows of `channels`
// elements are stored as `stored`, on CUDA, those that fill the rows up are no units.
struct DropShape {
  int64_t count;
  int64_t elements_per_unit;
  float p;
  uint64_t seed, step;
  int node;
  int channels = 0, stored = 0;
};
void drop_forward_cpu(Context&, const DropShape&, DType type, const void* x, void* y);
void drop_forward_cuda(Context&, const DropShape&, DType type, const void* x, void* y);
void drop_backward_cpu(Context&, const DropShape&, DType type, const void* dy, void* dx, bool accumulate);
void drop_backward_cuda(Context&, const DropShape&, DType type, const void* dy, void* dx, bool accumulate);

}  // namespace lgd
