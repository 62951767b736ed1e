// What a model file may be made of. A GraphSpec (engine.h) lists nodes in execution order; each names one of these
// operations.
//
// Values are images [B,h,w,c], outputs among them, except that `tokens` makes [B,T,1,c]: a sequence is an image one
// position wide. "parameters" gives the order expected in GraphNode::parameters, with torchvision's shapes; [..] may be
// left out.
//
//   op               inputs  parameters                       attributes (default)
//   conv             x       weight [K,C/groups,R,S] [bias K] stride (1) padding (0) dilation (1) groups (1): 1 or C,
//                            then of 3x3, 5x5 or 7x7 and stride 1 or 2. same (0): TensorFlow's padding `same` of this
//                            stride in the place of padding (shape.cpp, padding_of)
//   linear           x       weight [O,I] [bias O]            -: over the channels of each position
//   batchNorm        x       weight bias running_mean running_var
//                                                             eps (1e-5) momentum (0.1), as torch.nn.BatchNorm2d
//   activation       x       -                                -; label kind: relu relu6 silu hardswish sigmoid
//                            hardsigmoid gelu geluTanh quickGelu
//   layerNorm        x       weight bias                      eps (1e-5): over the channels of each position
//   layerScale       x       weight [C]                       -: each channel of x times its weight
//   add              a b     -                                -
//   channelScale     x s     -                                -: x times s [B,1,1,c]; in training s has no other use
//   maxPool          x       -                                kernel, stride (kernel), padding (0)
//   avgPool          x       -                                kernel, stride == kernel
//   globalPool       x       -                                -: mean over all positions, [B,1,1,c]
//   resize           x       -                                factor: bilinear, [B,factor h,factor w,c]
//   dropout          x       -                                p: each element; nothing outside training
//   stochasticDepth  x       -                                p: each image ("row" mode); nothing outside training
//   positions        x       position [T,c] [constant [first,c]]
//                                                             first (0): [B,T,1,c], T = first + h*w; the first rows,
//                            plus the constants, then x + the others. Either shape may have a 1 in front
//   selfAttention    qkv     -                                heads, causal (0): [B,T,1,c] from queries, keys and
//                            values side by side, [B,T,1,3c]
//   firstToken       x       -                                -: token 0 of a sequence, [B,1,1,c]
//
// In forward-only plans alone:
//   tokens           x       position [h*w+1,c]               -: [mean; positions] + position
//   queryAttention   q k v   -                                heads: one query an image, [B,1,1,c]
//   repeat           x       value [c]                        -: value for every image, [B,1,1,c]; of x only B counts
//
// Of these transformers (ops/sequence.h, rotary.h, swiglu.h):
//   words            ids     word [V,c] position [>= T,c]     -: [B,T,1,c]; ids [B,T,1,3] are digits in base 256
//   rotary           qkv     angles [T-first,c/heads]         heads, first (0): [B,T,1,3c] with the queries and keys of
//                                                             the tokens behind the first ones turned
//   swiglu           x       -                                -: silu of the first half of the channels times the other
//   endToken         x ids   -                                id: the token where it stands first in ids, or the last;
//                            [B,1,1,c]
//
// From a spec to a running encoder, one file each:
//   graph.cpp           this list, checked
//   shape.cpp           sizes
//   fuse.cpp            steps; on CUDA then fuse_folded.cpp (forward-only), or fuse_layers.cpp and fuse_linear.cpp
//                       (training)
//   gradient.cpp        who writes which gradient
//   memory_plan.cpp     one arena
//   executor_*.cpp      kernels; parameters.cpp holds the tables
#pragma once
#include <string>
#include <vector>

#include "engine.h"
#include "core/activation.h"
#include "core/context.h"

namespace lgd {

enum class OpKind : uint8_t {
  conv,
  linear,
  batch_norm,
  activation,
  add,
  channel_scale,
  max_pool,
  avg_pool,
  global_pool,
  resize,
  dropout,
  stochastic_depth,
  layer_norm,
  layer_scale,
  positions,
  self_attention,
  first_token,
  tokens,
  query_attention,
  repeat,
  words,
  rotary,
  swiglu,
  end_token
};
// Has no backward: works in forward-only plans.
constexpr bool is_forward_only(OpKind op) { return op >= OpKind::tokens; }

// Which parameter of a node stands where; a batchNorm's four, then a conv's or linear layer's two.
enum NormParameter { norm_weight = 0, norm_bias = 1, norm_mean = 2, norm_var = 3 };
enum ConvParameter { conv_weight = 0, conv_bias = 1 };

struct Node {
  OpKind op{};
  std::string name;
  std::vector<int> inputs;      // value numbers
  std::vector<int> parameters;  // indices into Graph::parameters
  int stride = 0, padding = 0, same = 0, dilation = 1, groups = 1, kernel = 1, heads = 1, causal = 0, id = 0,
      factor = 1, first = 0;
  float eps = 0, momentum = 0, p = 0;
  Act act = Act::none;

  bool is_conv() const { return op == OpKind::conv || op == OpKind::linear; }
  bool has_bias() const { return parameters.size() > conv_bias; }
};

struct Graph {
  std::string name;
  std::vector<Node> nodes;  // node i writes value i + 1
  std::vector<GraphParameter> parameters;
  std::vector<int> outputs;  // values

  const Node& node_of(int value) const { return nodes[size_t(value - 1)]; }
};

// Checks everything that does not depend on sizes. Throws BAD_MODEL naming the node and what it may have.
Graph parse_graph(const GraphSpec& spec);

}  // namespace lgd
