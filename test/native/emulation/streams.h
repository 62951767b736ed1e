// Streams, events and graphs of the emulated GPU. One mutex guards all of it.
#pragma once
#include <array>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda_runtime.h"

namespace lgd::emulation {

// What an operation knows to be done: of lane i everything up to count [i]. A stream has a lane for itself, and others
// for the chains of graphs launched into it.
using Clock = std::vector<int64_t>;
void merge(Clock& clock, const Clock& other);
int add_lane();

struct Operation {
  const char* name;
  std::vector<Access> accesses;
  std::function<void()> run;
};

// What a change of a node may not change: its device; of a copy the kind of memory at both ends; of a fill its size and
// that of its elements.
using Fixed = std::array<size_t, 3>;

struct Node {
  Operation operation;
  const void* kernel;  // null: a copy or zeros
  Fixed fixed;
  std::vector<int> after;
  int lane = 0;  // whose nodes come one after the other
};
struct Graph {
  std::vector<Node> nodes;
  int lanes = 0;
  double milliseconds = 0;  // of a launch, made up
};
using GraphPtr = std::shared_ptr<Graph>;

struct Event {
  int64_t recorded = 0, done = 0;
  double milliseconds = 0;  // when it was reached
  Clock clock;
};
using EventPtr = std::shared_ptr<Event>;
struct EventHandle {
  EventPtr event;
  int device;
  bool timed;
};

struct Item {
  std::function<void()> run;  // null: an event
  EventPtr event;
  int64_t ticket = 0;
  bool waits = false;
};

struct Stream {
  int device = 0;
  int lane = 0;
  std::vector<int> graph_lanes;
  std::deque<Item> queue;
  Clock clock;
  double milliseconds = 0;  // that the graphs took which ran here
};

struct Use {
  int lane;
  int64_t count;
  const char* name;
};
struct Allocation {
  size_t bytes;
  bool pinned;
  int device;                      // whose context it goes with
  std::vector<Use> writes, reads;  // the last write; reads since then, one a lane
};

// None of these is ever destroyed: a device's thread may still work while the process exits.
extern std::recursive_mutex& mutex;
extern thread_local int current_device;
extern std::vector<Stream*>& streams;
extern std::map<uintptr_t, Allocation>& allocations;
extern std::map<uintptr_t, size_t>& freed;  // of addresses that nobody got again
extern std::vector<int64_t>& counts;        // of every lane
extern Clock& host_clock;
extern std::exception_ptr& late_error;  // of a call that cannot throw; delivered by the next wait

Allocation* allocation_of(const void* address);  // null: ordinary host memory

Operation kernel_operation(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared);
Operation copy_operation(void* to, const void* from, size_t bytes);
Operation zero_operation(void* to, size_t bytes);

// An operation for a stream. Throws where it races with one before.
void enqueue(Stream& stream, Operation operation);
// A launch of a graph: its nodes are checked as if they were enqueued in order, and run in any that its edges allow.
void enqueue(Stream& stream, const GraphPtr& graph);

// Runs the next item of a stream, and before it what it waits for.
void advance(Stream& stream);
// Of all streams; nobody knows that it is done.
void run_everything();
void check_range(const void* address, size_t bytes);  // throws unless these bytes are of one allocation
bool is_over(const Use& use);                         // does the host know that it is done?
// An error leaves nothing to run, as a failed kernel leaves a CUDA context.
void drop_everything();
// Runs until done(), as the order of the day wishes; without a wish, pull() until it is.
void run_until(const std::function<bool()>& done, const std::function<void()>& pull);

}  // namespace lgd::emulation
