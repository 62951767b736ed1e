// Which nodes become one step.
//
// A layerScale takes in the stochastic depth and the add behind it. Another chain starts at a batchNorm (training), or
// at a convolution, linear layer or lone batchNorm (forward only), and takes in, each only when nothing else reads the
// value between: a batchNorm behind a convolution without a bias (forward only), then an add, whose other operand
// becomes the residual, then an activation (a GELU only behind a convolution or linear layer). The step stands where
// the chain's last node stood, so the residual is there.
#include "graph/program.h"

namespace lgd {
namespace {

class StepFusion {
 public:
  StepFusion(Program& program, Fusion fusion)
      : program_(program), graph_(program.graph), fused_(fusion != Fusion::nodes) {
    const size_t nodes = graph_.nodes.size();
    resolved_.resize(nodes + 1);
    readers_.resize(nodes + 1);
    absorbed_.resize(nodes);
    ends_at_.assign(nodes, -1);
  }

  void run() {
    resolve();
    for (size_t i = 0; i < graph_.nodes.size(); ++i)
      if (!absorbed_[i] && !dropped(graph_.nodes[i])) build(int(i));
    for (const int chain : ends_at_)
      if (chain >= 0) program_.steps.push_back(std::move(chains_[size_t(chain)]));
    for (const int output : graph_.outputs) program_.outputs.push_back(resolved_[size_t(output)]);
  }

 private:
  // Random dropping does nothing in a forward-only plan: its value is its input.
  bool dropped(const Node& node) const {
    return !program_.training && (node.op == OpKind::dropout || node.op == OpKind::stochastic_depth);
  }

  void resolve() {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      const Node& node = graph_.nodes[i];
      resolved_[i + 1] = dropped(node) ? resolved_[size_t(node.inputs[0])] : int(i) + 1;
      if (dropped(node)) continue;
      for (const int input : node.inputs) readers_[size_t(resolved_[size_t(input)])].push_back(int(i));
    }
    for (const int output : graph_.outputs) readers_[size_t(resolved_[size_t(output)])].push_back(outside);
  }

  // The one node that reads `value`, if it does `op` and belongs to no chain yet; else -1.
  int sole_reader(int value, OpKind op) const {
    const auto& readers = readers_[size_t(value)];
    if (readers.size() != 1 || readers[0] == outside) return -1;
    const int node = readers[0];
    return graph_.nodes[size_t(node)].op == op && !absorbed_[size_t(node)] ? node : -1;
  }

  void build(int index) {
    const Node& node = graph_.nodes[size_t(index)];
    Step step;
    step.op = node.op;
    step.node = index;
    if (node.op == OpKind::batch_norm) step.norm = index;
    if (node.op == OpKind::activation) step.act = node.act;
    for (const int input : node.inputs) step.inputs.push_back(resolved_[size_t(input)]);
    int last = index;
    const bool starts_chain = node.op == OpKind::batch_norm || (node.is_conv() && !program_.training);
    if (node.op == OpKind::layer_scale && fused_) last = end_branch(step);
    if (starts_chain && fused_) last = extend(step, node);
    step.output = last + 1;
    ends_at_[size_t(last)] = int(chains_.size());
    chains_.push_back(std::move(step));
  }

  // Takes in what follows; returns the chain's last node.
  int extend(Step& step, const Node& node) {
    int last = step.node;
    if (node.is_conv() && !node.has_bias()) {
      if (const int norm = take(last, OpKind::batch_norm); norm >= 0) step.norm = last = norm;
    }
    last = take_sum(step, last);
    const int activation = sole_reader(last + 1, OpKind::activation);
    if (activation >= 0 && (node.is_conv() || !is_gelu(graph_.nodes[size_t(activation)].act))) {
      step.act = graph_.nodes[size_t(activation)].act;
      last = take(last, OpKind::activation);
    }
    return last;
  }

  // Stochastic depth and a sum behind a layerScale.
  int end_branch(Step& step) {
    const int drop = take(step.node, OpKind::stochastic_depth);
    step.drop = drop;
    return take_sum(step, drop >= 0 ? drop : step.node);
  }

  // Takes in an add, where there is one; returns the chain's last node.
  int take_sum(Step& step, int last) {
    const int add = sole_reader(last + 1, OpKind::add);
    if (add < 0) return last;
    const auto& operands = graph_.nodes[size_t(add)].inputs;
    const int first = resolved_[size_t(operands[0])], second = resolved_[size_t(operands[1])];
    const int other = first == last + 1 ? second : first;
    // else backward would write one gradient twice in one kernel
    if (program_.training && other == step.inputs[0]) return last;
    step.residual = other;
    return take(last, OpKind::add);
  }

  int take(int last, OpKind op) {
    const int node = sole_reader(last + 1, op);
    if (node >= 0) absorbed_[size_t(node)] = true;
    return node;
  }

  static constexpr int outside = -1;  // the reader of the graph's outputs
  Program& program_;
  const Graph& graph_;
  const bool fused_;
  std::vector<int> resolved_;              // value -> the value that holds it
  std::vector<std::vector<int>> readers_;  // value -> nodes, once for each operand
  std::vector<bool> absorbed_;
  std::vector<int> ends_at_;  // node -> the chain that ends there, or -1
  std::vector<Step> chains_;
};

}  // namespace

void fuse_steps(Program& program, Fusion fusion) { StepFusion(program, fusion).run(); }

Program compile(Graph graph, const EncoderOptions& options, DeviceKind kind, Fusion fusion) {
  Program program;
  program.training = options.training;
  program.shapes = infer_shapes(graph, options, kind);
  program.graph = std::move(graph);
  fuse_steps(program, fusion);
  if (!program.training && kind == DeviceKind::cuda && fusion != Fusion::nodes) fuse_folded(program);
  program.activations.resize(program.shapes.values.size());
  if (program.training && fusion == Fusion::layers) {
    fuse_layers(program);
    fuse_linear(program);
  }
  if (program.training) plan_gradients(program);
  plan_memory(program);
  return program;
}

}  // namespace lgd
