// The CUDA side of a device: which work goes to which stream, and when.
//
//   compute   everything, in order of submission
//   branch    what stands between begin_branch() and end_branch(): beside what follows it, until it is joined
//   upload    input sent ahead of the step that reads it
//
// A step (begin_step() to end_step()) is captured anew every time, and the executable graph of the time before takes over the new
// arguments (cudaGraphExecUpdate). A graph captured once would need everything that differs between steps (learning rate, seeds,
// slots, addresses of input) in device memory, a kernel that reads it there, and rules about what may differ; this way each of them
// is an ordinary argument, and a step that differs in shape is only instantiated again. It costs the host one or two microseconds a
// launch, on a thread that is a step ahead of the GPU; the GPU sees one launch a step, with branches side by side and no host
// between kernels.
//   - The first step of a StepGraph runs eagerly: scratch memory grows, and modules are loaded.
//   - What cannot be captured (a host wait, an allocation) interrupts: the work so far is launched as a graph of its own and the
//     rest of the step runs eagerly. A StepGraph whose steps are interrupted by waits again and again is captured no more.
//   - Input is sent outside the graph, by the upload stream, into buffers of which each lies idle for a turn: the copy for step n + 1
//     waits for step n - 1, which is done, and runs beside step n. The graph's launch waits for what the step reads.
//   - An error while capturing discards the step; so does the error's way to the caller (core/device.h).
// LGDISTILL_GRAPHS=0 runs every step eagerly, on the same streams.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "core/device.h"

namespace lgd {

// How the steps of a StepGraph ran. Every step is one of: eager, launched (as one graph), interrupted.
struct StepCounts {
  int64_t eager = 0, launched = 0, interrupted = 0;
  int64_t instantiated = 0;   // graphs whose shape was new
  int64_t nodes = 0;          // of the last graph
};

// Steps of the same kind share one. Device thread only; free to go at any time.
struct StepGraph {
  StepGraph() = default;
  ~StepGraph();
  StepGraph(const StepGraph&) = delete;
  StepGraph& operator=(const StepGraph&) = delete;

  void* executable = nullptr;
  bool warm = false;          // ran before
  int waits_in_a_row = 0;     // steps that a wait of the host interrupted
  StepCounts counts;
};

// All of it on the device's thread, but for defer_release().
class Timeline {
 public:
  explicit Timeline(Device& device);
  ~Timeline();
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  void from_host(void* device, const void* host, size_t bytes);
  void to_host(void* host, const void* device, size_t bytes);
  void synchronize();
  void* scratch(size_t bytes);
  void* stage(size_t bytes);
  const void* send(size_t bytes);

  void begin_branch();
  void end_branch();
  void join_branch();
  void begin_step(std::shared_ptr<StepGraph> graph);
  void end_step();
  void abandon_step() noexcept;   // after an error

  // The thread is about to do what a capture does not allow.
  void before_allocation() { interrupt(false); }
  void before_wait() { interrupt(true); }
  // Takes over memory that work held back may still use; false: there is none, free it at once. Thread-safe.
  bool defer_release(void* pointer);

  // Events that go through cuda::record_event() and cuda::wait_event() while this thread captures.
  void record_behind(void* event) { behind_.push_back(event); }
  bool is_behind(void* event) const;
  static Timeline* capturing();   // of this thread; null: it captures nothing

 private:
  // A piece of input: pinned memory and its twin on the device.
  struct Input {
    void *host = nullptr, *device = nullptr;
    size_t bytes = 0;
    void *arrived = nullptr, *consumed = nullptr;
    int64_t turn = 0;             // in which it was sent last
  };
  struct Scratch { void* data = nullptr; size_t bytes = 0; };

  void start_capture();
  void* finish_capture();
  void launch(void* executable);
  void launch_step(StepGraph& step);
  void interrupt(bool waits);
  void end_turn();
  void free_deferred() noexcept;
  Input& idle_input(size_t bytes);
  void grow(Input& input, size_t bytes);
  void upload_staged(void* device, const char* host, size_t bytes);

  Device& device_;
  const bool graphs_wanted_;
  void *compute_, *branch_, *upload_;
  void *forked_event_, *joined_event_;
  bool forked_ = false;                      // the branch has work that nobody waited for
  std::shared_ptr<StepGraph> step_;          // open
  bool eager_ = false, capturing_ = false;   // the open step: was never captured; is being captured
  std::vector<void*> behind_;                // events to be recorded behind the work held back
  std::mutex deferred_mutex_;
  std::atomic<bool> holds_back_{false};      // from the capture to the launch
  std::vector<void*> deferred_;              // memory to be freed then
  Scratch scratch_[2];                       // of compute, of branch
  std::deque<Input> inputs_;
  std::vector<Input*> in_use_;               // sent in this turn
  Input* staged_ = nullptr;
  int64_t turn_ = 2;
  // Pinned blocks for bytes that the caller may change at once, outside steps: the host fills one while the device reads the other.
  struct Block { void *data = nullptr, *event = nullptr; } blocks_[2];
  int next_block_ = 0;
};

}  // namespace lgd
