// Training plans for CUDA: a convolution with the norm behind it becomes one step, and the norm's activation stays
// unstored where all its readers can make it themselves. From the steps of fuse.cpp:
//
//   conv -> norm                   conv_norm; what reads the norm reads a lazy activation
//   ... -> conv_norm (1x1 or depthwise), global pool, max pool
//                                  reads it lazily; so does a join whose residual it is, if no activation stands behind
//                                  the norm
//   ... -> pool -> ... -> channel scale -> 1x1
//                                  squeeze and excitation behind a depthwise convolution: gate, stored only where it is
//                                  read often; the two layers in between become one step
//   ... -> anything else           join: the activation is stored by a kernel of its own, with the residual where there
//                                  is one, behind the activation or before it, and with stochastic depth before it
#include <algorithm>
#include <utility>

#include "graph/program.h"
#include "ops/excitation.h"

namespace lgd {
namespace {

class LayerFusion {
 public:
  explicit LayerFusion(Program& program) : program_(program), steps_(program.steps) {
    gone_.resize(steps_.size());
    readers_.resize(program.shapes.values.size());
    makers_.assign(program.shapes.values.size(), -1);
    for (size_t i = 0; i < steps_.size(); ++i) {
      for (const int input : steps_[i].inputs) readers_[size_t(input)].push_back(int(i));
      if (steps_[i].residual >= 0) readers_[size_t(steps_[i].residual)].push_back(int(i));
      makers_[size_t(steps_[i].output)] = int(i);
    }
    for (const int output : program.outputs) readers_[size_t(output)].push_back(outside);
  }

  void run() {
    for (size_t i = 0; i < steps_.size(); ++i)
      if (steps_[i].op == OpKind::batch_norm) join_convolution(int(i));
    for (size_t i = 0; i < steps_.size(); ++i)
      if (steps_[i].kind == StepKind::join) make_lazy(int(i));
    std::vector<Step> kept;
    for (size_t i = 0; i < steps_.size(); ++i)
      if (!gone_[i]) kept.push_back(std::move(steps_[i]));
    steps_ = std::move(kept);
  }

 private:
  const Node& node_of(const Step& step) const { return program_.graph.nodes[size_t(step.node)]; }
  int sole_reader(int value) const {
    return readers_[size_t(value)].size() == 1 ? readers_[size_t(value)][0] : outside;
  }

  // Can the convolution's kernel take a norm's statistics and lazy inputs?
  bool suits(const Step& step) const {
    const Node& node = node_of(step);
    if (step.kind != StepKind::node || !node.is_conv() || node.has_bias()) return false;
    if (node.groups == 1) return true;
    return node.dilation == 1 && conv_shape(program_.graph, program_.shapes, step.node).r <= 5;
  }

  // Step `index` is a norm: if a suitable convolution feeds it alone, the two become conv_norm and join.
  void join_convolution(int index) {
    Step& norm = steps_[size_t(index)];
    const int maker = makers_[size_t(norm.inputs[0])];
    if (maker < 0 || sole_reader(norm.inputs[0]) != index || !suits(steps_[size_t(maker)])) return;
    const bool slope_from_result = norm.act == Act::none || norm.act == Act::relu || norm.act == Act::relu6;
    if (norm.residual >= 0 && !slope_from_result) return;
    Step& conv = steps_[size_t(maker)];
    conv.kind = StepKind::conv_norm;
    conv.norm = norm.node;
    const int place = absorb_sum(index);
    Step& join = steps_[size_t(place)];
    join.kind = StepKind::join;
    conv.activation = join.output;
    Activation& activation = program_.activations[size_t(join.output)];
    activation.raw = conv.output;
    activation.norm = conv.norm;
    activation.drop = drop_;
    activation.inside = place != index && join.act != Act::none;
    activation.act = join.act;
    activation.stored = true;
    activation.joined = join.residual >= 0;
  }

  // norm with its activation [-> stochastic depth] -> add, each read by the next alone: the norm moves to where the add
  // stood. Returns the join's place.
  int absorb_sum(int index) {
    const Step norm = steps_[size_t(index)];
    drop_ = -1;
    if (norm.residual >= 0) return index;
    const int next = sole_reader(norm.output);
    const bool drops = next >= 0 && steps_[size_t(next)].op == OpKind::stochastic_depth;
    const int added = drops ? steps_[size_t(next)].output : norm.output, add = drops ? sole_reader(added) : next;
    if (add < 0 || steps_[size_t(add)].op != OpKind::add) return index;
    Step& join = steps_[size_t(add)];
    const int other = join.inputs[0] == added ? join.inputs[1] : join.inputs[0];
    if (other == added) return index;
    if (drops) drop_ = steps_[size_t(next)].node;
    join.op = OpKind::batch_norm;
    join.node = join.norm = norm.node;
    join.inputs = norm.inputs;
    join.residual = other;
    join.act = norm.act;
    gone_[size_t(index)] = true;
    if (drops) gone_[size_t(next)] = true;
    return add;
  }

  // A join without a residual whose readers all read lazily is not needed. A dense convolution of several taps can read
  // lazily, too, but makes each element once for each tap that meets it, forward and for its weights: that costs more
  // than storing it once, or as much where a stride leaves 2.25 of 9 taps.
  void make_lazy(int index) {
    const Step& join = steps_[size_t(index)];
    Activation& activation = program_.activations[size_t(join.output)];
    if (activation.joined) return;
    const std::vector<int>& readers = readers_[size_t(join.output)];
    const int gate = gate_among(join.output);
    const auto reads_lazily = [&](int reader) {
      if (reader == outside) return false;
      const Step& step = steps_[size_t(reader)];
      if (step.kind == StepKind::conv_norm)
        return node_of(step).groups > 1 || conv_shape(program_.graph, program_.shapes, step.node).taps() == 1;
      if (step.kind == StepKind::join) return step.residual == join.output && activation.act == Act::none;
      return reader == gate || step.op == OpKind::global_pool || step.op == OpKind::max_pool;
    };
    if (!std::all_of(readers.begin(), readers.end(), reads_lazily)) return;
    activation.stored = false;
    gone_[size_t(index)] = true;
    for (const int reader : readers) {
      Step& step = steps_[size_t(reader)];
      if (step.op == OpKind::global_pool) step.kind = StepKind::squeeze;
      if (step.op == OpKind::max_pool) step.kind = StepKind::lazy_max_pool;
    }
    if (gate >= 0) make_gate(join.output, gate);
  }

  // The channel scale of squeeze and excitation that reads `value`, or -1: value has two readers, a pool and the scale;
  // the scale feeds one dense convolution; a depthwise one stands before it all. No other gate may lie between the two:
  // backward, the executor keeps the sums of one.
  int gate_among(int value) const {
    const std::vector<int>& readers = readers_[size_t(value)];
    if (readers.size() != 2 || readers[0] == outside || readers[1] == outside) return -1;
    const Step &first = steps_[size_t(readers[0])], &second = steps_[size_t(readers[1])];
    if (first.op != OpKind::global_pool || second.op != OpKind::channel_scale || second.inputs[0] != value ||
        second.inputs[1] == value)
      return -1;
    const int reader = sole_reader(second.output);
    if (reader < 0 || steps_[size_t(reader)].kind != StepKind::conv_norm || node_of(steps_[size_t(reader)]).groups != 1)
      return -1;
    const int maker = makers_[size_t(program_.activations[size_t(value)].raw)];
    const bool alone = std::none_of(gates_.begin(), gates_.end(), [&](const auto& other) {
      return maker < other.second && other.first < readers[1];
    });
    return alone && node_of(steps_[size_t(maker)]).groups > 1 ? readers[1] : -1;
  }

  void make_gate(int value, int gate) {
    Step& step = steps_[size_t(gate)];
    Activation& below = program_.activations[size_t(value)];
    below.gated = true;
    Activation& scaled = program_.activations[size_t(step.output)];
    scaled = below;
    scaled.gated = false;
    scaled.gate = step.inputs[1];
    scaled.stored = read_often(steps_[size_t(sole_reader(step.output))]);
    step.kind = StepKind::gate;
    const int maker = makers_[size_t(below.raw)];
    steps_[size_t(maker)].activation = step.output;
    gates_.emplace_back(maker, gate);
    fuse_excitation(gate);
  }

  // Does a dense convolution use each element of its input many times? One with more than 64 output channels has
  // several tiles of columns forward, and so has its weights' gradient of rows: each would make the activation and
  // fetch the gate again.
  bool read_often(const Step& conv) const {
    const ConvShape shape = conv_shape(program_.graph, program_.shapes, conv.node);
    return !is_pointwise(shape) || shape.k > 64;
  }

  // pool -> layer -> activation -> layer -> activation -> the gate, each read by the next alone: one step, in place of
  // the last.
  void fuse_excitation(int gate) {
    const int outer = only_above(steps_[size_t(gate)].inputs[1], gate), second = layer_above(outer);
    const int inner = second < 0 ? -1 : only_above(steps_[size_t(second)].inputs[0], second),
              first = layer_above(inner);
    if (first < 0) return;
    const int squeeze = only_above(steps_[size_t(first)].inputs[0], first);
    if (squeeze < 0 || steps_[size_t(squeeze)].kind != StepKind::squeeze) return;
    const auto stored = [&](int step) { return program_.shapes.values[size_t(steps_[size_t(step)].output)].stored; };
    if ((stored(first) + stored(second)) * int(size_of(program_.shapes.type)) > excitation_widest) return;
    Step& step = steps_[size_t(outer)];
    step.kind = StepKind::excitation;
    step.op = steps_[size_t(first)].op;
    step.node = steps_[size_t(first)].node;
    step.second = steps_[size_t(second)].node;
    step.inner = steps_[size_t(inner)].act;
    step.inputs = steps_[size_t(first)].inputs;
    for (const int taken : {first, inner, second}) gone_[size_t(taken)] = true;
  }

  // The step that makes `value`, if step `reader` alone reads it; else -1.
  int only_above(int value, int reader) const { return sole_reader(value) == reader ? makers_[size_t(value)] : -1; }

  // The layer with a bias, on single positions, that activation step `index`, no GELU, alone reads; else -1.
  int layer_above(int index) const {
    if (index < 0 || steps_[size_t(index)].op != OpKind::activation || is_gelu(steps_[size_t(index)].act)) return -1;
    const int maker = only_above(steps_[size_t(index)].inputs[0], index);
    if (maker < 0 || !node_of(steps_[size_t(maker)]).is_conv() || !node_of(steps_[size_t(maker)]).has_bias() ||
        node_of(steps_[size_t(maker)]).groups > 1)
      return -1;
    const ConvShape shape = conv_shape(program_.graph, program_.shapes, steps_[size_t(maker)].node);
    return shape.h * shape.w * shape.taps() == 1 ? maker : -1;
  }

  static constexpr int outside = -1;  // the reader of the graph's outputs
  Program& program_;
  std::vector<Step>& steps_;
  std::vector<bool> gone_;
  std::vector<std::vector<int>> readers_;   // value -> steps, once for each operand
  std::vector<int> makers_;                 // value -> step, or -1
  int drop_ = -1;                           // node that absorb_sum took in last, or -1
  std::vector<std::pair<int, int>> gates_;  // steps: of each the depthwise convolution before it, and the gate
};

}  // namespace

void fuse_layers(Program& program) { LayerFusion(program).run(); }

}  // namespace lgd
