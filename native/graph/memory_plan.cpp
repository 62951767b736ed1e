// One arena for all values and gradients. Time runs over the forward steps, the output, and the backward steps; each buffer lives
// from its first write to its last read, and two buffers share bytes only when their lives do not meet.
#include <algorithm>
#include <numeric>

#include "graph/program.h"

namespace lgd {
namespace {

struct Life {
  int first = -1, last = -1;
  size_t bytes = 0;
  void touch(int time) {
    if (first < 0) first = time;
    last = std::max(last, time);
  }
  bool meets(const Life& other) const { return first <= other.last && other.first <= last; }
};

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

// Lives of values: written by their step, read by later ones, by the output, and by backward.
void live_values(const Program& program, std::vector<Life>& lives) {
  const int steps = int(program.steps.size());
  for (int i = 0; i < steps; ++i) {
    const Step& step = program.steps[size_t(i)];
    const bool backward = program.training && program.gradients.steps[size_t(i)].needed;
    const int backward_time = 2 * steps - i;
    for (const int input : step.inputs) {
      lives[size_t(input)].touch(i);
      if (backward && backward_reads_inputs(step)) lives[size_t(input)].touch(backward_time);
    }
    if (step.residual >= 0) {
      lives[size_t(step.residual)].touch(i);
      if (backward && backward_reads_residual(step)) lives[size_t(step.residual)].touch(backward_time);
    }
    lives[size_t(step.output)].touch(i);
  }
  lives[size_t(program.output)].touch(steps);
  lives[0] = Life{};  // the images are the caller's
}

// Lives of gradients, by the value that owns the memory: written at a reader's backward, read at the maker's.
void live_gradients(const Program& program, std::vector<Life>& lives) {
  const int steps = int(program.steps.size());
  const GradientPlan& plan = program.gradients;
  const auto touch = [&](int value, int time) {
    if (const int owner = plan.storage[size_t(value)]; owner >= 0) lives[size_t(owner)].touch(time);
  };
  touch(program.output, steps);
  for (int i = steps - 1; i >= 0; --i) {
    const Step& step = program.steps[size_t(i)];
    if (!plan.steps[size_t(i)].needed) continue;
    for (const int input : step.inputs) touch(input, 2 * steps - i);
    if (step.residual >= 0) touch(step.residual, 2 * steps - i);
    touch(step.output, 2 * steps - i);
  }
}

}  // namespace

void plan_memory(Program& program) {
  const size_t values = program.shapes.values.size();
  std::vector<Life> lives(values), gradients(values);
  for (size_t v = 0; v < values; ++v) lives[v].bytes = gradients[v].bytes = aligned(program.shapes.bytes(int(v)));
  live_values(program, lives);
  if (program.training) live_gradients(program, gradients);
  lives.insert(lives.end(), gradients.begin(), gradients.end());
  const std::vector<int64_t> offsets = place(lives, program.memory.bytes);
  program.memory.value.assign(offsets.begin(), offsets.begin() + int64_t(values));
  program.memory.gradient.assign(offsets.begin() + int64_t(values), offsets.end());
}

}  // namespace lgd
