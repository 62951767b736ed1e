#include "graph/executor.h"
#include "ops/kernels.h"

namespace lgd {
namespace {

bool wanted(GradientWrite write) { return write != GradientWrite::none; }
bool adds(GradientWrite write) { return write == GradientWrite::accumulate; }
// Does a kernel have to write it?
bool computed(GradientWrite write) { return write == GradientWrite::write || write == GradientWrite::accumulate; }

}  // namespace

void* Executor::gradient(int number) const {
  const int owner = program_.gradients.storage[size_t(number)];
  return arena_.as<char>() + program_.memory.gradient[size_t(owner)];
}

void Executor::round_gradient(int number) {
  if (!program_.shapes.rounds || program_.gradients.storage[size_t(number)] < 0) return;
  kernels_.cast(*device_, program_.shapes.stored_elements(number), DType::bf16, static_cast<float*>(gradient(number)),
                gradient(number));
}

int Executor::kernels_backward() const {
  int count = program_.training ? int(program_.outputs.size()) : 0;
  for (size_t i = 0; i < program_.gradients.steps.size(); ++i) {
    const Step& step = program_.steps[i];
    const StepGradient& gradient = program_.gradients.steps[i];
    const bool conv = node_of(step).is_conv();
    if (conv || step.op == OpKind::add)
      for (const GradientWrite write : gradient.inputs) count += computed(write);
    count += step.op != OpKind::add;
  }
  return count;
}

void Executor::backward(const void* images, const float* d_output) {
  device_->restart_turns();
  images_ = taken_ ? taken_.as<>() : images;
  kernels_.defer_sums(*device_);
  for (const int number : program_.outputs) {
    const ValueShape& shape = program_.shapes.values[size_t(number)];
    kernels_.pack_gradient(*device_, program_.shapes.rows(number), shape.c, shape.stored, program_.shapes.type,
                           d_output, gradient(number));
    round_gradient(number);
    d_output += program_.shapes.rows(number) * shape.c;
  }
  const int steps = int(program_.steps.size());
  pass(steps);
  for (int i = steps - 1; i >= 0; --i) {
    const Step& step = program_.steps[size_t(i)];
    const StepGradient& writes = program_.gradients.steps[size_t(i)];
    if (writes.needed) {
      backward_step(step, writes);
      for (size_t input = 0; input < step.inputs.size(); ++input)
        if (computed(writes.inputs[input])) round_gradient(step.inputs[input]);
      if (computed(writes.residual)) round_gradient(step.residual);
    }
    pass(2 * steps - i);
  }
  kernels_.finish_sums(*device_);
}

void Executor::backward_step(const Step& step, const StepGradient& writes) {
  if (step.kind != StepKind::node) return backward_layer(step, writes);
  const Shapes& shapes = program_.shapes;
  const int first = step.inputs[0];
  const ValueShape& in = shapes.values[size_t(first)];
  if (node_of(step).is_conv()) return backward_conv(step, writes);
  if (step.op == OpKind::batch_norm) return backward_norm(step, writes);
  if (step.op == OpKind::layer_scale) return backward_scale(step, writes);
  if (step.op == OpKind::add) return backward_add(step, writes);
  if (step.op == OpKind::positions || step.op == OpKind::self_attention || step.op == OpKind::first_token)
    return backward_sequence(step, writes);
  if (!wanted(writes.inputs[0])) return;
  const bool add = adds(writes.inputs[0]);
  const void* x = value(first);
  const void* dy = gradient(step.output);
  void* dx = gradient(first);
  switch (step.op) {
    case OpKind::layer_norm: {
      const std::vector<int>& parameters = node_of(step).parameters;
      return kernels_.layer_norm_backward(
          *device_, layer_norm_shape(step), shapes.type, x, dy, parameters_.value(parameters[norm_weight]), dx, add,
          parameters_.gradient(parameters[norm_weight]), parameters_.gradient(parameters[norm_bias]));
    }
    case OpKind::activation:
      return kernels_.act_backward(*device_, shapes.stored_elements(first), shapes.type, step.act, x, dy, dx, add);
    case OpKind::dropout:
    case OpKind::stochastic_depth:
      return kernels_.drop_backward(*device_, drop_shape(step.node, step.output), shapes.type, dy, dx, add);
    case OpKind::channel_scale:
      return kernels_.channel_scale_backward(*device_, {shapes.batch, in.pixels(), in.stored}, shapes.type, x,
                                             value(step.inputs[1]), dy, dx, add, gradient(step.inputs[1]));
    case OpKind::max_pool:
      return kernels_.max_pool_backward(*device_, pool_shape(program_.graph, shapes, step.node), shapes.type, x, dy, dx,
                                        add);
    case OpKind::avg_pool:
      return kernels_.avg_pool_backward(*device_, pool_shape(program_.graph, shapes, step.node), shapes.type, dy, dx,
                                        add);
    case OpKind::global_pool:
      return kernels_.global_pool_backward(*device_, shapes.batch, in.pixels(), in.stored, shapes.type, dy, dx, add);
    case OpKind::resize:
      return kernels_.resize_backward(*device_, resize_shape(program_.graph, shapes, step.node), shapes.type, dy, dx,
                                      add);
    default: throw Error("NATIVE_ERROR", "no backward for node " + node_of(step).name);
  }
}

void Executor::backward_conv(const Step& step, const StepGradient& writes) {
  const Node& node = node_of(step);
  const ConvShape shape = conv_shape(program_.graph, program_.shapes, step.node);
  const DType type = program_.shapes.type;
  const void* x = value(step.inputs[0]);
  const void* dy = gradient(step.output);
  const int weight = node.parameters[conv_weight];
  const auto weights = node.groups > 1 ? kernels_.depthwise_backward_weight : kernels_.conv_backward_weight;
  weights(*device_, shape, type, x, dy, parameters_.gradient(weight),
          node.has_bias() ? parameters_.gradient(node.parameters[conv_bias]) : nullptr);
  if (!wanted(writes.inputs[0])) return;
  const auto run = node.groups > 1 ? kernels_.depthwise_backward_data : kernels_.conv_backward_data;
  run(*device_, shape, type, dy, parameters_.operand(weight), gradient(step.inputs[0]), adds(writes.inputs[0]));
}

void Executor::backward_norm(const Step& step, const StepGradient& writes) {
  const Node& node = node_of(step);
  const NormNumbers numbers = norm_numbers(step.node);
  const bool residual_matters = step.residual >= 0 && backward_reads_residual(step);
  NormBackward arguments{};
  arguments.x = value(step.inputs[0]);
  arguments.residual = residual_matters ? value(step.residual) : nullptr;
  arguments.dy = gradient(step.output);
  arguments.gamma = parameters_.value(node.parameters[norm_weight]);
  arguments.beta = parameters_.value(node.parameters[norm_bias]);
  arguments.mean = numbers.mean;
  arguments.rstd = numbers.rstd;
  arguments.d_gamma = parameters_.gradient(node.parameters[norm_weight]);
  arguments.d_beta = parameters_.gradient(node.parameters[norm_bias]);
  arguments.dx = gradient(step.inputs[0]);
  arguments.accumulate_dx = adds(writes.inputs[0]);
  arguments.d_residual = computed(writes.residual) ? gradient(step.residual) : nullptr;
  arguments.accumulate_residual = adds(writes.residual);
  kernels_.norm_act_backward(*device_,
                             {program_.shapes.rows(step.output), program_.shapes.values[size_t(step.output)].stored,
                              node.eps, node.momentum, step.act},
                             program_.shapes.type, arguments);
}

void Executor::backward_scale(const Step& step, const StepGradient& writes) {
  const DropShape drop = step.drop >= 0 ? drop_shape(step.drop, step.output) : DropShape{};
  const int weight = node_of(step).parameters[0], input = step.inputs[0];
  kernels_.layer_scale_backward(*device_, rows_shape(step.output), program_.shapes.type, value(input),
                                parameters_.value(weight), step.drop >= 0 ? &drop : nullptr, gradient(step.output),
                                gradient(input), adds(writes.inputs[0]), parameters_.gradient(weight));
  if (step.residual >= 0) pass_on(step.output, step.residual, writes.residual);
}

void Executor::backward_add(const Step& step, const StepGradient& writes) {
  for (size_t i = 0; i < step.inputs.size(); ++i) pass_on(step.output, step.inputs[i], writes.inputs[i]);
}

// The gradient of `from` reaches `to` as it is.
void Executor::pass_on(int from, int to, GradientWrite write) {
  const void* dy = gradient(from);
  if (write == GradientWrite::accumulate) {
    kernels_.add_forward(*device_, program_.shapes.stored_elements(from), program_.shapes.type, gradient(to), dy,
                         gradient(to));
  } else if (write == GradientWrite::write) {
    device_->copy(gradient(to), dy, program_.shapes.bytes(from));
  }
}

}  // namespace lgd
