#include "core/step_graph.h"

#include <algorithm>
#include <utility>

#include "core/cuda_streams.h"

namespace lgd {

StepGraph::~StepGraph() { drop(); }

void StepGraph::drop() noexcept {
  if (graph) cuda::destroy_graph(std::exchange(graph, nullptr));
}

GraphWay StepGraph::usual_way(const GraphChoices& choices) const {
  return {choices.programmatic && !serialized, false, false};
}

// How the tape may run, as usual first.
std::vector<GraphWay> StepGraph::ways(const Tape& tape, const GraphChoices& choices) const {
  std::vector<GraphWay> all{usual_way(choices)};
  const auto twice = [&](bool GraphWay::* choice) {
    for (size_t i = 0, count = all.size(); i < count; ++i) {
      all.push_back(all[i]);
      all.back().*choice = !(all.back().*choice);
    }
  };
  if (!choices.tuned) return all;
  if (all[0].programmatic) twice(&GraphWay::programmatic);
  if (tape.branches()) twice(&GraphWay::in_order);
  if (choices.carveouts) twice(&GraphWay::one_carveout);
  return all;
}

bool StepGraph::is_due() { return steps_to_pass_ == 0 || --steps_to_pass_ == 0; }

bool StepGraph::launch(const Tape& tape, const GraphChoices& choices, void* stream) {
  const bool repeated = graph && tape.has_shape_of(built);
  const GraphWay usual = usual_way(choices);
  GraphWay chosen = tuner.done() ? tuner.found().value_or(usual) : tuner.next(ways(tape, choices), repeated);
  const bool tuned = repeated && chosen != way;
  bool ready = repeated && !tuned && take_over(tape);
  counts.instantiated += !ready && !tuned;
  bool other_refused = false, early_refused = false;
  for (;; ready = false) {
    try {
      launch_as(tape, chosen, ready, stream);
      break;
    } catch (const cuda::Refusal& refusal) {
      if (chosen != usual && !early_refused) {  // another way that is tried, or was found
        other_refused = true;
        chosen = usual;
      } else if (chosen.programmatic) {
        early_refused = true;
        chosen.programmatic = false;
      } else {  // in any way: it was neither the tuner's nor the early starts
        drop();
        refused = refusal.what();
        serialized = false;
        steps_to_pass_ = pause_;
        pause_ = std::min(2 * pause_, longest_pause);
        return false;
      }
    }
  }
  if (other_refused) tuner.refuse();
  if (early_refused) {
    tuner.settle();
    serialized = true;
  }
  return true;
}

// ready: the graph is there, with the tape's arguments.
void StepGraph::launch_as(const Tape& tape, const GraphWay& chosen, bool ready, void* stream) {
  if (!ready) {
    drop();
    if (tape.size() == 0) return;
    graph = cuda::build_graph(tape, chosen);
    way = chosen;
    counts.programmatic = 0;
    for (size_t i = 0; i < tape.size(); ++i)
      counts.programmatic += way.programmatic && tape.may_start_early(i, way.in_order);
    counts.changed = int64_t(tape.size());
  }
  tuner.begin(stream);
  cuda::launch_graph(graph, stream);
}

void StepGraph::launched(Tape& tape, void* stream) {
  counts.nodes = int64_t(tape.size());
  ++counts.launched;
  pause_ = first_pause;
  std::swap(tape, built);
  tape.clear();
  tuner.end(stream);
}

// Sets in the graph, of the same shape, what differs from the time before; false: the driver cannot, and the graph must
// be built anew.
bool StepGraph::take_over(const Tape& tape) {
  counts.changed = 0;
  for (size_t i = 0; i < tape.size(); ++i) {
    if (tape.has_work_of(built, i)) continue;
    if (!cuda::change_graph(graph, i, tape[i])) return false;
    ++counts.changed;
  }
  return true;
}

}  // namespace lgd
