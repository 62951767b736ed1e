// ops/excitation.h by the operations that it stands for.
#include "ops/common_cpu.h"
#include "ops/conv.h"
#include "ops/elementwise.h"
#include "ops/excitation.h"

namespace lgd {

void excitation_forward_cpu(Context& ctx, const Excitation& e, DType type, const void* x, void* hidden, void* excited,
                            void* gate) {
  const int64_t inner = int64_t(e.images) * e.squeezed;
  std::vector<float> activated(static_cast<size_t>(inner));
  conv_forward_cpu(ctx, linear_shape(e.images, e.channels, e.squeezed), type, x, e.w1, {nullptr, e.b1}, hidden);
  act_forward_cpu(ctx, inner, type, e.inner, hidden, activated.data());
  conv_forward_cpu(ctx, linear_shape(e.images, e.squeezed, e.channels), type, activated.data(), e.w2, {nullptr, e.b2},
                   excited);
  act_forward_cpu(ctx, int64_t(e.images) * e.channels, type, e.outer, excited, gate);
}

void excitation_backward_cpu(Context& ctx, const Excitation& e, DType type, const void* x, const void* hidden,
                             const void* excited, const void* d_gate, void* d_x, const ExcitationGradients& gradients) {
  const int64_t inner = int64_t(e.images) * e.squeezed, outer = int64_t(e.images) * e.channels;
  const ConvShape first = linear_shape(e.images, e.channels, e.squeezed),
                  second = linear_shape(e.images, e.squeezed, e.channels);
  std::vector<float> activated(static_cast<size_t>(inner)), d_hidden(activated), d_excited(static_cast<size_t>(outer));
  act_forward_cpu(ctx, inner, type, e.inner, hidden, activated.data());
  act_backward_cpu(ctx, outer, type, e.outer, excited, d_gate, d_excited.data(), false);
  conv_backward_weight_cpu(ctx, second, type, activated.data(), d_excited.data(), gradients.w2, gradients.b2);
  conv_backward_data_cpu(ctx, second, type, d_excited.data(), e.w2, d_hidden.data(), false);
  act_backward_cpu(ctx, inner, type, e.inner, hidden, d_hidden.data(), d_hidden.data(), false);
  conv_backward_weight_cpu(ctx, first, type, x, d_hidden.data(), gradients.w1, gradients.b1);
  conv_backward_data_cpu(ctx, first, type, d_hidden.data(), e.w1, d_x, false);
}

}  // namespace lgd
