// The steps of fuse_layers.cpp and fuse_linear.cpp: which buffers and numbers each fused operation (ops/fused.h) gets.
#include "graph/executor.h"
#include "ops/kernels.h"

namespace lgd {

RowsShape Executor::rows_shape(int value) const {
  const ValueShape& shape = program_.shapes.values[size_t(value)];
  return {program_.shapes.batch, shape.pixels(), shape.stored};
}

// What a reader of `number` gets: the stored value, or what the activation is made of.
LazyInput Executor::lazy_input(int number) const {
  if (program_.activations[size_t(number)].lazy()) return ingredients(number);
  LazyInput input;
  input.y = value(number);
  return input;
}

// What activation `number` is made of, but for a residual and stochastic depth.
LazyInput Executor::ingredients(int number) const {
  const Activation& activation = program_.activations[size_t(number)];
  const NormNumbers numbers = norm_numbers(activation.norm);
  LazyInput input;
  input.y = value(activation.raw);
  input.scale = numbers.scale;
  input.shift = numbers.shift;
  input.act = activation.act;
  if (activation.gate >= 0) input.gate = value(activation.gate);
  return input;
}

NormGradient Executor::norm_gradient(int node) const {
  const std::vector<int>& parameters = program_.graph.nodes[size_t(node)].parameters;
  const NormNumbers numbers = norm_numbers(node);
  NormGradient norm;
  norm.gamma = parameters_.value(parameters[norm_weight]);
  norm.mean = numbers.mean;
  norm.rstd = numbers.rstd;
  norm.d_gamma = parameters_.gradient(parameters[norm_weight]);
  norm.d_beta = parameters_.gradient(parameters[norm_bias]);
  norm.a = numbers.a;
  norm.b = numbers.b;
  norm.c = numbers.c;
  return norm;
}

// The target that finishes the gradient of activation `number`; g and accumulate are the caller's to set.
GradientTarget Executor::gradient_target(int number) const {
  const Activation& activation = program_.activations[size_t(number)];
  const NormNumbers numbers = norm_numbers(activation.norm);
  GradientTarget target;
  target.y = value(activation.raw);
  if (activation.joined && !activation.inside && activation.act != Act::none) target.activated = value(number);
  target.scale = numbers.scale;
  target.shift = numbers.shift;
  target.act = activation.act;
  target.norm = norm_gradient(activation.norm);
  return target;
}

// Where a step that may finish its input's gradient puts it.
GradientTarget Executor::input_target(const Step& step, const StepGradient& writes) const {
  GradientTarget target;
  if (writes.finish_input) target = gradient_target(step.inputs[0]);
  target.g = gradient(step.inputs[0]);
  target.accumulate = writes.inputs[0] == GradientWrite::accumulate;
  return target;
}

LazyGradient Executor::lazy_gradient(const Step& conv) const {
  const Activation& activation = program_.activations[size_t(conv.activation)];
  const NormNumbers numbers = norm_numbers(activation.norm);
  LazyGradient dy;
  dy.g = gradient(gradient_source(program_, conv));
  dy.y = value(conv.output);
  dy.a = numbers.a;
  dy.b = numbers.b;
  dy.c = numbers.c;
  if (activation.gate < 0) return dy;
  dy.gate = value(activation.gate);
  dy.pooled = gate_pooled(rows_shape(conv.activation));
  dy.scale = numbers.scale;
  dy.shift = numbers.shift;
  dy.act = activation.act;
  return dy;
}

void Executor::forward_layer(const Step& step) {
  switch (step.kind) {
    case StepKind::node: return;
    case StepKind::conv_norm: return forward_conv_norm(step);
    case StepKind::join: return forward_join(step);
    case StepKind::gate: return forward_gate(step);
    case StepKind::excitation: return forward_excitation(step);
    case StepKind::linear: return forward_linear(step);
    case StepKind::squeeze:
      return kernels_.squeeze_forward(*device_, rows_shape(step.inputs[0]), program_.shapes.type,
                                      lazy_input(step.inputs[0]), value(step.output));
    case StepKind::lazy_max_pool:
      return kernels_.lazy_max_pool_forward(*device_, pool_shape(program_.graph, program_.shapes, step.node),
                                            program_.shapes.type, lazy_input(step.inputs[0]), value(step.output));
  }
}

void Executor::forward_conv_norm(const Step& step) {
  const Node& norm = program_.graph.nodes[size_t(step.norm)];
  const auto parameter = [&](NormParameter which) { return parameters_.value(norm.parameters[which]); };
  NormNumbers numbers = norm_numbers(step.norm);
  NormTarget target;
  target.eps = norm.eps;
  target.momentum = norm.momentum;
  if (!options_.training) {  // scale and shift are folded from the running statistics, which stay as they are
    const int channels = program_.shapes.values[size_t(step.output)].stored;
    float* discarded = discarded_.as<float>();
    numbers.mean = discarded;
    numbers.rstd = discarded + channels;
    numbers.scale = discarded + 2 * channels;
    numbers.shift = discarded + 3 * channels;
    target.momentum = 0;
  }
  target.gamma = parameter(norm_weight);
  target.beta = parameter(norm_bias);
  target.running_mean = parameter(norm_mean);
  target.running_var = parameter(norm_var);
  target.mean = numbers.mean;
  target.rstd = numbers.rstd;
  target.scale = numbers.scale;
  target.shift = numbers.shift;
  const Node& conv = node_of(step);
  const auto run = conv.groups > 1 ? kernels_.depthwise_norm_forward : kernels_.conv_norm_forward;
  run(*device_, conv_shape(program_.graph, program_.shapes, step.node), program_.shapes.type,
      lazy_input(step.inputs[0]), parameters_.operand(conv.parameters[conv_weight]), target, value(step.output));
}

void Executor::forward_join(const Step& step) {
  const Activation& activation = program_.activations[size_t(step.output)];
  LazyInput x = ingredients(step.output);
  if (!activation.inside) x.act = Act::none;  // it stands behind the residual
  const bool drops = activation.drop >= 0 && options_.training;
  const DropShape drop = drops ? drop_shape(activation.drop, step.output) : DropShape{};
  const LazyInput residual = step.residual >= 0 ? lazy_input(step.residual) : LazyInput{};
  kernels_.join_forward(*device_, rows_shape(step.output), program_.shapes.type, x,
                        step.residual >= 0 ? &residual : nullptr, drops ? &drop : nullptr,
                        activation.inside ? Act::none : activation.act, value(step.output));
}

void Executor::forward_gate(const Step& step) {
  if (!program_.activations[size_t(step.output)].stored) return;  // its reader does the work
  kernels_.join_forward(*device_, rows_shape(step.output), program_.shapes.type, ingredients(step.output), nullptr,
                        nullptr, Act::none, value(step.output));
}

void Executor::backward_layer(const Step& step, const StepGradient& writes) {
  switch (step.kind) {
    case StepKind::node: return;
    case StepKind::conv_norm: return backward_conv_norm(step, writes);
    case StepKind::join: return backward_join(step, writes);
    case StepKind::excitation: return backward_excitation(step, writes);
    case StepKind::linear: return backward_linear(step, writes);
    case StepKind::squeeze: return backward_squeeze(step, writes);
    case StepKind::gate: return backward_gate(step, writes);
    case StepKind::lazy_max_pool:
      if (writes.inputs[0] == GradientWrite::none) return;
      return kernels_.lazy_max_pool_backward(*device_, pool_shape(program_.graph, program_.shapes, step.node),
                                             program_.shapes.type, lazy_input(step.inputs[0]), gradient(step.output),
                                             input_target(step, writes));
  }
}

void Executor::finish_activation(int number, const void* dy, void* g) {
  const Activation& activation = program_.activations[size_t(number)];
  GradientTarget target = gradient_target(number);
  target.g = g;
  const DropShape drop = activation.drop >= 0 ? drop_shape(activation.drop, number) : DropShape{};
  kernels_.norm_gradient(*device_, rows_shape(number), program_.shapes.type, dy, activation.drop >= 0 ? &drop : nullptr,
                         target);
}

void Executor::backward_conv_norm(const Step& step, const StepGradient& writes) {
  if (writes.finish_own) finish_activation(step.activation, gradient(step.activation), gradient(step.activation));
  const Node& conv = node_of(step);
  const bool wanted = writes.inputs[0] != GradientWrite::none;
  const GradientTarget target = wanted ? input_target(step, writes) : GradientTarget{};
  const int weight = conv.parameters[conv_weight];
  const auto run = conv.groups > 1 ? kernels_.depthwise_norm_backward : kernels_.conv_norm_backward;
  run(*device_, conv_shape(program_.graph, program_.shapes, step.node), program_.shapes.type,
      lazy_input(step.inputs[0]), lazy_gradient(step), parameters_.operand(weight), parameters_.gradient(weight),
      wanted ? &target : nullptr);
}

// The gradient of the sum before the activation is the residual's, and, with nothing between norm and sum, the norm's.
void Executor::backward_join(const Step& step, const StepGradient& writes) {
  const Activation& activation = program_.activations[size_t(step.output)];
  void* dy = gradient(step.output);
  if (writes.finish_own) finish_activation(step.output, dy, activation.apart() ? gradient(activation.raw) : dy);
  if (step.residual >= 0) pass_on(step.output, step.residual, writes.residual);
}

void Executor::backward_squeeze(const Step& step, const StepGradient& writes) {
  const int input = step.inputs[0];
  const RowsShape shape = rows_shape(input);
  if (!program_.activations[size_t(input)].gated) {
    if (writes.inputs[0] == GradientWrite::none) return;
    kernels_.global_pool_backward(*device_, shape.images, shape.pixels, shape.channels, program_.shapes.type,
                                  gradient(step.output), gradient(input),
                                  writes.inputs[0] == GradientWrite::accumulate);
    return;
  }
  kernels_.gate_finish(*device_, shape, program_.shapes.type, value(gate_of(program_, input)), gradient(step.output),
                       gates_.as<float>(), gate_pooled(shape), norm_gradient(program_.activations[size_t(input)].norm));
}

void Executor::backward_gate(const Step& step, const StepGradient& writes) {
  LGD_CHECK(writes.inputs[1] == GradientWrite::write, "NATIVE_ERROR", "the gate of ", node_of(step).name,
            " has another use");
  const NormNumbers numbers = norm_numbers(program_.activations[size_t(step.output)].norm);
  kernels_.gate_backward(*device_, rows_shape(step.output), program_.shapes.type, ingredients(step.output),
                         numbers.mean, numbers.rstd, gradient(step.output), gradient(step.inputs[1]),
                         gates_.as<float>());
}

void Executor::forward_linear(const Step& step) {
  if (step.act == Act::none) return forward_conv(step);
  const Node& node = node_of(step);
  const int slope = program_.activations[size_t(step.output)].raw;
  kernels_.linear_act_forward(*device_, conv_shape(program_.graph, program_.shapes, step.node), program_.shapes.type,
                              value(step.inputs[0]), parameters_.operand(node.parameters[conv_weight]),
                              parameters_.value(node.parameters[conv_bias]), step.act, value(slope),
                              value(step.output));
  round_value(slope);
}

void Executor::backward_linear(const Step& step, const StepGradient& writes) {
  const Node& node = node_of(step);
  const ConvShape shape = conv_shape(program_.graph, program_.shapes, step.node);
  const DType type = program_.shapes.type;
  const int input = step.inputs[0], weight = node.parameters[conv_weight];
  const void* dy = gradient(step.output);
  // with a GELU behind this layer, the layer behind that has added up its bias's gradient
  const bool bias = node.has_bias() && step.act == Act::none;
  kernels_.conv_backward_weight(*device_, shape, type, value(input), dy, parameters_.gradient(weight),
                                bias ? parameters_.gradient(node.parameters[conv_bias]) : nullptr);
  if (writes.finish_input) {
    const int slope = program_.activations[size_t(input)].raw;
    kernels_.linear_act_backward(*device_, shape, type, dy, parameters_.operand(weight), value(slope), gradient(input),
                                 parameters_.gradient(program_.graph.node_of(slope).parameters[conv_bias]));
  } else if (writes.inputs[0] != GradientWrite::none) {
    kernels_.conv_backward_data(*device_, shape, type, dy, parameters_.operand(weight), gradient(input),
                                writes.inputs[0] == GradientWrite::accumulate);
  }
  if (step.residual >= 0) pass_on(step.output, step.residual, writes.residual);
}

Excitation Executor::excitation(const Step& step) const {
  const std::vector<int>&first = node_of(step).parameters,
        &second = program_.graph.nodes[size_t(step.second)].parameters;
  const auto stored = [&](int value) { return program_.shapes.values[size_t(value)].stored; };
  Excitation e;
  e.images = program_.shapes.batch;
  e.channels = stored(step.output);
  e.squeezed = stored(step.node + 1);
  e.inner = step.inner;
  e.outer = step.act;
  e.w1 = parameters_.operand(first[conv_weight]);
  e.w2 = parameters_.operand(second[conv_weight]);
  e.b1 = parameters_.value(first[conv_bias]);
  e.b2 = parameters_.value(second[conv_bias]);
  return e;
}

void Executor::forward_excitation(const Step& step) {
  kernels_.excitation_forward(*device_, excitation(step), program_.shapes.type, value(step.inputs[0]),
                              value(step.node + 1), value(step.second + 1), value(step.output));
}

void Executor::backward_excitation(const Step& step, const StepGradient& writes) {
  LGD_CHECK(writes.inputs[0] == GradientWrite::write, "NATIVE_ERROR", "what ", node_of(step).name,
            " reads has another use");
  const std::vector<int>&first = node_of(step).parameters,
        &second = program_.graph.nodes[size_t(step.second)].parameters;
  const ExcitationGradients gradients{parameters_.gradient(first[conv_weight]), parameters_.gradient(first[conv_bias]),
                                      parameters_.gradient(second[conv_weight]),
                                      parameters_.gradient(second[conv_bias])};
  kernels_.excitation_backward(*device_, excitation(step), program_.shapes.type, value(step.inputs[0]),
                               value(step.node + 1), value(step.second + 1), gradient(step.output),
                               gradient(step.inputs[0]), gradients);
}

}  // namespace lgd
