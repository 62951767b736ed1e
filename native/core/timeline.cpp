#include "core/timeline.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/cuda_streams.h"

namespace lgd {

namespace {

constexpr size_t block_bytes = size_t(8) << 20;
// more goes block by block: input buffers stay as large as they once were
constexpr size_t largest_staged = size_t(64) << 20;
constexpr int most_interrupted_in_a_row = 3;

thread_local Timeline* holding_here = nullptr;

// Spare room, so that input that varies from step to step soon fits, and scratch memory that kernels ask for one by
// one.
size_t with_headroom(size_t bytes) { return bytes + bytes / 4; }

}  // namespace

static bool is(const char* variable, const char* value) {
  const char* const text = std::getenv(variable);
  return text && std::strcmp(text, value) == 0;
}
bool is_wanted(const char* variable) { return !is(variable, "0"); }

Timeline::Timeline(Device& device)
    : device_(device),
      graphs_wanted_(is_wanted("LGDISTILL_GRAPHS")),
      branches_wanted_(is_wanted("LGDISTILL_BRANCH")),
      tuning_wanted_(is_wanted("LGDISTILL_AUTOTUNE")),
      carveout_settled_(is("LGDISTILL_CARVEOUT", "0") || is("LGDISTILL_CARVEOUT", "all")),
      compute_(device.index),
      branch_(device.index),
      upload_(device.index),
      stream_(compute_) {}

Timeline::~Timeline() {
  abandon_step();
  try {
    for (const cuda::Stream* stream : {&upload_, &branch_, &compute_}) cuda::synchronize(*stream);
  } catch (const Error&) {
    // a device that failed runs nothing any more
  }
  for (Scratch& scratch : scratch_) device_.release(scratch.data, scratch.bytes);
  for (Input& input : inputs_) device_.release(input.device, input.bytes);
}

// ---- memory and copies ----------------------------------------------------------------------------------------------

bool Timeline::defer_release(void* pointer) {
  if (!defers_) return false;
  std::lock_guard lock(deferred_mutex_);
  if (!defers_) return false;
  deferred_.push_back(pointer);
  return true;
}

void Timeline::free_deferred() noexcept {
  std::vector<void*> pointers;
  {
    std::lock_guard lock(deferred_mutex_);
    defers_ = false;
    pointers.swap(deferred_);
  }
  // waits for the device, so nobody else should wait for the lock
  for (void* pointer : pointers) cuda::release(pointer);
}

void* Timeline::scratch(size_t bytes) {
  Scratch& scratch = scratch_[on_branch()];
  if (bytes > scratch.bytes) {
    cuda::synchronize(stream_);  // kernels in flight may still use the old block
    device_.release(scratch.data, scratch.bytes);
    scratch = {};
    bytes = with_headroom(bytes);  // in a step that is held back the old one stays until its end
    scratch.data = device_.allocate(bytes);
    scratch.bytes = bytes;
  }
  return scratch.data;
}

void Timeline::launch(const Launch& launch) {
  if (holding_) return tape_.launch(launch, on_branch());
  Work work;
  work.launch = launch;
  cuda::run(work, stream_);
}

void Timeline::copy(void* to, const void* from, size_t bytes) {
  if (holding_) tape_.copy(to, from, bytes, on_branch());
  else cuda::run({Work::Kind::copy, {}, to, from, bytes}, stream_);
}

void Timeline::zero(void* device, size_t bytes) {
  if (holding_) tape_.zero(device, bytes, on_branch());
  else cuda::run({Work::Kind::zero, {}, device, nullptr, bytes}, stream_);
}

void Timeline::from_host(void* device, const void* host, size_t bytes) {
  if (!step_ || bytes > largest_staged) return upload_staged(device, static_cast<const char*>(host), bytes);
  std::memcpy(stage(bytes), host, bytes);
  copy(device, send(bytes), bytes);
}

void Timeline::upload_staged(void* device, const char* host, size_t bytes) {
  interrupt();
  while (bytes > 0) {
    Block& block = blocks_[next_block_];
    next_block_ ^= 1;
    if (!block.memory.data()) block.memory = cuda::PinnedMemory(block_bytes);
    if (std::exchange(block.unmarked, true)) {
      cuda::synchronize(compute_);
      cuda::synchronize(branch_);
    } else {
      cuda::await_event(block.event);
    }
    const size_t part = std::min(bytes, block_bytes);
    std::memcpy(block.memory.data(), host, part);
    copy(device, block.memory.data(), part);
    cuda::enqueue_event(block.event, stream_);
    block.unmarked = false;
    device = static_cast<char*>(device) + part;
    host += part;
    bytes -= part;
  }
}

void Timeline::to_host(void* host, const void* device, size_t bytes) {
  interrupt();
  copy(host, device, bytes);
  cuda::synchronize(stream_);
}

void Timeline::synchronize() {
  interrupt();
  if (forked_) cuda::synchronize(branch_);
  cuda::synchronize(compute_);
}

// ---- input that travels ahead ---------------------------------------------------------------------------------------

void* Timeline::stage(size_t bytes) {
  if (!step_) end_turn();
  staged_ = &idle_input(bytes);
  cuda::await_event(staged_->arrived);  // of two turns ago
  if (staged_->bytes < bytes) grow(*staged_, with_headroom(bytes));
  return staged_->host.data();
}

// Not one of this turn, which is in use, nor of the turn before, whose work the copy would have to wait for. Of the
// others the smallest that fits, or the largest.
Timeline::Input& Timeline::idle_input(size_t bytes) {
  Input* best = nullptr;
  for (Input& input : inputs_) {
    if (input.turn + 2 > turn_) continue;
    const bool fits = input.bytes >= bytes, best_fits = best && best->bytes >= bytes;
    if (!best || (fits != best_fits ? fits : (input.bytes < best->bytes) == fits)) best = &input;
  }
  if (best) return *best;
  return inputs_.emplace_back();
}

void Timeline::grow(Input& input, size_t bytes) {
  device_.release(input.device, input.bytes);
  input.host = {};
  input.device = nullptr;
  input.bytes = 0;
  cuda::PinnedMemory host(bytes);
  input.device = device_.allocate(bytes);
  input.host = std::move(host);
  input.bytes = bytes;
}

const void* Timeline::send(size_t bytes) {
  Input& input = *staged_;
  cuda::stream_wait(upload_, input.consumed);
  cuda::run({Work::Kind::copy, {}, input.device, input.host.data(), bytes}, upload_);
  cuda::enqueue_event(input.arrived, upload_);
  input.turn = turn_;
  in_use_.push_back(&input);
  if (!holding_) cuda::stream_wait(stream_, input.arrived);
  return input.device;
}

// Whoever reads the input of this turn is enqueued.
void Timeline::end_turn() {
  for (Input* input : in_use_) cuda::enqueue_event(input->consumed, compute_);
  in_use_.clear();
  ++turn_;
}

// ---- branches -------------------------------------------------------------------------------------------------------

void Timeline::begin_branch() {
  LGD_CHECK(!on_branch(), "NATIVE_ERROR", "a branch within a branch");
  if (!branches_wanted_) return;
  if (holding_) {
    tape_.fork();
  } else {
    cuda::enqueue_event(forked_event_, compute_);
    cuda::stream_wait(branch_, forked_event_);
  }
  stream_ = branch_;
  forked_ = true;
}

void Timeline::end_branch() { stream_ = compute_; }

void Timeline::join_branch() {
  LGD_CHECK(!on_branch(), "NATIVE_ERROR", "a branch that joins itself");
  if (!forked_) return;
  if (holding_) {
    tape_.join();
  } else {
    cuda::enqueue_event(joined_event_, branch_);
    cuda::stream_wait(compute_, joined_event_);
  }
  forked_ = false;
}

// ---- steps ----------------------------------------------------------------------------------------------------------

Timeline* Timeline::holding_back() { return holding_here; }

void Timeline::begin_step(std::shared_ptr<StepGraph> graph) {
  end_step();  // of a caller that failed in the middle
  join_branch();
  if (!in_use_.empty()) end_turn();
  step_ = std::move(graph);
  const bool holds = graphs_wanted_ && step_->interrupted_in_a_row < most_interrupted_in_a_row;
  eager_ = !holds || !step_->warm || !step_->refused.empty();
  waited_ = false;
  if (holds) hold_back();
}

void Timeline::end_step() {
  if (!step_) return;
  end_branch();
  join_branch();
  if (holding_) {
    begin_release();
    if (!eager_ &&
        step_->launch(tape_, {device_.programmatic_launches, tuning_wanted_, !carveout_settled_}, compute_)) {
      started_ = SIZE_MAX;
      step_->launched(tape_, compute_);
    } else {
      eager_ = true;
      run_pieces();
    }
    end_release();
  }
  if (eager_) ++step_->counts.eager;
  if (!waited_) step_->interrupted_in_a_row = 0;
  step_->warm = true;
  step_ = nullptr;
  end_turn();
}

void Timeline::repeat_step(StepGraph& step) {
  LGD_CHECK(!step_ && step.graph, "NATIVE_ERROR", "no graph to be launched again");
  cuda::launch_graph(step.graph, compute_);
}

void Timeline::hold_back() {
  tape_.clear();
  started_ = 0;
  holding_ = defers_ = true;
  holding_here = this;
}

// Around the start of what was held back, as a graph or piece by piece: all that was promised to come before and behind
// it.
void Timeline::begin_release() {
  holding_here = nullptr;
  holding_ = false;
  releasing_ = true;
  for (const Input* input : in_use_) cuda::stream_wait(compute_, input->arrived);
}

void Timeline::end_release() {
  for (void* event : behind_) cuda::enqueue_event(event, compute_);
  releasing_ = false;
  behind_.clear();
  undo_.clear();
  free_deferred();
}

void Timeline::run_pieces() {
  if (eager_) load_kernels();
  for (; started_ < tape_.size(); ++started_) cuda::run(tape_[started_], compute_);
}

// A kernel that was never launched may find no room for its code, which should not be in the middle of a step.
void Timeline::load_kernels() const {
  for (size_t i = 0; i < tape_.size(); ++i)
    if (tape_[i].kind == Work::Kind::kernel) cuda::load(tape_[i].launch);
}

void Timeline::interrupt() {
  waited_ = true;
  if (!holding_) return;
  const bool branching = on_branch();
  end_branch();
  join_branch();
  begin_release();
  run_pieces();
  end_release();
  if (!eager_) {
    ++step_->counts.interrupted;
    ++step_->interrupted_in_a_row;
  }
  if (branching) begin_branch();
}

bool Timeline::abandon_step() noexcept {
  const bool lost = holding_ || releasing_;
  // It may have got some of this step's arguments.
  if (lost && step_) step_->drop();
  releasing_ = false;
  if (holding_) {
    tape_.clear();
    holding_here = nullptr;
    holding_ = forked_ = false;
  }
  for (; !undo_.empty(); undo_.pop_back())
    if (undo_.back().pieces > started_) undo_.back().undo();
  behind_.clear();
  free_deferred();
  stream_ = compute_;
  step_ = nullptr;
  try {
    join_branch();
    end_turn();
  } catch (const Error&) {
    in_use_.clear();  // the device fails; who waits for it hears why
  }
  return lost;
}

void Timeline::undo_if_dropped(std::function<void()> undo) {
  if (holding_) undo_.push_back({tape_.size(), std::move(undo)});
}

// ---- events ---------------------------------------------------------------------------------------------------------

void Timeline::record_event(void* event) {
  if (!holding_) return cuda::enqueue_event(event, stream_);
  // the last place counts, and there is one
  if (std::find(behind_.begin(), behind_.end(), event) == behind_.end()) behind_.push_back(event);
}

void Timeline::before_wait(void* event) {
  if (std::find(behind_.begin(), behind_.end(), event) != behind_.end()) interrupt();
}

void cuda::wait_event(void* event) {
  if (Timeline* timeline = Timeline::holding_back()) timeline->before_wait(event);
  await_event(event);
}

}  // namespace lgd
