#include "graph/program.h"

namespace lgd {
namespace {

// Does anything with parameters stand before each value (or make it)?
std::vector<bool> wants_gradient(const Program& program) {
  std::vector<bool> wants(program.shapes.values.size());
  for (const Step& step : program.steps) {
    bool any = !program.graph.nodes[size_t(step.node)].parameters.empty();
    for (const int input : step.inputs) any = any || wants[size_t(input)];
    if (step.residual >= 0) any = any || wants[size_t(step.residual)];
    wants[size_t(step.output)] = any;
  }
  return wants;
}

// Their kernels write every input's gradient, wanted or not.
bool writes_all(const Step& step) { return step.op == OpKind::batch_norm || step.op == OpKind::channel_scale; }

}  // namespace

bool backward_reads_inputs(const Step& step) {
  switch (step.op) {
    case OpKind::conv: case OpKind::linear: case OpKind::batch_norm: case OpKind::activation: case OpKind::channel_scale:
    case OpKind::max_pool:
      return true;
    default: return false;
  }
}

void plan_gradients(Program& program) {
  const std::vector<bool> wants = wants_gradient(program);
  GradientPlan& plan = program.gradients;
  plan.steps.resize(program.steps.size());
  plan.storage.assign(program.shapes.values.size(), -1);
  LGD_CHECK(wants[size_t(program.output)], "BAD_MODEL", "graph ", program.graph.name, " has nothing to train.");
  plan.storage[size_t(program.output)] = program.output;

  for (size_t i = program.steps.size(); i-- > 0;) {
    const Step& step = program.steps[i];
    StepGradient& gradient = plan.steps[i];
    const int own = plan.storage[size_t(step.output)];
    gradient.needed = own >= 0;
    gradient.inputs.assign(step.inputs.size(), GradientWrite::none);
    if (!gradient.needed) continue;
    bool shared = false;  // one value may take over the incoming gradient's memory
    // passes_on: y = x + something, so the gradient of x is the gradient of y
    const auto reach = [&](int value, bool always, bool passes_on) {
      if (!always && !wants[size_t(value)]) return GradientWrite::none;
      int& storage = plan.storage[size_t(value)];
      if (storage >= 0) return GradientWrite::accumulate;
      const bool share = passes_on && !shared;
      shared |= share;
      storage = share ? own : value;
      return share ? GradientWrite::share : GradientWrite::write;
    };
    for (size_t j = 0; j < step.inputs.size(); ++j) gradient.inputs[j] =
          reach(step.inputs[j], writes_all(step), step.op == OpKind::add);
    if (step.residual >= 0) gradient.residual = reach(step.residual, false, step.act == Act::none);
    LGD_CHECK(step.op != OpKind::channel_scale || gradient.inputs[1] != GradientWrite::accumulate, "BAD_MODEL", "node ",
              program.graph.nodes[size_t(step.node)].name, ": the scale of a channelScale has another use.");
  }
}

}  // namespace lgd
