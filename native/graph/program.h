// A compiled graph: steps in order (one kernel each, or few), which gradients each writes, and where everything lies in one arena.
#pragma once
#include "graph/shape.h"

namespace lgd {

// A node with what was fused into it.
//   batch_norm: act(norm(x) + residual), in training with batch statistics
//   conv, linear: in forward-only plans act(scale * conv(x) + shift + residual), scale and shift from `norm` or the bias
struct Step {
  OpKind op{};
  int node = -1;             // does the arithmetic; its attributes and parameters hold
  int norm = -1;             // the batchNorm node: this one, or the one folded into the convolution
  Act act = Act::none;
  std::vector<int> inputs;   // values, dropped nodes resolved
  int residual = -1;         // value, or -1
  int output = -1;           // value
};

// What backward does about the gradient of one value that a step reads.
enum class GradientWrite : uint8_t {
  none,         // not wanted
  write,        // first to reach this gradient
  accumulate,   // adds to it
  share         // is the step's own incoming gradient: no work, the two share memory
};

struct StepGradient {
  bool needed = false;                  // does the output's gradient exist?
  std::vector<GradientWrite> inputs;    // like Step::inputs
  GradientWrite residual = GradientWrite::none;
};

struct GradientPlan {
  std::vector<StepGradient> steps;      // like the steps
  std::vector<int> storage;             // value -> the value whose gradient memory it uses; -1: no gradient
};

constexpr int64_t nowhere = -1;

struct MemoryPlan {
  std::vector<int64_t> value, gradient; // offsets in bytes, or nowhere
  size_t bytes = 0;
};

struct Program {
  Graph graph;
  Shapes shapes;
  std::vector<Step> steps;
  int output = 0;                       // value, dropped nodes resolved
  GradientPlan gradients;               // empty in forward-only plans
  MemoryPlan memory;
  bool training = false;
};

// unfused: every node a step of its own, for comparing (LGDISTILL_UNFUSED=1). Throws what graph.h and shape.h say.
Program compile(Graph graph, const EncoderOptions& options, DeviceKind kind, bool unfused);

// fuse.cpp: fills steps and output from graph and shapes.
void fuse(Program& program, bool unfused);
// gradient.cpp: fills gradients. Walks backward: the first write of a gradient stores, later ones add.
void plan_gradients(Program& program);
// memory_plan.cpp: fills memory.
void plan_memory(Program& program);

// What backward reads of the forward pass.
bool backward_reads_inputs(const Step& step);
inline bool backward_reads_residual(const Step& step) { return step.act != Act::none; }

}  // namespace lgd
