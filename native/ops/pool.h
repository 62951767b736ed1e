// Pooling. Activations NHWC.
#pragma once
#include "core/context.h"

namespace lgd {

struct PoolShape {
  int n, h, w, c;
  int kernel, stride, pad;
  int oh, ow;
};

// Maximum over the window (padding never wins). Backward gives dy to the first maximum in row-major order of the
// window, as PyTorch does.
void max_pool_forward_cpu(Context&, const PoolShape&, DType type, const void* x, void* y);
void max_pool_forward_cuda(Context&, const PoolShape&, DType type, const void* x, void* y);
void max_pool_backward_cpu(Context&, const PoolShape&, DType type, const void* x, const void* dy, void* dx,
                           bool accumulate);
void max_pool_backward_cuda(Context&, const PoolShape&, DType type, const void* x, const void* dy, void* dx,
                            bool accumulate);

// Mean over the window, pad 0, stride == kernel (CLIP's ModifiedResNet).
void avg_pool_forward_cpu(Context&, const PoolShape&, DType type, const void* x, void* y);
void avg_pool_forward_cuda(Context&, const PoolShape&, DType type, const void* x, void* y);
void avg_pool_backward_cpu(Context&, const PoolShape&, DType type, const void* dy, void* dx, bool accumulate);
void avg_pool_backward_cuda(Context&, const PoolShape&, DType type, const void* dy, void* dx, bool accumulate);

// Mean over all `pixels` positions: y[n,c] = mean_p x[n,p,c].
void global_pool_forward_cpu(Context&, int n, int64_t pixels, int c, DType type, const void* x, void* y);
void global_pool_forward_cuda(Context&, int n, int64_t pixels, int c, DType type, const void* x, void* y);
void global_pool_backward_cpu(Context&, int n, int64_t pixels, int c, DType type, const void* dy, void* dx,
                              bool accumulate);
void global_pool_backward_cuda(Context&, int n, int64_t pixels, int c, DType type, const void* dy, void* dx,
                               bool accumulate);

}  // namespace lgd
