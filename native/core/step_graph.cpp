#include "core/step_graph.h"

#include <utility>

#include "core/cuda_streams.h"

namespace lgd {

StepGraph::~StepGraph() { drop(); }

void StepGraph::drop() noexcept {
  if (graph) cuda::destroy_graph(std::exchange(graph, nullptr));
}

bool StepGraph::launch(const Tape& tape, bool programmatic, void* stream) {
  if (tape.size() == 0) return drop(), true;  // nothing to start
  programmatic = programmatic && !serialized;
  bool ready = graph && programmatic == programmatic_ && tape.has_shape_of(built) && take_over(tape);
  counts.instantiated += !ready;
  for (;; ready = false) {
    try {
      if (!ready) build(tape, programmatic);
      cuda::launch_graph(graph, stream);
      return true;
    } catch (const cuda::Refusal& refusal) {
      if (!programmatic) {
        drop();
        refused = refusal.what();
        return false;
      }
      programmatic = false;
      serialized = true;
    }
  }
}

void StepGraph::build(const Tape& tape, bool programmatic) {
  drop();
  graph = cuda::build_graph(tape, programmatic);
  programmatic_ = programmatic;
  counts.programmatic = 0;
  for (size_t i = 0; i < tape.size(); ++i) counts.programmatic += programmatic && tape.may_start_early(i);
  counts.changed = int64_t(tape.size());
}

void StepGraph::launched(Tape& tape) {
  counts.nodes = int64_t(tape.size());
  ++counts.launched;
  std::swap(tape, built);
  tape.clear();
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
