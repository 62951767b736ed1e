// A compiled graph: steps in order (one kernel each, or few), which gradients each writes, and where everything lies in
// one arena.
#pragma once
#include <algorithm>

#include "graph/shape.h"

namespace lgd {

// How a step of a training plan on CUDA goes about it (fuse_layers.cpp); `node` where the op alone says it.
enum class StepKind : uint8_t {
  node,
  conv_norm,  // a convolution that also takes the statistics of the norm behind it; its inputs may be lazy
  join,       // stores a norm's activation, with a residual or for readers that need it stored
  squeeze,    // global pool of a lazy activation
  // channel scale of a lazy activation: stored, or no work forward, and its only reader multiplies on the way
  gate,
  excitation,  // the two layers and activations between a squeeze and its gate (ops/excitation.h)
  linear,      // a layer on single positions: with the GELU before or behind it (ops/linear.h), or with a residual
  lazy_max_pool
};

// A node with what was fused into it.
//   batch_norm: act(norm(x) + residual), in training with batch statistics
//   layer_scale: residual + keep * weight * x, keep of the stochastic depth `drop`
//   conv, linear: in forward-only plans act(scale * conv(x) + shift + residual), scale and shift from `norm` or the
//     bias; with `mean` also the mean of 2x2 windows of that; with a second convolution
//     act(scale * conv(x) + shift + scale2 * conv2(x2) + shift2)
struct Step {
  StepKind kind = StepKind::node;
  OpKind op{};
  int node = -1;  // does the arithmetic; its attributes and parameters hold
  int norm = -1;  // the batchNorm node: this one, or the one folded into the convolution
  Act act = Act::none;
  std::vector<int> inputs;  // values, dropped nodes resolved
  int residual = -1;        // value, or -1
  int drop = -1;            // layer_scale: node of the stochastic depth behind it, or -1
  int output = -1;          // value
  // conv in forward-only plans on CUDA: value of an avgPool of 2x2 windows behind it; the output where that alone is
  // stored
  int mean = -1;
  int activation = -1;    // conv_norm: the value behind its norm (and gate) whose gradient it starts from
  int second = -1;        // excitation: node of its second layer; `node` is the first, act what stands behind both
                          // conv in forward-only plans on CUDA: node of a 1x1 convolution over inputs[1] whose
                          // result is added (ops/conv.h, ConvSumShape) query_attention there: node of the keys'
                          // layer where inputs are queries and tokens (ops/attention.h, AbsorbedShape)
  int second_norm = -1;   // of that convolution: the batchNorm node behind it
  int third = -1;         // query_attention: node of the values' layer
  Act inner = Act::none;  // excitation: between the layers

  bool adds_convolution() const { return kind == StepKind::node && op == OpKind::conv && second >= 0; }
};

// A value that is an activation over a norm behind a convolution: act(norm(raw)), of a join act(keep norm(raw) +
// residual) or, `inside`, keep act(norm(raw)) + residual, of a gate act(norm(raw)) * gate. Lazy unless stored: readers make it from the raw value. Or a GELU behind a
// linear layer: norm is -1, it is stored, and `raw` holds its slope.
struct Activation {
  int raw = -1;   // value of the convolution; -1: this value is nothing of the kind
  int norm = -1;  // node
  int drop = -1;  // node of the stochastic depth in a join
  int gate = -1;  // value that scales the channels of this one
  bool stored = false, joined = false, inside = false;
  bool gated = false;  // read by a gate (and its squeeze): its own gradient is never formed
  Act act = Act::none;
  bool lazy() const { return raw >= 0 && !stored; }
  // Is the gradient of the join's sum another than that of what the norm gives? Then both are stored.
  bool apart() const { return drop >= 0 || inside; }
};

// What backward does about the gradient of one value that a step reads.
enum class GradientWrite : uint8_t {
  none,        // not wanted
  write,       // first to reach this gradient
  accumulate,  // adds to it
  share        // is the step's own incoming gradient: no work, the two share memory
};

struct StepGradient {
  bool needed = false;                // does the output's gradient exist?
  std::vector<GradientWrite> inputs;  // like Step::inputs
  GradientWrite residual = GradientWrite::none;
  // conv_norm, lazy_max_pool: this write ends the gradient of the activation it reads (fused.h, GradientTarget)
  bool finish_input = false;
  bool finish_own = false;  // conv_norm, join: norm_gradient does that for its own activation first
};

struct GradientPlan {
  std::vector<StepGradient> steps;  // like the steps of the program
  std::vector<int> storage;         // value -> the value whose gradient memory it uses; -1: no gradient
};

constexpr int64_t nowhere = -1;

// From a buffer's first write to its last read. Step i of n runs forward at time i and backward at 2 n - i; at n the
// outputs are read and their gradients written.
struct Life {
  int first = -1, last = -1;
  size_t bytes = 0;
  void touch(int time) {
    if (first < 0) first = time;
    last = std::max(last, time);
  }
  bool meets(const Life& other) const { return first <= other.last && other.first <= last; }
};

struct MemoryPlan {
  std::vector<int64_t> value, gradient;  // offsets in bytes, or nowhere
  size_t bytes = 0;
  std::vector<Life> lives;  // of the values, then of the gradients
  bool clears = false;      // to test it: what is not alive is zeroed all the time
};

struct Program {
  Graph graph;
  Shapes shapes;
  std::vector<Step> steps;
  std::vector<int> outputs;             // values, dropped nodes resolved
  std::vector<Activation> activations;  // like the values
  GradientPlan gradients;               // empty in forward-only plans
  MemoryPlan memory;
  bool training = false;
};

// What is merged into one step. Each must give what the one before gives, to rounding
// (LGDISTILL_FUSION=nodes|steps|layers).
enum class Fusion : uint8_t {
  nodes,  // nothing
  steps,  // norm, residual and activation; in forward-only plans also the convolution before them
  layers  // training: also the convolutions around a norm, which then stores nothing (ops/fused.h)
};

// Throws what graph.h and shape.h say.
Program compile(Graph graph, const EncoderOptions& options, DeviceKind kind, Fusion fusion);

// fuse.cpp: fills steps and output from graph and shapes.
void fuse_steps(Program& program, Fusion fusion);
// fuse_folded.cpp: merges further what a forward-only plan on CUDA need not store.
void fuse_folded(Program& program);
// fuse_layers.cpp: turns the steps of a training plan into layers; fills activations.
void fuse_layers(Program& program);
// fuse_linear.cpp: the same where there are no batch norms; after fuse_layers.
void fuse_linear(Program& program);
// gradient.cpp: fills gradients. Walks backward: the first write of a gradient stores, later ones add.
void plan_gradients(Program& program);
// memory_plan.cpp: fills memory.
void plan_memory(Program& program);

// The value whose gradient a step's backward starts from; a conv_norm's is of what lies behind its norm.
int gradient_source(const Program& program, const Step& step);
// The value that scales the channels of a gated activation.
int gate_of(const Program& program, int gated);
// What backward reads of the forward pass.
bool backward_reads_inputs(const Step& step);
inline bool backward_reads_output(const Step& step) { return step.op == OpKind::self_attention; }
inline bool backward_reads_residual(const Step& step) { return step.act != Act::none; }

}  // namespace lgd
