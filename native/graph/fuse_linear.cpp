// Training plans for CUDA, transformers and ConvNeXts: what happens on the way out of layers on single positions. From
// the steps of fuse.cpp, where nothing else reads what lies between:
//
//   layer -> GELU -> layer   the first stores the GELU and its slope; backward the second multiplies by that and adds
//                            up the first one's bias gradient (ops/linear.h)
//   layer -> add             the layer adds the residual
#include <algorithm>
#include <utility>

#include "graph/program.h"

namespace lgd {
namespace {

class LinearFusion {
 public:
  explicit LinearFusion(Program& program)
      : program_(program), steps_(program.steps), readers_(program.shapes.values.size()) {
    for (size_t i = 0; i < steps_.size(); ++i) {
      for (const int input : steps_[i].inputs) readers_[size_t(input)].push_back(int(i));
      if (steps_[i].residual >= 0) readers_[size_t(steps_[i].residual)].push_back(int(i));
    }
    for (const int output : program.outputs) readers_[size_t(output)].push_back(outside);
  }

  void run() {
    for (Step& step : steps_)
      if (is_layer(step)) take_activation(step);
    for (Step& step : steps_)
      if (is_layer(step)) take_sum(step);
    std::erase_if(steps_, [](const Step& step) { return step.node < 0; });
  }

 private:
  const Node& node_of(const Step& step) const { return program_.graph.nodes[size_t(step.node)]; }
  bool is_layer(const Step& step) const {
    if (step.node < 0 || (step.kind != StepKind::node && step.kind != StepKind::linear)) return false;
    return node_of(step).is_conv() && node_of(step).groups == 1 &&
           is_pointwise(conv_shape(program_.graph, program_.shapes, step.node));
  }
  // The one step that reads `value`, or null.
  Step* sole_reader(int value) const {
    const std::vector<int>& readers = readers_[size_t(value)];
    return readers.size() == 1 && readers[0] != outside ? &steps_[size_t(readers[0])] : nullptr;
  }

  void take_activation(Step& layer) {
    Step* const gelu = sole_reader(layer.output);
    if (!gelu || gelu->op != OpKind::activation || !is_gelu(gelu->act) || !node_of(layer).has_bias()) return;
    Step* const behind = sole_reader(gelu->output);
    if (!behind || !is_layer(*behind)) return;
    Activation& activation = program_.activations[size_t(gelu->output)];
    activation.raw = std::exchange(layer.output, gelu->output);
    activation.act = layer.act = gelu->act;
    activation.stored = true;
    layer.kind = behind->kind = StepKind::linear;
    gelu->node = -1;
  }

  // The layer moves to where the sum stood, so that the other operand is there.
  void take_sum(Step& layer) {
    Step* const sum = sole_reader(layer.output);
    if (!sum || sum->op != OpKind::add || layer.act != Act::none || layer.residual >= 0) return;
    const int other = sum->inputs[0] == layer.output ? sum->inputs[1] : sum->inputs[0];
    if (other == layer.inputs[0]) return;  // backward would write one gradient twice in one kernel
    layer.kind = StepKind::linear;
    layer.residual = other;
    layer.output = sum->output;
    *sum = std::exchange(layer, Step{});
  }

  static constexpr int outside = -1;  // the reader of the graph's outputs
  Program& program_;
  std::vector<Step>& steps_;
  std::vector<std::vector<int>> readers_;  // value -> steps, once for each operand
};

}  // namespace

void fuse_linear(Program& program) { LinearFusion(program).run(); }

}  // namespace lgd
