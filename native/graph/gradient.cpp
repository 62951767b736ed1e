// Which kernel writes each gradient. The steps are walked from their end: the first that reaches the gradient of a
// value writes it and later ones add to it; a sum hands its own gradient on as it is, so both share memory. The
// gradient of an activation over a norm is finished, too: times act', with the norm's sums (ops/fused.h). The last
// kernel that adds to it does that on the way, where it can, else norm_gradient.
#include <algorithm>

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
    if (step.kind == StepKind::conv_norm)
      for (size_t v = 0; v < wants.size(); ++v)
        if (program.activations[v].raw == step.output) wants[v] = true;
  }
  return wants;
}

// Their kernels write every input's gradient, wanted or not.
bool writes_all(const Step& step) {
  return step.op == OpKind::batch_norm || step.op == OpKind::layer_norm || step.op == OpKind::layer_scale ||
         step.op == OpKind::channel_scale;
}

class GradientPlanner {
 public:
  explicit GradientPlanner(Program& program)
      : program_(program),
        plan_(program.gradients),
        wants_(wants_gradient(program)),
        ends_(program.shapes.values.size(), -1) {}

  void run() {
    plan_.steps.resize(program_.steps.size());
    plan_.storage.assign(program_.shapes.values.size(), -1);
    for (const int output : program_.outputs) {
      LGD_CHECK(wants_[size_t(output)], "BAD_MODEL", "graph ", program_.graph.name, " has nothing to train.");
      plan_.storage[size_t(output)] = output;
    }
    for (size_t i = program_.steps.size(); i-- > 0;) plan_step(int(i));
    finish_activations();
  }

 private:
  void plan_step(int i) {
    const Step& step = program_.steps[size_t(i)];
    StepGradient& gradient = plan_.steps[size_t(i)];
    const int own = plan_.storage[size_t(gradient_source(program_, step))];
    gradient.needed = own >= 0;
    gradient.inputs.assign(step.inputs.size(), GradientWrite::none);
    if (!gradient.needed) return;
    if (step.kind == StepKind::join) return plan_join(i, own);
    bool shared = false;  // one value may take over the incoming gradient's memory
    for (size_t j = 0; j < step.inputs.size(); ++j) {
      const int input = step.inputs[j];
      if (program_.activations[size_t(input)].gated) continue;  // the gate and the squeeze leave sums instead
      gradient.inputs[j] =
          reach(i, input, writes_all(step) && step.kind == StepKind::node, step.op == OpKind::add, own, shared);
    }
    if (step.residual >= 0) gradient.residual = reach(i, step.residual, false, step.act == Act::none, own, shared);
    LGD_CHECK(step.op != OpKind::channel_scale || gradient.inputs[1] != GradientWrite::accumulate, "BAD_MODEL", "node ",
              program_.graph.nodes[size_t(step.node)].name, ": the scale of a channelScale has another use.");
  }

  // The convolution below reads the join's gradient later, as its own step, so the residual may share the memory only
  // when nothing else happens to the residual's gradient before that, and when that step adds nothing to it: in y = x +
  // norm(conv(x)) its kernel still reads dL/dy of other tiles when it adds to dL/dx. With stochastic depth or an
  // activation before the sum the convolution has a gradient of its own.
  void plan_join(int i, int own) {
    const Step& step = program_.steps[size_t(i)];
    const Activation& activation = program_.activations[size_t(step.output)];
    if (activation.apart()) plan_.storage[size_t(activation.raw)] = activation.raw;
    if (step.residual < 0) return;
    bool shared = !activation.apart() && touched_from(step.residual, convolution_of(step), i);
    plan_.steps[size_t(i)].residual = reach(i, step.residual, false, true, own, shared);
  }

  // Is the gradient of `value` written by `first` or a step after it and before `last`, or finished there? -1: by any
  // step before `last`.
  bool touched_from(int value, int first, int last) const {
    for (int i = std::max(first, 0); i < last; ++i) {
      const Step& step = program_.steps[size_t(i)];
      if (step.residual == value || step.output == value) return true;
      for (const int input : step.inputs)
        if (input == value) return true;
    }
    return false;
  }

  int convolution_of(const Step& join) const {
    for (size_t i = 0; i < program_.steps.size(); ++i)
      if (program_.steps[i].kind == StepKind::conv_norm && program_.steps[i].output == join.inputs[0]) return int(i);
    return -1;
  }

  // passes_on: y = x + something, so the gradient of x is the gradient of y.
  GradientWrite reach(int i, int value, bool always, bool passes_on, int own, bool& shared) {
    if (!always && !wants_[size_t(value)]) return GradientWrite::none;
    ends_[size_t(value)] = i;
    int& storage = plan_.storage[size_t(value)];
    if (storage >= 0) return GradientWrite::accumulate;
    const bool share = passes_on && !shared;
    shared |= share;
    storage = share ? own : value;
    return share ? GradientWrite::share : GradientWrite::write;
  }

  // The gradient of an activation over a norm is finished (times act', with the norm's sums) by the last kernel that
  // adds to it if that is a convolution, or a pool that makes the activation itself; else where the activation's own
  // gradient is taken up.
  void finish_activations() {
    for (size_t v = 0; v < program_.activations.size(); ++v) {
      const Activation& activation = program_.activations[v];
      if (activation.raw < 0 || activation.gated || activation.gate >= 0 || plan_.storage[v] < 0) continue;
      if (activation.norm < 0) {  // behind a linear layer: another one alone reads it
        plan_.steps[size_t(ends_[v])].finish_input = true;
        continue;
      }
      const StepKind last = ends_[v] >= 0 ? program_.steps[size_t(ends_[v])].kind : StepKind::node;
      if ((last == StepKind::conv_norm || (last == StepKind::lazy_max_pool && activation.lazy())) &&
          !activation.apart()) {
        plan_.steps[size_t(ends_[v])].finish_input = true;
        continue;
      }
      for (size_t i = 0; i < program_.steps.size(); ++i) {
        const Step& step = program_.steps[i];
        const bool owner =
            activation.stored ? step.kind == StepKind::join && step.output == int(v) : step.activation == int(v);
        if (owner) plan_.steps[i].finish_own = true;
      }
    }
  }

  Program& program_;
  GradientPlan& plan_;
  const std::vector<bool> wants_;
  // value -> the last step, backward, that adds to its gradient; -1: an output that nothing else reads
  std::vector<int> ends_;
};

}  // namespace

int gradient_source(const Program& program, const Step& step) {
  if (step.kind != StepKind::conv_norm) return step.output;
  return program.activations[size_t(step.activation)].apart() ? step.output : step.activation;
}

int gate_of(const Program& program, int gated) {
  for (const Activation& scaled : program.activations)
    if (scaled.gate >= 0 && scaled.raw == program.activations[size_t(gated)].raw) return scaled.gate;
  throw Error("NATIVE_ERROR", "a gated activation without a gate");
}

bool backward_reads_inputs(const Step& step) {
  switch (step.op) {
    case OpKind::conv:
    case OpKind::linear:
    case OpKind::batch_norm:
    case OpKind::layer_norm:
    case OpKind::layer_scale:
    case OpKind::activation:
    case OpKind::channel_scale:
    case OpKind::self_attention:
    case OpKind::max_pool: return true;
    default: return false;
  }
}

void plan_gradients(Program& program) { GradientPlanner(program).run(); }

}  // namespace lgd
