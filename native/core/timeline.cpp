#include "core/timeline.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/cuda_streams.h"

namespace lgd {

namespace {

constexpr size_t block_bytes = size_t(8) << 20;
constexpr size_t largest_staged = size_t(64) << 20;   // more goes block by block: input buffers stay as large as they once were
constexpr int most_waits_in_a_row = 3;

thread_local Timeline* capturing_here = nullptr;

// A graph as captured; the executable one made of it outlives it.
class Captured {
 public:
  explicit Captured(void* graph) : graph_(graph) {}
  ~Captured() { cuda::destroy_graph(graph_); }
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
  void* get() const { return graph_; }

 private:
  void* graph_;
};

bool graphs_wanted() {
  const char* text = std::getenv("LGDISTILL_GRAPHS");
  return !text || std::strcmp(text, "0") != 0;
}

// Spare room, so that input that varies from step to step soon fits.
size_t with_headroom(size_t bytes) { return bytes + bytes / 4; }

}  // namespace

StepGraph::~StepGraph() {
  if (executable) cuda::destroy_executable(executable);
}

Timeline::Timeline(Device& device)
    : device_(device),
      graphs_wanted_(graphs_wanted()),
      compute_(cuda::create_stream(device.index)),
      branch_(cuda::create_stream(device.index)),
      upload_(cuda::create_stream(device.index)),
      forked_event_(cuda::create_event()),
      joined_event_(cuda::create_event()) {
  device_.stream = compute_;
}

Timeline::~Timeline() {
  abandon_step();
  try {
    for (void* stream : {upload_, branch_, compute_}) cuda::synchronize(stream);
  } catch (const Error&) {
    // a device that failed runs nothing any more
  }
  for (Scratch& scratch : scratch_) device_.release(scratch.data, scratch.bytes);
  for (Input& input : inputs_) {
    device_.release(input.device, input.bytes);
    cuda::release_pinned(input.host);
    for (void* event : {input.arrived, input.consumed}) cuda::destroy_event(event);
  }
  for (Block& block : blocks_) {
    if (!block.data) continue;
    cuda::release_pinned(block.data);
    cuda::destroy_event(block.event);
  }
  for (void* event : {forked_event_, joined_event_}) cuda::destroy_event(event);
  for (void* stream : {upload_, branch_, compute_}) cuda::destroy_stream(stream);
}

// ---- memory and copies --------------------------------------------------------------------------------------------------------

bool Timeline::defer_release(void* pointer) {
  if (!holds_back_) return false;
  std::lock_guard lock(deferred_mutex_);
  if (!holds_back_) return false;
  deferred_.push_back(pointer);
  return true;
}

void Timeline::free_deferred() noexcept {
  std::lock_guard lock(deferred_mutex_);
  holds_back_ = false;
  for (void* pointer : deferred_) cuda::release(pointer);
  deferred_.clear();
}

void* Timeline::scratch(size_t bytes) {
  Scratch& scratch = scratch_[device_.stream == branch_];
  if (bytes > scratch.bytes) {
    interrupt(false);
    cuda::synchronize(device_.stream);  // kernels in flight may still use the old block
    device_.release(scratch.data, scratch.bytes);
    scratch = {};
    scratch.data = device_.allocate(bytes);
    scratch.bytes = bytes;
  }
  return scratch.data;
}

void Timeline::from_host(void* device, const void* host, size_t bytes) {
  if (!step_ || bytes > largest_staged) return upload_staged(device, static_cast<const char*>(host), bytes);
  std::memcpy(stage(bytes), host, bytes);
  cuda::copy_async(device, send(bytes), bytes, device_.stream);
}

void Timeline::upload_staged(void* device, const char* host, size_t bytes) {
  interrupt(true);
  while (bytes > 0) {
    Block& block = blocks_[next_block_];
    next_block_ ^= 1;
    if (!block.data) {
      block.data = cuda::allocate_pinned(block_bytes);
      block.event = cuda::create_event();
    }
    cuda::await_event(block.event);
    const size_t part = std::min(bytes, block_bytes);
    std::memcpy(block.data, host, part);
    cuda::copy_async(device, block.data, part, device_.stream);
    cuda::enqueue_event(block.event, device_.stream);
    device = static_cast<char*>(device) + part;
    host += part;
    bytes -= part;
  }
}

void Timeline::to_host(void* host, const void* device, size_t bytes) {
  interrupt(true);
  cuda::copy_async(host, device, bytes, device_.stream);
  cuda::synchronize(device_.stream);
}

void Timeline::synchronize() {
  interrupt(true);
  if (forked_) cuda::synchronize(branch_);
  cuda::synchronize(compute_);
}

// ---- input that travels ahead -------------------------------------------------------------------------------------------------

void* Timeline::stage(size_t bytes) {
  if (!step_) end_turn();
  staged_ = &idle_input(bytes);
  cuda::await_event(staged_->arrived);  // of two turns ago
  if (staged_->bytes < bytes) grow(*staged_, with_headroom(bytes));
  return staged_->host;
}

// Not one of this turn, which is in use, nor of the turn before, whose work the copy would have to wait for. Of the others the smallest
// that fits, or the largest.
Timeline::Input& Timeline::idle_input(size_t bytes) {
  Input* best = nullptr;
  for (Input& input : inputs_) {
    if (input.turn + 2 > turn_) continue;
    const bool fits = input.bytes >= bytes, best_fits = best && best->bytes >= bytes;
    if (!best || (fits != best_fits ? fits : (input.bytes < best->bytes) == fits)) best = &input;
  }
  if (best) return *best;
  Input& added = inputs_.emplace_back();
  added.arrived = cuda::create_event();
  added.consumed = cuda::create_event();
  return added;
}

void Timeline::grow(Input& input, size_t bytes) {
  interrupt(false);
  device_.release(input.device, input.bytes);
  if (input.host) cuda::release_pinned(input.host);
  input.host = input.device = nullptr;
  input.bytes = 0;
  input.device = device_.allocate(bytes);
  input.bytes = bytes;
  input.host = cuda::allocate_pinned(bytes);
}

const void* Timeline::send(size_t bytes) {
  Input& input = *staged_;
  cuda::stream_wait(upload_, input.consumed);
  cuda::copy_async(input.device, input.host, bytes, upload_);
  cuda::enqueue_event(input.arrived, upload_);
  input.turn = turn_;
  in_use_.push_back(&input);
  if (!capturing_) cuda::stream_wait(device_.stream, input.arrived);
  return input.device;
}

// Whoever reads the input of this turn is enqueued.
void Timeline::end_turn() {
  for (Input* input : in_use_) cuda::enqueue_event(input->consumed, compute_);
  in_use_.clear();
  ++turn_;
}

// ---- branches -----------------------------------------------------------------------------------------------------------------

void Timeline::begin_branch() {
  LGD_CHECK(device_.stream == compute_, "NATIVE_ERROR", "a branch within a branch");
  cuda::enqueue_event(forked_event_, compute_);
  cuda::stream_wait(branch_, forked_event_);
  device_.stream = branch_;
  forked_ = true;
}

void Timeline::end_branch() { device_.stream = compute_; }

void Timeline::join_branch() {
  LGD_CHECK(device_.stream == compute_, "NATIVE_ERROR", "a branch that joins itself");
  if (!forked_) return;
  cuda::enqueue_event(joined_event_, branch_);
  cuda::stream_wait(compute_, joined_event_);
  forked_ = false;
}

// ---- steps --------------------------------------------------------------------------------------------------------------------

Timeline* Timeline::capturing() { return capturing_here; }

bool Timeline::is_behind(void* event) const { return std::find(behind_.begin(), behind_.end(), event) != behind_.end(); }

void Timeline::begin_step(std::shared_ptr<StepGraph> graph) {
  end_step();  // of a caller that failed in the middle
  if (!in_use_.empty()) end_turn();
  step_ = std::move(graph);
  eager_ = !graphs_wanted_ || !step_->warm || step_->waits_in_a_row == most_waits_in_a_row;
  if (!eager_) start_capture();
}

void Timeline::end_step() {
  if (!step_) return;
  end_branch();
  join_branch();
  if (capturing_) {
    launch_step(*step_);
    step_->waits_in_a_row = 0;
  } else if (eager_) {
    ++step_->counts.eager;
  }
  step_->warm = true;
  step_ = nullptr;
  end_turn();
}

void Timeline::start_capture() {
  cuda::begin_capture(compute_);
  capturing_ = holds_back_ = true;
  capturing_here = this;
}

void* Timeline::finish_capture() {
  capturing_here = nullptr;
  capturing_ = false;
  return cuda::end_capture(compute_);
}

// Starts what was held back (nothing, if null), with all that was promised to come before and behind it.
void Timeline::launch(void* executable) {
  for (const Input* input : in_use_) cuda::stream_wait(compute_, input->arrived);
  if (executable) cuda::launch(executable, compute_);
  for (void* event : behind_) cuda::enqueue_event(event, compute_);
  behind_.clear();
  free_deferred();
}

void Timeline::launch_step(StepGraph& step) {
  const Captured graph(finish_capture());
  if (!step.executable || !cuda::update(step.executable, graph.get())) {
    if (step.executable) cuda::destroy_executable(std::exchange(step.executable, nullptr));
    step.executable = cuda::instantiate(graph.get());
    ++step.counts.instantiated;
  }
  step.counts.nodes = int64_t(cuda::graph_nodes(graph.get()));
  launch(step.executable);
  ++step.counts.launched;
}

void Timeline::interrupt(bool waits) {
  if (capturing_here != this) return;
  const bool on_branch = device_.stream == branch_;
  end_branch();
  join_branch();
  {
    const Captured graph(finish_capture());
    StepGraph once;
    if (cuda::graph_nodes(graph.get()) > 0) once.executable = cuda::instantiate(graph.get());
    launch(once.executable);
  }
  ++step_->counts.interrupted;
  step_->waits_in_a_row = waits ? step_->waits_in_a_row + 1 : 0;
  if (on_branch) begin_branch();
}

void Timeline::abandon_step() noexcept {
  if (capturing_) {
    cuda::discard_capture(compute_);
    capturing_here = nullptr;
    capturing_ = forked_ = false;
  }
  behind_.clear();
  free_deferred();
  device_.stream = compute_;
  step_ = nullptr;
  try {
    join_branch();
    end_turn();
  } catch (const Error&) {
    in_use_.clear();  // the device fails; who waits for it hears why
  }
}

// ---- core/device.h: events ----------------------------------------------------------------------------------------------------

namespace cuda {

void record_event(void* event, void* stream) {
  if (Timeline* timeline = Timeline::capturing()) timeline->record_behind(event);
  else enqueue_event(event, stream);
}

void wait_event(void* event) {
  if (Timeline* timeline = Timeline::capturing(); timeline && timeline->is_behind(event)) timeline->before_wait();
  await_event(event);
}

}  // namespace cuda

}  // namespace lgd
