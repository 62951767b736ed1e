// The CUDA side of a device: which work goes to which stream, and when.
//
//   compute   everything, in order of submission
//   branch    what stands between begin_branch() and end_branch(): beside what follows it, until it is joined
//   upload    input sent ahead of the step that reads it
//
// A step (begin_step() to end_step()) is one CUDA graph, built once and launched every time (core/step_graph.h). What
// the step enqueues is only written down (core/tape.h) and compared with what the graph was built of: as a rule the
// same kernels in the same order, of which some have other arguments (learning rate, seeds, slots, addresses of input),
// and these are set in the graph. So everything that differs between steps stays an ordinary argument, none of it has
// to be read from device memory by a kernel, and a step of another shape (accumulation, a queue that fills) is only a
// graph to be built again. The driver hears of the arguments that changed and of one launch a step; the GPU sees
// branches side by side and no host between kernels.
//   - The first step of a StepGraph is held back, too, but started piece by piece: most memory is allocated there, and
//     where some is refused nothing of the step has moved; and one that runs once needs no graph.
//   - A wait of the host interrupts: what was written down so far is enqueued at once, and so is the rest of the step.
//     A StepGraph whose steps are interrupted again and again is written down no more, until one has run without a
//     wait.
//   - Memory may be allocated in the middle; what is freed there is kept until the step is launched.
//   - Input is sent outside the graph, by the upload stream, into buffers of which each lies idle for a turn: the copy
//     for step n + 1 waits for step n - 1, which is done, and runs beside step n. The graph's launch waits for what the
//     step reads.
//   - Where the device has programmatic dependent launches, a kernel behind one other kernel is started as soon as all
//     blocks of that one are, and waits for its end itself: every kernel begins with wait_for_inputs(), which also lets
//     the next one start. So what a start costs passes while the kernel before runs. A kernel that ends has waited for
//     all before it, so chains need nothing more. Copies, fills, and what comes after two streams wait for the end as
//     ever.
//   - A step whose graph the driver does not take is started piece by piece, and so is each after it.
//   - An error of work that nobody waits for discards the step that is open, whosever it is: Device::lost() tells of
//     it.
// LGDISTILL_GRAPHS=0 runs every step eagerly, on the same streams.
#pragma once
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "core/cuda_streams.h"
#include "core/device.h"
#include "core/step_graph.h"
#include "core/tape.h"

namespace lgd {

bool is_wanted(const char* variable);  // of the environment: it says anything but 0, or nothing

// All of it on the device's thread, but for defer_release().
class Timeline {
 public:
  explicit Timeline(Device& device);
  ~Timeline();
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  void launch(const Launch& launch);
  void copy(void* to, const void* from, size_t bytes);
  void zero(void* device, size_t bytes);
  void from_host(void* device, const void* host, size_t bytes);
  void to_host(void* host, const void* device, size_t bytes);
  void synchronize();
  void* scratch(size_t bytes);
  void* stage(size_t bytes);
  const void* send(size_t bytes);

  void record_event(void* event);
  void before_wait(void* event);  // the host is about to wait for it

  void begin_branch();
  void end_branch();
  void join_branch();
  void begin_step(std::shared_ptr<StepGraph> graph);
  void end_step();
  void repeat_step(StepGraph& graph);
  using Stand = std::pair<const StepGraph*, bool>;
  Stand stand() const { return {step_.get(), holding_}; }  // the open step, and whether it is held back
  bool abandon_step() noexcept;                            // after an error; true: work that was held back is lost
  void undo_if_dropped(std::function<void()> undo);

  // Takes over memory that work held back may still use; false: there is none, free it at once. Thread-safe.
  bool defer_release(void* pointer);
  static Timeline* holding_back();  // of this thread; null: it holds nothing back

 private:
  // A piece of input: pinned memory and its twin on the device.
  struct Input {
    cuda::PinnedMemory host;
    void* device = nullptr;
    size_t bytes = 0;
    const cuda::Event arrived, consumed;
    int64_t turn = 0;  // in which it was sent last
  };
  struct Scratch {
    void* data = nullptr;
    size_t bytes = 0;
  };

  bool on_branch() const { return stream_ == branch_; }
  void hold_back();
  void begin_release();
  void end_release();
  void run_pieces();
  void load_kernels() const;
  void interrupt();
  void end_turn();
  void free_deferred() noexcept;
  Input& idle_input(size_t bytes);
  void grow(Input& input, size_t bytes);
  void upload_staged(void* device, const char* host, size_t bytes);

  Device& device_;
  const bool graphs_wanted_, branches_wanted_, tuning_wanted_, carveout_settled_;
  const cuda::Stream compute_, branch_, upload_;
  void* stream_;  // that work goes to now: compute_ or branch_
  const cuda::Event forked_event_, joined_event_;
  bool forked_ = false;              // the branch has work that nobody waited for
  std::shared_ptr<StepGraph> step_;  // open
  // the open step: runs eagerly from its start, or is started piece by piece; is held back
  bool eager_ = false, holding_ = false;
  bool waited_ = false;        // the host waited in the open step
  bool releasing_ = false;     // what was held back is being started
  Tape tape_;                  // of what is held back
  std::vector<void*> behind_;  // events to be recorded behind the work held back
  struct Undo {
    size_t pieces;
    std::function<void()> undo;
  };
  std::vector<Undo> undo_;  // of what the host took for done with so many of its pieces
  size_t started_ = 0;      // of them
  std::mutex deferred_mutex_;
  std::atomic<bool> defers_{false};  // while work is held back, until its launch
  std::vector<void*> deferred_;      // memory to be freed then
  Scratch scratch_[2];               // of compute, of branch
  std::deque<Input> inputs_;
  std::vector<Input*> in_use_;  // sent in this turn
  Input* staged_ = nullptr;
  int64_t turn_ = 2;
  // Pinned blocks for bytes that the caller may change at once, outside steps: the host fills one while the device
  // reads the other.
  struct Block {
    cuda::PinnedMemory memory;
    const cuda::Event event;
    bool unmarked = false;  // a call failed before the event stood behind the copy, which may still run
  } blocks_[2];
  int next_block_ = 0;
};

}  // namespace lgd
