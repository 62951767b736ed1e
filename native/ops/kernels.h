// The table of operations of a backend: what the graph executor calls. One row an operation; its contract stands in the
// op's header.
#pragma once
#include "ops/conv.h"
#include "ops/depthwise.h"
#include "ops/norm_act.h"
#include "ops/elementwise.h"
#include "ops/excitation.h"
#include "ops/pool.h"
#include "ops/resize.h"
#include "ops/attention.h"
#include "ops/layer_norm.h"
#include "ops/layer_scale.h"
#include "ops/linear.h"
#include "ops/rotary.h"
#include "ops/self_attention.h"
#include "ops/sequence.h"
#include "ops/swiglu.h"
#include "ops/layout.h"
#include "ops/partial_sums.h"
#include "ops/fused.h"
#include "optimizer/adamw.h"
#include "optimizer/clip_norm.h"
#include "optimizer/sgd.h"

// X(name): every operation, with functions name_cpu and name_cuda of one signature.
#define LGD_OPERATIONS(X)       \
  X(conv_forward)               \
  X(conv_sum_fold)              \
  X(conv_sum_forward)           \
  X(conv_backward_data)         \
  X(conv_backward_weight)       \
  X(depthwise_forward)          \
  X(depthwise_backward_data)    \
  X(depthwise_backward_weight)  \
  X(norm_act_forward)           \
  X(norm_act_backward)          \
  X(norm_fold)                  \
  X(affine_act_forward)         \
  X(act_forward)                \
  X(act_backward)               \
  X(add_forward)                \
  X(channel_scale_forward)      \
  X(channel_scale_backward)     \
  X(excitation_forward)         \
  X(excitation_backward)        \
  X(drop_forward)               \
  X(drop_backward)              \
  X(max_pool_forward)           \
  X(max_pool_backward)          \
  X(avg_pool_forward)           \
  X(avg_pool_backward)          \
  X(global_pool_forward)        \
  X(global_pool_backward)       \
  X(resize_forward)             \
  X(resize_backward)            \
  X(tokens_forward)             \
  X(first_token_forward)        \
  X(first_token_backward)       \
  X(query_attention_forward)    \
  X(absorbed_attention_forward) \
  X(layer_norm_forward)         \
  X(layer_norm_backward)        \
  X(layer_scale_forward)        \
  X(layer_scale_backward)       \
  X(linear_act_forward)         \
  X(linear_act_backward)        \
  X(self_attention_forward)     \
  X(self_attention_backward)    \
  X(rotary_forward)             \
  X(swiglu_forward)             \
  X(positions_forward)          \
  X(positions_backward)         \
  X(words_forward)              \
  X(end_token_forward)          \
  X(repeat_forward)             \
  X(widen_images)               \
  X(unpack_output)              \
  X(pack_gradient)              \
  X(defer_sums)                 \
  X(finish_sums)                \
  X(cast)                       \
  X(clip_norm)                  \
  X(sgd)                        \
  X(adamw)

namespace lgd {

struct Kernels {
#define LGD_FIELD(name) decltype(&name##_cpu) name;
  LGD_OPERATIONS(LGD_FIELD)
  LGD_FUSED_OPERATIONS(LGD_FIELD)
#undef LGD_FIELD
};

const Kernels* cpu_kernels();

}  // namespace lgd
