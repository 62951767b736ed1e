// One arena for all values and gradients. Time runs over the forward steps, the output, and the backward steps; each
// buffer lives from its first write to its last read, and two buffers share bytes only when their lives do not meet.
// Rotary positions turn a value where it lies, if nothing reads it later.
#include <algorithm>
#include <numeric>

#include "graph/program.h"

namespace lgd {
namespace {

constexpr size_t alignment = 256;
size_t aligned(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

// Greedy: the largest buffers first, each into the smallest gap that holds it between the buffers alive with it.
std::vector<int64_t> place(const std::vector<Life>& lives, size_t& total) {
  std::vector<size_t> order(lives.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return lives[a].bytes > lives[b].bytes; });
  std::vector<int64_t> offsets(lives.size(), nowhere);
  std::vector<size_t> placed;  // by offset
  total = 0;
  for (const size_t buffer : order) {
    const Life& life = lives[buffer];
    if (life.first < 0) continue;
    size_t end = 0, best = SIZE_MAX, best_gap = SIZE_MAX;
    for (const size_t other : placed) {
      if (!lives[other].meets(life)) continue;
      const size_t start = size_t(offsets[other]);
      if (start >= end + life.bytes && start - end < best_gap) best = end, best_gap = start - end;
      end = std::max(end, start + lives[other].bytes);
    }
    const size_t offset = best == SIZE_MAX ? end : best;
    offsets[buffer] = int64_t(offset);
    total = std::max(total, offset + life.bytes);
    placed.insert(std::upper_bound(placed.begin(), placed.end(), buffer,
                                   [&](size_t a, size_t b) { return offsets[a] < offsets[b]; }),
                  buffer);
  }
  return offsets;
}

class Lives {
 public:
  explicit Lives(const Program& program)
      : program_(program),
        steps_(int(program.steps.size())),
        values(program.shapes.values.size()),
        gradients(program.shapes.values.size()) {
    for (size_t v = 0; v < values.size(); ++v)
      values[v].bytes = gradients[v].bytes = aligned(program.shapes.bytes(int(v)));
    for (int i = 0; i < steps_; ++i) forward(program.steps[size_t(i)], i);
    for (const int output : program.outputs) read(output, steps_);
    if (!program.training) return;
    for (const int output : program.outputs) touch_gradient(output, steps_);
    for (int i = steps_ - 1; i >= 0; --i)
      if (program.gradients.steps[size_t(i)].needed)
        backward(program.steps[size_t(i)], program.gradients.steps[size_t(i)], 2 * steps_ - i);
  }

 private:
  const Program& program_;
  const int steps_;

 public:
  std::vector<Life> values, gradients;  // by value; gradients by the value that owns the memory

 private:
  const Activation& activation(int value) const { return program_.activations[size_t(value)]; }

  // Reading a lazy activation reads what it is made of. The images are the caller's.
  void read(int value, int time) {
    const Activation& a = activation(value);
    if (!a.lazy()) {
      if (value != 0) values[size_t(value)].touch(time);
      return;
    }
    values[size_t(a.raw)].touch(time);
    if (a.gate >= 0) values[size_t(a.gate)].touch(time);
  }
  void touch_gradient(int value, int time) {
    if (const int owner = program_.gradients.storage[size_t(value)]; owner >= 0) gradients[size_t(owner)].touch(time);
  }

  void forward(const Step& step, int time) {
    for (const int input : step.inputs) read(input, time);
    if (step.residual >= 0) read(step.residual, time);
    if (step.kind != StepKind::gate || activation(step.output).stored) values[size_t(step.output)].touch(time);
    if (step.mean >= 0) values[size_t(step.mean)].touch(time);
    if (step.kind == StepKind::excitation) touch_layers(step, time);
    if (const int raw = activation(step.output).raw; step.kind == StepKind::linear && raw >= 0)
      values[size_t(raw)].touch(time);
  }

  void backward(const Step& step, const StepGradient& gradient, int time) {
    touch_gradient(gradient_source(program_, step), time);
    for (const int input : step.inputs) touch_gradient(input, time);
    if (step.residual >= 0) touch_gradient(step.residual, time);
    if (step.kind == StepKind::conv_norm) {
      values[size_t(step.output)].touch(time);
      if (const int gate = activation(step.activation).gate; gate >= 0) values[size_t(gate)].touch(time);
    } else if (step.kind == StepKind::join) {
      finishes(step.output, time);
      return;
    } else if (step.kind == StepKind::squeeze) {
      if (activation(step.inputs[0]).gated) values[size_t(gate_of(program_, step.inputs[0]))].touch(time);
      return;
    }
    if (step.kind == StepKind::excitation) touch_layers(step, time);
    if (gradient.finish_input) finishes(step.inputs[0], time);
    if (backward_reads_output(step)) values[size_t(step.output)].touch(time);
    if (!backward_reads_inputs(step)) return;
    for (const int input : step.inputs) read(input, time);
    if (step.residual >= 0 && backward_reads_residual(step)) read(step.residual, time);
  }

  // What an excitation's layers give before the activations.
  void touch_layers(const Step& step, int time) {
    for (const int node : {step.node, step.second}) values[size_t(node) + 1].touch(time);
  }

  // What act' and the norm's sums need of an activation.
  void finishes(int value, int time) {
    const Activation& a = activation(value);
    values[size_t(a.raw)].touch(time);
    if (a.joined && !a.inside && a.act != Act::none) values[size_t(value)].touch(time);
  }
};

// A step's input and output.
using InPlace = std::pair<size_t, size_t>;

// Gives the outputs of steps that work in place no buffer, and lets their inputs' live on.
std::vector<InPlace> join_in_place(const Program& program, std::vector<Life>& values) {
  std::vector<InPlace> joined;
  for (size_t i = 0; i < program.steps.size(); ++i) {
    const Step& step = program.steps[i];
    if (step.op != OpKind::rotary || step.inputs[0] == 0) continue;
    Life &in = values[size_t(step.inputs[0])], &out = values[size_t(step.output)];
    if (in.last != int(i)) continue;
    in.last = out.last;
    out = {};
    joined.emplace_back(step.inputs[0], step.output);
  }
  return joined;
}

}  // namespace

void plan_memory(Program& program) {
  Lives lives(program);
  const std::vector<InPlace> joined = join_in_place(program, lives.values);
  std::vector<Life> all = lives.values;
  all.insert(all.end(), lives.gradients.begin(), lives.gradients.end());
  const std::vector<int64_t> offsets = place(all, program.memory.bytes);
  const int64_t values = int64_t(lives.values.size());
  program.memory.value.assign(offsets.begin(), offsets.begin() + values);
  for (const auto& [in, out] : joined) program.memory.value[out] = program.memory.value[in];
  program.memory.gradient.assign(offsets.begin() + values, offsets.end());
  program.memory.lives = std::move(all);
}

}  // namespace lgd
