// What core/timeline.cpp needs of the CUDA runtime beyond core/device.h: work for streams, order between them, and
// graphs. Streams and events are the runtime's own handles.
#pragma once
#include <cstddef>
#include <utility>

#include "core/device.h"
#include "core/graph_tuner.h"
#include "core/tape.h"

namespace lgd::cuda {

// A call that failed and left the device as it was: nothing of it runs.
struct Refusal : Error {
  using Error::Error;
};

void load(const Launch& launch);           // the kernel's code, if it is not there
void run(const Work& work, void* stream);  // copies in any direction (unified addressing)
void synchronize(void* stream);
void enqueue_event(void* event, void* stream);
void stream_wait(void* stream, void* event);  // later work of the stream waits for the event's last record
void await_event(void* event);                // the host waits; returns at once for an event that was never recorded
void* create_timed_event();                   // an event that tells when it was reached; destroy_event() frees it
bool is_over(void* event);                    // has the event's last record been reached? Nobody waits
double milliseconds_between(void* begin, void* end);  // of two timed events that are over

// A graph with a node for each piece of the tape, ready to be launched as often as wished; each launch runs behind the
// one before. Throws Refusal.
void* build_graph(const Tape& tape, const GraphWay& way);
// Gives a node, by its number on the tape, the arguments of other work of the same kind and kernel; launches before
// keep theirs. False if the driver cannot: the graph must be built again.
bool change_graph(void* graph, size_t node, const Work& work);
void launch_graph(void* graph, void* stream);  // throws Refusal where the driver did not take it
void destroy_graph(void* graph) noexcept;      // one that runs is freed when it is done

// What goes with its owner.
class Stream {
 public:
  explicit Stream(int index) : handle_(create_stream(index)) {}
  ~Stream() { destroy_stream(handle_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator void*() const { return handle_; }

 private:
  void* const handle_;
};

class Event {
 public:
  Event() : handle_(create_event()) {}
  ~Event() { destroy_event(handle_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator void*() const { return handle_; }

 private:
  void* const handle_;
};

// None until it is asked for.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(size_t bytes) : data_(allocate_pinned(bytes)) {}
  PinnedMemory(PinnedMemory&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
  PinnedMemory& operator=(PinnedMemory&& other) noexcept { return std::swap(data_, other.data_), *this; }
  ~PinnedMemory() {
    if (data_) release_pinned(data_);
  }
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

}  // namespace lgd::cuda
