// What is kept of a step from one time to the next: the CUDA graph that it is, built once and launched every time.
//   - What a step enqueues is written down (core/tape.h) and compared with what the graph was built of. Of the same
//     kernels in the same order those arguments are set in the graph that have changed; anything else is a graph to be
//     built again.
//   - How a graph that is launched again and again runs best, it finds out itself (core/graph_tuner.h).
//   - A graph that the driver does not take, for want of memory or whatever else, costs nothing but time. It is built
//     in the usual way, and without early starts; where that is refused, too, some steps pass before one is tried
//     again, in the way that was found, and after each refusal twice as many: a lack of memory may pass.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/graph_tuner.h"
#include "core/tape.h"

namespace lgd {

// How the steps of a StepGraph ran. Every step is one of: eager (as the first, and those that the driver takes no graph
// of), launched (as one graph), interrupted.
struct StepCounts {
  int64_t eager = 0, launched = 0, interrupted = 0;
  int64_t instantiated = 0;  // graphs whose shape was new; not those that the tuner built of the same
  int64_t nodes = 0;         // of the last graph
  int64_t changed = 0;       // of them those whose arguments were set for its last launch; all, if it was built for it
  int64_t programmatic = 0;  // of them those that may start before the kernel that they come after ends
};

// What there is to choose from.
struct GraphChoices {
  bool programmatic;  // kernels may start early
  bool tuned;         // other ways are compared with the usual one
  bool carveouts;     // among them those with one carve-out for all kernels
};

// Steps of the same kind share one. Device thread only; free to go at any time.
struct StepGraph {
  StepGraph() = default;
  ~StepGraph();
  StepGraph(const StepGraph&) = delete;
  StepGraph& operator=(const StepGraph&) = delete;

  // Asked once as a step begins: is it to be a graph? Not for some steps after one was refused.
  bool is_due();
  // Launches a tape as this step's graph. False: the driver takes none, and nothing has started.
  bool launch(const Tape& tape, const GraphChoices& choices, void* stream);
  // What follows a launch: the graph is that tape's now, which is empty then.
  void launched(Tape& tape, void* stream);
  // Lets the graph go: the next launch builds one.
  void drop() noexcept;

  void* graph = nullptr;
  Tape built;    // what the graph holds
  GraphWay way;  // in which it was built
  GraphTuner tuner;
  bool warm = false;  // ran before
  int interrupted_in_a_row = 0;
  bool serialized = false;  // the driver took no graph whose kernels start early
  std::string refused;      // why it took no graph, the last time that it did not
  StepCounts counts;

 private:
  GraphWay usual_way(const GraphChoices& choices) const;
  std::vector<GraphWay> ways(const Tape& tape, const GraphChoices& choices) const;
  bool take_over(const Tape& tape);
  void launch_as(const Tape& tape, const GraphWay& way, bool ready, void* stream);

  int pause_ = first_pause, steps_to_pass_ = 0;  // steps after the next refusal, and after the last
  static constexpr int first_pause = 16, longest_pause = 1024;
};

}  // namespace lgd
