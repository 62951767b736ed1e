// Streams, events and graphs of the emulated GPU. One mutex guards all of it.
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/cuda_device.cuh"

namespace lgd::emulation {

// What an operation knows to be done: of lane i everything up to count [i]. A stream has a lane for itself and one for its part of captures.
using Clock = std::vector<int64_t>;
void merge(Clock& clock, const Clock& other);

enum class Kind { kernel, copy, fill };
struct Operation {
  Kind kind;
  const char* name;
  std::vector<Access> accesses;
  std::function<void()> run;
};

struct Node {
  Operation operation;
  std::vector<int> after;
  int stream, lane;  // stream: number within the capture, 0 is its origin
};
struct Graph { std::vector<Node> nodes; };
using GraphPtr = std::shared_ptr<Graph>;

struct Stream;
struct Capture {
  GraphPtr graph = std::make_shared<Graph>();
  std::vector<Stream*> streams;
  std::thread::id thread = std::this_thread::get_id();
};
using CapturePtr = std::shared_ptr<Capture>;

struct Event {
  int64_t recorded = 0, done = 0;
  Clock clock;
  CapturePtr capture;      // where it was recorded last, if in a capture
  std::vector<int> nodes;
};
using EventPtr = std::shared_ptr<Event>;

struct Item {
  std::function<void()> run;  // null: an event
  EventPtr event;
  int64_t ticket = 0;
  bool waits = false;
};

struct Stream {
  int lane = 0;               // lane + 1: of its part of captures
  std::deque<Item> queue;
  Clock clock;
  CapturePtr capture;
  int number = 0;             // in the capture
  std::vector<int> tail;      // nodes that the next one comes after
};

struct Use { int lane; int64_t count; const char* name; };
struct Allocation {
  size_t bytes;
  bool pinned;
  std::vector<Use> writes, reads;  // the last write; reads since then, one a lane
};

extern std::recursive_mutex mutex;
extern std::vector<Stream*> streams;
extern std::vector<CapturePtr> captures;              // open
extern std::map<uintptr_t, Allocation> allocations;
extern std::vector<int64_t> counts;                   // of every lane
extern Clock host_clock;
extern std::exception_ptr late_error;                 // of a call that cannot throw; delivered by the next wait

inline Stream& stream_of(void* handle) { return *static_cast<Stream*>(handle); }
inline EventPtr event_of(void* handle) { return *static_cast<EventPtr*>(handle); }
Allocation* allocation_of(const void* address);   // null: ordinary host memory
bool captures_here();                             // does this thread capture?

// An operation for a stream, or for the capture that it is drawn into. Throws where it races with one before.
void enqueue(Stream& stream, Operation operation);
// A graph for a stream: its nodes are checked as if they were enqueued in order, and run in any that its edges allow.
void enqueue(Stream& stream, const GraphPtr& graph);

// Runs the next item of a stream, and before it what it waits for.
void advance(Stream& stream);
void run_everything();
// Runs until done(), as the order of the day wishes; without a wish, pull() until it is.
void run_until(const std::function<bool()>& done, const std::function<void()>& pull);

}  // namespace lgd::emulation
