// Which way to run a step's graph takes the least time on the card at hand, found by the steps themselves.
//
// A graph's work leaves some choices that change nothing of its results but their time: whether kernels start early,
// whether a branch runs beside the other stream or before it, how multiprocessors divide their memory. What each gains
// depends on the card, the network and the batch: blocks that are there early take room from the branch, and a
// multiprocessor is not divided anew while blocks run on it. So a step that is repeated often enough runs in every way
// a few times, in turns, each launch timed by two events that nobody waits for; then the fastest stays. Training goes
// on meanwhile, with the same bits.
#pragma once
#include <cstddef>
#include <optional>
#include <vector>

namespace lgd {

struct GraphWay {
  // kernels start before the one that they come after ends, where they may (Tape::may_start_early())
  bool programmatic = false;
  bool in_order = false;      // one piece after the other as on the tape: a branch before what would run beside it
  bool one_carveout = false;  // all kernels prefer the same division of a multiprocessor's memory
  bool operator==(const GraphWay&) const = default;
};

// Of one StepGraph; device thread only.
class GraphTuner {
 public:
  struct Time {
    GraphWay way;
    double milliseconds;  // of a launch, the median
  };

  GraphTuner() = default;
  ~GraphTuner() { forget(); }
  GraphTuner(const GraphTuner&) = delete;
  GraphTuner& operator=(const GraphTuner&) = delete;

  // Until it is done, the way of the next launch. ways: those to choose from, the usual one first. repeated: the launch
  // has the shape of the one before; others, whose graph is new, are not timed.
  GraphWay next(const std::vector<GraphWay>& ways, bool repeated);
  // The driver did not build the graph in the way that next() named: the others are compared, from the beginning.
  void refuse();
  // Nothing is compared, now or later: the usual way stays.
  void settle();
  // Around the launch on a stream. Where an event for its time is refused, nothing is compared any more.
  void begin(void* stream);
  void end(void* stream);

  // Of each way, the usual one first; empty until all were compared, and for good where there is nothing to choose.
  const std::vector<Time>& times() const { return times_; }
  bool done() const { return stage_ == Stage::settled; }
  // Once it is done, the way that stays; none: the usual one.
  std::optional<GraphWay> found() const { return times_.empty() ? std::nullopt : std::optional(ways_[way_]); }

 private:
  enum class Stage { waiting, measuring, reading, settled };
  struct Sample {
    size_t way = 0;
    void *begin = nullptr, *end = nullptr;
  };

  template <class Body>
  void or_give_up(Body&& body);
  bool read();
  void forget();

  Stage stage_ = Stage::waiting;
  std::vector<GraphWay> ways_;
  std::vector<Sample> samples_;
  Sample open_;  // of a launch that is under way, or failed
  std::vector<Time> times_;
  size_t way_ = 0, launches_ = 0;  // of ways_; in this stage
  bool timed_ = false;             // the launch under way
};

}  // namespace lgd
