// When the work of the emulated GPU's streams runs, and whether it may: see runtime.cpp.
#include "streams.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

namespace lgd::emulation {

std::recursive_mutex& mutex = *new std::recursive_mutex;
thread_local int current_device = 0;
std::vector<Stream*>& streams = *new std::vector<Stream*>;
std::map<uintptr_t, Allocation>& allocations = *new std::map<uintptr_t, Allocation>;
std::map<uintptr_t, size_t>& freed = *new std::map<uintptr_t, size_t>;
std::vector<int64_t>& counts = *new std::vector<int64_t>;
Clock& host_clock = *new Clock;
std::exception_ptr& late_error = *new std::exception_ptr;

void merge(Clock& clock, const Clock& other) {
  if (clock.size() < other.size()) clock.resize(other.size());
  for (size_t i = 0; i < other.size(); ++i) clock[i] = std::max(clock[i], other[i]);
}

int add_lane() {
  counts.push_back(0);
  return int(counts.size()) - 1;
}

Allocation* allocation_of(const void* address) {
  auto next = allocations.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (next == allocations.begin()) return nullptr;
  --next;
  return reinterpret_cast<uintptr_t>(address) < next->first + next->second.bytes ? &next->second : nullptr;
}

// ---- order ----------------------------------------------------------------------------------------------------------

namespace {

bool knows(const Clock& clock, int lane, int64_t count) { return lane < int(clock.size()) && clock[lane] >= count; }

[[noreturn]] void refuse_race(const char* name, const Use& other) {
  throw_error("DEVICE_ERROR", {"race: ", name, " and, on another stream, ", other.name,
                               " use the same memory and neither waits for the other"});
}

void check_device(const char* name, const Allocation& memory, int device) {
  if (memory.device != device)
    throw_error("DEVICE_ERROR", {name, " on device ", device, " uses memory of device ", memory.device});
}

bool was_freed(const void* address) {
  auto next = freed.upper_bound(reinterpret_cast<uintptr_t>(address));
  return next != freed.begin() &&
         reinterpret_cast<uintptr_t>(address) < std::prev(next)->first + std::prev(next)->second;
}

void check_accesses(const Operation& operation, int device, int lane, const Clock& clock) {
  for (const Access& access : operation.accesses) {
    Allocation* memory = allocation_of(access.address);
    if (!memory) continue;
    check_device(operation.name, *memory, device);
    for (const Use& use : memory->writes)
      if (!knows(clock, use.lane, use.count)) refuse_race(operation.name, use);
    if (access.writes) {
      for (const Use& use : memory->reads)
        if (!knows(clock, use.lane, use.count)) refuse_race(operation.name, use);
      memory->reads.clear();
      memory->writes = {{lane, clock[lane], operation.name}};
    } else {
      std::erase_if(memory->reads, [&](const Use& use) { return use.lane == lane; });
      memory->reads.push_back({lane, clock[lane], operation.name});
    }
  }
}

void tick(Clock& clock, int lane) {
  if (int(clock.size()) <= lane) clock.resize(lane + 1);
  clock[lane] = ++counts[lane];
}

}  // namespace

bool is_over(const Use& use) { return knows(host_clock, use.lane, use.count); }

void check_range(const void* address, size_t bytes) {
  const Allocation* const memory = allocation_of(address);
  LGD_CHECK(memory && bytes > 0 && allocation_of(static_cast<const char*>(address) + bytes - 1) == memory,
            "DEVICE_ERROR", "cudaErrorInvalidValue: ", bytes, " bytes that are no allocation's");
}

void enqueue(Stream& stream, Operation operation) {
  merge(stream.clock, host_clock);
  tick(stream.clock, stream.lane);
  check_accesses(operation, stream.device, stream.lane, stream.clock);
  stream.queue.push_back({std::move(operation.run), nullptr, 0, false});
}

// ---- running --------------------------------------------------------------------------------------------------------

void drop_everything() {
  for (Stream* stream : streams) {
    merge(host_clock, stream->clock);
    for (Item& item : stream->queue)
      if (item.event) item.event->done = item.event->recorded;
    stream->queue.clear();
  }
}

namespace {

std::mt19937 dice(11);

bool is_ready(const Stream& stream) {
  return !stream.queue.empty() &&
         (!stream.queue.front().waits || stream.queue.front().event->done >= stream.queue.front().ticket);
}

void run_head(Stream& stream) {
  const Item item = std::move(stream.queue.front());
  stream.queue.pop_front();
  if (item.event && !item.waits) {
    item.event->done = std::max(item.event->done, item.ticket);
    item.event->milliseconds = stream.milliseconds;
  }
  if (!item.run) return;
  try {
    item.run();
  } catch (...) {
    drop_everything();
    throw;
  }
}

}  // namespace

void advance(Stream& stream) {
  while (!is_ready(stream)) {
    const Item& wait = stream.queue.front();
    Stream* recorder = nullptr;
    for (Stream* other : streams)
      for (const Item& item : other->queue)
        if (item.event == wait.event && !item.waits && item.ticket == wait.ticket) recorder = other;
    LGD_CHECK(recorder && recorder != &stream, "DEVICE_ERROR",
              "deadlock: a stream waits for an event that nobody records");
    advance(*recorder);
  }
  run_head(stream);
}

namespace {

void run_stream(Stream& stream) {
  while (!stream.queue.empty()) advance(stream);
}

void run_in_turns(const std::function<bool()>& done) {
  while (!done()) {
    std::vector<Stream*> ready;
    for (Stream* stream : streams)
      if (is_ready(*stream)) ready.push_back(stream);
    LGD_CHECK(!ready.empty(), "DEVICE_ERROR", "deadlock between streams");
    run_head(*ready[dice() % ready.size()]);
  }
}

void deliver_late_error() {
  if (!late_error) return;
  drop_everything();
  std::rethrow_exception(std::exchange(late_error, nullptr));
}

}  // namespace

void run_everything() {
  for (size_t i = streams.size(); i-- > 0;) run_stream(*streams[i]);
}

void run_until(const std::function<bool()>& done, const std::function<void()>& pull) {
  deliver_late_error();
  if (order() == Order::reverse) run_everything();
  if (order() == Order::random) run_in_turns(done);
  while (!done()) pull();
}

static void run_graph(const Graph& graph) {
  const int count = int(graph.nodes.size());
  std::vector<char> ran(count);
  for (int step = 0; step < count; ++step) {
    std::vector<int> ready;
    for (int i = 0; i < count; ++i)
      if (!ran[i] && std::all_of(graph.nodes[i].after.begin(), graph.nodes[i].after.end(),
                                 [&](int before) { return ran[before]; }))
        ready.push_back(i);
    const auto by_lane = [&](int a, int b) { return graph.nodes[a].lane < graph.nodes[b].lane; };
    const int next = order() == Order::random    ? ready[dice() % ready.size()]
                     : order() == Order::forward ? *std::min_element(ready.begin(), ready.end(), by_lane)
                                                 : *std::max_element(ready.begin(), ready.end(), by_lane);
    graph.nodes[next].operation.run();
    ran[next] = 1;
  }
}

void enqueue(Stream& stream, const GraphPtr& graph) {
  merge(stream.clock, host_clock);
  while (int(stream.graph_lanes.size()) < graph->lanes) stream.graph_lanes.push_back(add_lane());
  std::vector<Clock> clocks;
  const auto join = [&] {
    for (const Clock& clock : clocks) merge(stream.clock, clock);
  };
  try {
    for (const Node& node : graph->nodes) {
      Clock& clock = clocks.emplace_back(stream.clock);
      for (const int before : node.after) merge(clock, clocks[before]);
      // Ordinary host memory, which may lie where an allocation was, is no node's.
      for (const Access& access : node.operation.accesses)
        LGD_CHECK(!access.certain || allocation_of(access.address) || !was_freed(access.address), "DEVICE_ERROR",
                  "memory of ", node.operation.name, " was freed before it ran");
      const int lane = stream.graph_lanes[size_t(node.lane)];
      tick(clock, lane);
      check_accesses(node.operation, stream.device, lane, clock);
    }
  } catch (...) {
    join();  // of what is refused nothing runs
    throw;
  }
  join();
  stream.queue.push_back({[graph, &stream] {
                            run_graph(*graph);
                            stream.milliseconds += graph->milliseconds;
                          },
                          nullptr, 0, false});
}

}  // namespace lgd::emulation
