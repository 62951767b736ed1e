#include "graph/executor.h"
#include "ops/kernels.h"

namespace lgd {

// Attention pooling and transformers, most of it in forward-only plans.
void Executor::forward_sequence(const Step& step) {
  const Node& node = node_of(step);
  const Shapes& shapes = program_.shapes;
  const ValueShape &in = shapes.values[size_t(step.inputs[0])], &out = shapes.values[size_t(step.output)];
  const int count = int(in.pixels()), batch = shapes.batch;
  const void* x = value(step.inputs[0]);
  void* y = value(step.output);
  const auto operand = [&](size_t i) -> const void* { return value(step.inputs[i]); };
  const auto table = [&](size_t i) -> const float* { return parameters_.value(node.parameters[i]); };
  switch (step.op) {
    case OpKind::tokens: return kernels_.tokens_forward(*device_, batch, count, in.stored, shapes.type, x, table(0), y);
    case OpKind::first_token: return kernels_.first_token_forward(*device_, batch, count, in.stored, shapes.type, x, y);
    case OpKind::query_attention: {
      const ValueShape& of = shapes.values[size_t(step.inputs[1])];
      const int tokens = int(of.pixels());
      if (step.second >= 0) {
        const std::vector<int>&keys = program_.graph.nodes[size_t(step.second)].parameters,
              &values = program_.graph.nodes[size_t(step.third)].parameters;
        return kernels_.absorbed_attention_forward(
            *device_, {batch, tokens, of.stored, node.heads}, shapes.type, x, operand(1),
            parameters_.operand(keys[conv_weight]), parameters_.operand(values[conv_weight]),
            values.size() > conv_bias ? parameters_.value(values[conv_bias]) : nullptr, y);
      }
      return kernels_.query_attention_forward(*device_, {batch, tokens, in.stored, node.heads}, shapes.type, x,
                                              operand(1), operand(2), y);
    }
    case OpKind::repeat: return kernels_.repeat_forward(*device_, batch, out.stored, shapes.type, table(0), y);
    case OpKind::positions:
      return kernels_.positions_forward(*device_, {batch, out.h, out.stored}, shapes.type, node.first, x, table(0),
                                        node.parameters.size() > 1 ? table(1) : nullptr, y);
    case OpKind::words:
      return kernels_.words_forward(*device_, {batch, out.h, out.stored}, shapes.type, in.stored,
                                    int(program_.graph.parameters[size_t(node.parameters[0])].shape[0]), x, table(0),
                                    table(1), y);
    case OpKind::self_attention:
      return kernels_.self_attention_forward(*device_, {batch, in.h, out.stored, node.heads, node.causal != 0},
                                             shapes.type, x, y);
    case OpKind::rotary:
      return kernels_.rotary_forward(*device_, {batch, in.h, in.stored / 3, node.heads, node.first}, shapes.type, x,
                                     table(0), y);
    case OpKind::swiglu:
      return kernels_.swiglu_forward(*device_, shapes.rows(step.output), out.stored, shapes.type, x, y);
    case OpKind::end_token:
      return kernels_.end_token_forward(*device_, {batch, in.h, in.stored}, shapes.type,
                                        shapes.values[size_t(step.inputs[1])].stored, node.id, x, operand(1), y);
    default: throw Error("NATIVE_ERROR", "unreachable operation");
  }
}

void Executor::backward_sequence(const Step& step, const StepGradient& writes) {
  const Node& node = node_of(step);
  const Shapes& shapes = program_.shapes;
  const ValueShape &in = shapes.values[size_t(step.inputs[0])], &out = shapes.values[size_t(step.output)];
  const int batch = shapes.batch;
  const bool wanted = writes.inputs[0] != GradientWrite::none, add = writes.inputs[0] == GradientWrite::accumulate;
  const void* dy = gradient(step.output);
  void* dx = wanted ? gradient(step.inputs[0]) : nullptr;
  if (step.op == OpKind::positions)
    return kernels_.positions_backward(*device_, {batch, out.h, out.stored}, shapes.type, node.first, dy, dx, add,
                                       parameters_.gradient(node.parameters[0]),
                                       node.parameters.size() > 1 ? parameters_.gradient(node.parameters[1]) : nullptr);
  if (!wanted) return;
  if (step.op == OpKind::first_token)
    return kernels_.first_token_backward(*device_, batch, int(in.pixels()), in.stored, shapes.type, dy, dx, add);
  kernels_.self_attention_backward(*device_, {batch, in.h, out.stored, node.heads, node.causal != 0}, shapes.type,
                                   value(step.inputs[0]), value(step.output), dy, dx, add);
}

}  // namespace lgd
