#include "ops/fused.h"
namespace lgd {
void conv_norm_forward_cuda(Context&, const ConvShape&, DType type, const LazyInput& x, const void* w, const NormTarget&, void* y) { throw Error("NATIVE_ERROR", "pending: conv_norm_forward_cuda"); }
void depthwise_norm_forward_cuda(Context&, const ConvShape&, DType type, const LazyInput& x, const void* w, const NormTarget&, void* y) { throw Error("NATIVE_ERROR", "pending: depthwise_norm_forward_cuda"); }
void conv_norm_backward_cuda(Context&, const ConvShape&, DType type, const LazyInput& x, const LazyGradient& dy, const void* w, float* dw, const GradientTarget* target) { throw Error("NATIVE_ERROR", "pending: conv_norm_backward_cuda"); }
void depthwise_norm_backward_cuda(Context&, const ConvShape&, DType type, const LazyInput& x, const LazyGradient& dy, const void* w, float* dw, const GradientTarget* target) { throw Error("NATIVE_ERROR", "pending: depthwise_norm_backward_cuda"); }
void join_forward_cuda(Context&, const RowsShape&, DType type, const LazyInput& x, const void* residual, const DropShape* drop, Act act, void* out) { throw Error("NATIVE_ERROR", "pending: join_forward_cuda"); }
void norm_gradient_cuda(Context&, const RowsShape&, DType type, const void* dy, const DropShape* drop, const GradientTarget& target) { throw Error("NATIVE_ERROR", "pending: norm_gradient_cuda"); }
void squeeze_forward_cuda(Context&, const RowsShape&, DType type, const LazyInput& x, void* pooled) { throw Error("NATIVE_ERROR", "pending: squeeze_forward_cuda"); }
void gate_backward_cuda(Context&, const RowsShape&, DType type, const LazyInput& x, const float* mean, const float* rstd, const void* g, void* d_gate, float* sums) { throw Error("NATIVE_ERROR", "pending: gate_backward_cuda"); }
void gate_finish_cuda(Context&, const RowsShape&, DType type, const void* gate, const void* d_pooled, const float* sums, float* pooled, const NormGradient&) { throw Error("NATIVE_ERROR", "pending: gate_finish_cuda"); }
void lazy_max_pool_forward_cuda(Context&, const PoolShape&, DType type, const LazyInput& x, void* out) { throw Error("NATIVE_ERROR", "pending: lazy_max_pool_forward_cuda"); }
void lazy_max_pool_backward_cuda(Context&, const PoolShape&, DType type, const LazyInput& x, const void* d_out, void* dx, bool accumulate) { throw Error("NATIVE_ERROR", "pending: lazy_max_pool_backward_cuda"); }
}
