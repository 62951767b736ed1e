#include <algorithm>

#include "graph/executor.h"
#include "ops/kernels.h"

namespace lgd {

static constexpr int numbers_of_norm = 7;  // members of NormNumbers

static ConvSumShape sum_shape(const Program& program, const Step& step) {
  const auto channels = [&](int value) { return program.shapes.values[size_t(value)].stored; };
  return {program.shapes.rows(step.output), channels(step.inputs[0]), channels(step.inputs[1]), channels(step.output)};
}

Executor::Executor(const DevicePtr& device, const Program& program, ParameterTable& parameters)
    : device_(device),
      kernels_(*device->kernels),
      program_(program),
      parameters_(parameters),
      arena_(device, program.memory.bytes) {
  int64_t floats = 0, widest = 0, gates = 0;
  for (size_t i = 0; i < program.graph.nodes.size(); ++i) {
    const bool norm = program.graph.nodes[i].op == OpKind::batch_norm;
    const int channels = program.shapes.values[i + 1].stored;
    norm_offsets_.push_back(norm ? floats : nowhere);
    if (!norm) continue;
    floats += numbers_of_norm * int64_t(channels);
    widest = std::max<int64_t>(widest, channels);
  }
  for (const Step& step : program.steps)
    if (step.kind == StepKind::gate)
      gates = std::max(gates, 5 * int64_t(program.shapes.batch) * program.shapes.values[size_t(step.output)].stored);
  const bool layers = std::any_of(program.steps.begin(), program.steps.end(),
                                  [](const Step& step) { return step.kind == StepKind::conv_norm; });
  int64_t bytes = 0;
  sum_offsets_.assign(program.graph.nodes.size(), nowhere);
  for (const Step& step : program.steps) {
    if (!step.adds_convolution()) continue;
    sum_offsets_[size_t(step.node)] = bytes;
    const ConvSumShape shape = sum_shape(program, step);
    bytes += (shape.k * 4 + shape.weights() * int64_t(size_of(program.shapes.type)) + 255) / 256 * 256;
  }
  if (bytes > 0) sums_ = Buffer(device, size_t(bytes));
  if (program.shapes.widens_images || program.shapes.rounds) taken_ = Buffer(device, program.shapes.bytes(0));
  if (floats > 0) norms_ = Buffer(device, size_t(floats) * 4);
  if (layers) discarded_ = Buffer(device, size_t(4 * widest) * 4);
  if (gates > 0) gates_ = Buffer(device, size_t(gates) * 4);
}

void* Executor::value(int number) const {
  return number == 0 ? const_cast<void*>(images_) : arena_.as<char>() + program_.memory.value[size_t(number)];
}

Executor::NormNumbers Executor::norm_numbers(int node) const {
  float* numbers = norms_.as<float>() + norm_offsets_[size_t(node)];
  const int channels = program_.shapes.values[size_t(node) + 1].stored;
  const auto part = [&](int i) { return numbers + i * channels; };
  return {part(0), part(1), part(2), part(3), part(4), part(5), part(6)};
}

void Executor::fold_norms() {
  for (size_t i = 0; i < program_.graph.nodes.size(); ++i) {
    const Node& node = program_.graph.nodes[i];
    if (node.op != OpKind::batch_norm) continue;
    const NormNumbers numbers = norm_numbers(int(i));
    const auto parameter = [&](NormParameter which) { return parameters_.value(node.parameters[which]); };
    kernels_.norm_fold(*device_, program_.shapes.values[i + 1].stored, node.eps, parameter(norm_weight),
                       parameter(norm_bias), parameter(norm_mean), parameter(norm_var), numbers.scale, numbers.shift);
  }
  fold_sums();
  folded_ = device_->lost();
}

Executor::Sum Executor::sum_of(const Step& step) const {
  const ConvSumShape shape = sum_shape(program_, step);
  char* begin = sums_.as<char>() + sum_offsets_[size_t(step.node)];
  return {shape, reinterpret_cast<float*>(begin), begin + shape.k * 4};
}

void Executor::fold_sums() {
  for (const Step& step : program_.steps) {
    if (!step.adds_convolution()) continue;
    const auto folded = [&](int conv, int norm) {
      const NormNumbers numbers = norm_numbers(norm);
      return FoldedConv{parameters_.value(program_.graph.nodes[size_t(conv)].parameters[conv_weight]), numbers.scale,
                        numbers.shift};
    };
    const auto [shape, shift, w] = sum_of(step);
    kernels_.conv_sum_fold(*device_, shape, program_.shapes.type, folded(step.node, step.norm),
                           folded(step.second, step.second_norm), w, shift);
  }
}

const void* Executor::take_images(const void* images) {
  const Shapes& shapes = program_.shapes;
  if (shapes.rounds)
    kernels_.cast(*device_, shapes.stored_elements(0), DType::bf16, static_cast<const float*>(images), taken_.as<>());
  if (shapes.widens_images) kernels_.widen_images(*device_, shapes.rows(0), shapes.type, images, taken_.as<>());
  return taken_ ? taken_.as<>() : images;
}

void Executor::round_value(int number) {
  if (!program_.shapes.rounds || program_.memory.value[size_t(number)] == nowhere) return;
  kernels_.cast(*device_, program_.shapes.stored_elements(number), DType::bf16, static_cast<float*>(value(number)),
                value(number));
}

void Executor::forward(const void* images, float* output, const ForwardOptions& options) {
  device_->restart_turns();
  images_ = take_images(images);
  options_ = options;
  if (options.training) folded_ = -1;  // the running statistics move
  else if (folded_ != device_->lost()) fold_norms();
  const int steps = int(program_.steps.size());
  pass(-1);
  for (int i = 0; i < steps; ++i) {
    const Step& step = program_.steps[size_t(i)];
    forward_step(step);
    round_value(step.output);
    pass(i);
  }
  for (const int number : program_.outputs) {
    const ValueShape& shape = program_.shapes.values[size_t(number)];
    kernels_.unpack_output(*device_, program_.shapes.rows(number), shape.c, shape.stored, program_.shapes.type,
                           value(number), output);
    output += program_.shapes.rows(number) * shape.c;
  }
  if (!program_.training) pass(steps);
}

void Executor::pass(int time) {
  const MemoryPlan& memory = program_.memory;
  for (size_t i = 0; memory.clears && i < memory.lives.size(); ++i) {
    const Life& life = memory.lives[i];
    const int64_t offset = i < memory.value.size() ? memory.value[i] : memory.gradient[i - memory.value.size()];
    if (offset != nowhere && (life.last == time || life.first == time + 1))
      device_->zero(arena_.as<char>() + offset, life.bytes);
  }
}

void Executor::forward_step(const Step& step) {
  if (step.kind != StepKind::node) return forward_layer(step);
  const Shapes& shapes = program_.shapes;
  const int first = step.inputs[0];
  const ValueShape& in = shapes.values[size_t(first)];
  const void* x = value(first);
  void* y = value(step.output);
  switch (step.op) {
    case OpKind::conv:
    case OpKind::linear: return forward_conv(step);
    case OpKind::batch_norm: return forward_norm(step);
    case OpKind::layer_scale: return forward_scale(step);
    case OpKind::dropout:
    case OpKind::stochastic_depth: return forward_drop(step);
    case OpKind::tokens:
    case OpKind::first_token:
    case OpKind::query_attention:
    case OpKind::repeat:
    case OpKind::positions:
    case OpKind::words:
    case OpKind::self_attention:
    case OpKind::rotary:
    case OpKind::swiglu:
    case OpKind::end_token: return forward_sequence(step);
    case OpKind::layer_norm: {
      const std::vector<int>& parameters = node_of(step).parameters;
      return kernels_.layer_norm_forward(*device_, layer_norm_shape(step), shapes.type, x,
                                         parameters_.value(parameters[norm_weight]),
                                         parameters_.value(parameters[norm_bias]), y);
    }
    case OpKind::activation:
      return kernels_.act_forward(*device_, shapes.stored_elements(step.output), shapes.type, step.act, x, y);
    case OpKind::add:
      return kernels_.add_forward(*device_, shapes.stored_elements(step.output), shapes.type, x, value(step.inputs[1]),
                                  y);
    case OpKind::channel_scale:
      return kernels_.channel_scale_forward(*device_, {shapes.batch, in.pixels(), in.stored}, shapes.type, x,
                                            value(step.inputs[1]), y);
    case OpKind::max_pool:
      return kernels_.max_pool_forward(*device_, pool_shape(program_.graph, shapes, step.node), shapes.type, x, y);
    case OpKind::avg_pool:
      return kernels_.avg_pool_forward(*device_, pool_shape(program_.graph, shapes, step.node), shapes.type, x, y);
    case OpKind::global_pool:
      return kernels_.global_pool_forward(*device_, shapes.batch, in.pixels(), in.stored, shapes.type, x, y);
    case OpKind::resize:
      return kernels_.resize_forward(*device_, resize_shape(program_.graph, shapes, step.node), shapes.type, x, y);
  }
}

void Executor::forward_conv_sum(const Step& step) {
  const auto [shape, shift, w] = sum_of(step);
  kernels_.conv_sum_forward(*device_, shape, program_.shapes.type, value(step.inputs[0]), value(step.inputs[1]), w,
                            shift, step.act, value(step.output));
}

void Executor::forward_conv(const Step& step) {
  if (step.adds_convolution()) return forward_conv_sum(step);
  const Node& node = node_of(step);
  Epilogue epilogue;
  epilogue.act = step.act;
  if (step.mean >= 0) epilogue.mean = value(step.mean);
  if (step.residual >= 0) epilogue.residual = value(step.residual);
  if (step.norm >= 0) {
    const NormNumbers numbers = norm_numbers(step.norm);
    epilogue.scale = numbers.scale;
    epilogue.shift = numbers.shift;
  } else if (node.has_bias()) {
    epilogue.shift = parameters_.value(node.parameters[conv_bias]);
  }
  const auto run = node.groups > 1 ? kernels_.depthwise_forward : kernels_.conv_forward;
  run(*device_, conv_shape(program_.graph, program_.shapes, step.node), program_.shapes.type, value(step.inputs[0]),
      parameters_.operand(node.parameters[conv_weight]), epilogue,
      step.mean == step.output ? nullptr : value(step.output));
}

void Executor::forward_norm(const Step& step) {
  const Node& node = node_of(step);
  const NormNumbers numbers = norm_numbers(step.node);
  const int64_t rows = program_.shapes.rows(step.output);
  const int channels = program_.shapes.values[size_t(step.output)].stored;
  const void* x = value(step.inputs[0]);
  const void* residual = step.residual >= 0 ? value(step.residual) : nullptr;
  if (!options_.training) {
    kernels_.affine_act_forward(*device_, rows, channels, program_.shapes.type, x, numbers.scale, numbers.shift,
                                residual, step.act, value(step.output));
    return;
  }
  const auto parameter = [&](NormParameter which) { return parameters_.value(node.parameters[which]); };
  kernels_.norm_act_forward(*device_, {rows, channels, node.eps, node.momentum, step.act}, program_.shapes.type,
                            {x, residual, parameter(norm_weight), parameter(norm_bias), parameter(norm_mean),
                             parameter(norm_var), numbers.mean, numbers.rstd, value(step.output)});
}

LayerNormShape Executor::layer_norm_shape(const Step& step) const {
  return {program_.shapes.rows(step.output), program_.shapes.values[size_t(step.output)].stored, node_of(step).eps};
}

DropShape Executor::drop_shape(int node, int value) const {
  const Node& drop = program_.graph.nodes[size_t(node)];
  const int64_t count = program_.shapes.stored_elements(value);
  if (drop.op == OpKind::stochastic_depth)
    return {count, count / program_.shapes.batch, drop.p, options_.seed, options_.step, node};
  const ValueShape& shape = program_.shapes.values[size_t(value)];
  return {count, 1, drop.p, options_.seed, options_.step, node, shape.c, shape.stored};
}

void Executor::forward_scale(const Step& step) {
  const bool drops = step.drop >= 0 && options_.training;
  const DropShape drop = drops ? drop_shape(step.drop, step.output) : DropShape{};
  kernels_.layer_scale_forward(*device_, rows_shape(step.output), program_.shapes.type, value(step.inputs[0]),
                               parameters_.value(node_of(step).parameters[0]), drops ? &drop : nullptr,
                               step.residual >= 0 ? value(step.residual) : nullptr, value(step.output));
}

void Executor::forward_drop(const Step& step) {
  if (options_.training)
    kernels_.drop_forward(*device_, drop_shape(step.node, step.output), program_.shapes.type, value(step.inputs[0]),
                          value(step.output));
  else device_->copy(value(step.output), value(step.inputs[0]), program_.shapes.bytes(step.output));
}

}  // namespace lgd
