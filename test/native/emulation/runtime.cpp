// The CUDA runtime calls behind Device, on host memory: streams, events and graphs of the emulated GPU. What it is strict about:
//   - a stream runs no sooner than somebody waits for it, and then pulls the other streams along only as far as its own waits ask
//     (forward order); or the other streams run first (reverse); or all of them in turns (random). So a wait that is missing shows;
//   - the nodes of a graph likewise run in any order that its edges allow;
//   - two uses of an allocation on different streams, one of them writing, must be ordered by events, a capture or a wait of the
//     host: otherwise the later one is refused (vector clocks; a kernel's pointers tell what it uses, see note_accesses());
//   - host memory of a copy to the device must hold the same bytes when the copy runs as when it was enqueued;
//   - while a thread captures it may not allocate, free or wait for the captured stream; copies must be from and to pinned memory;
//     memory that captured work uses must outlive the launch; every stream drawn into a capture must be joined.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "core/cuda_streams.h"
#include "ops/multiprocessors.h"
#include "streams.h"

namespace lgd::emulation {

namespace {

constexpr size_t unasked_shared_bytes = 48 << 10;

// What a block may have: as on an H100, or $LGDISTILL_EMULATION_SHARED KiB (an A100 has 163, cards of 8.6, 8.9 and 12.0 have 99).
size_t most_shared_bytes() {
  const char* kib = std::getenv("LGDISTILL_EMULATION_SHARED");
  return size_t(kib ? std::atoi(kib) : 227) << 10;
}

std::map<const void*, size_t> allowed_shared_bytes;

// Grids are laid out for $LGDISTILL_EMULATION_MULTIPROCESSORS: with few of them small sizes go as large ones do with an H100's.
[[maybe_unused]] const bool resized = [] {
  const char* count = std::getenv("LGDISTILL_EMULATION_MULTIPROCESSORS");
  if (count) multiprocessors = std::max(1, std::atoi(count));
  return count != nullptr;
}();

// ---- captures -----------------------------------------------------------------------------------------------------------------

// Ends the capture that a stream began; null if everything drawn in was joined, else why not.
const char* close_capture(Stream& origin, GraphPtr& graph) {
  const CapturePtr capture = origin.capture;
  if (!capture || capture->streams[0] != &origin) return "this stream captures nothing";
  graph = capture->graph;
  std::vector<char> joined(graph->nodes.size());
  for (const int node : origin.tail) joined[node] = 1;
  for (size_t i = graph->nodes.size(); i-- > 0;)
    if (joined[i])
      for (const int before : graph->nodes[i].after) joined[before] = 1;
  for (Stream* stream : capture->streams) {
    stream->capture = nullptr;
    stream->tail.clear();
  }
  std::erase(captures, capture);
  return std::all_of(joined.begin(), joined.end(), [](char is) { return is; }) ? nullptr : "work on a branch was never joined";
}

bool same_shape(const Graph& a, const Graph& b) {
  return std::equal(a.nodes.begin(), a.nodes.end(), b.nodes.begin(), b.nodes.end(),
                    [](const Node& x, const Node& y) { return x.operation.kind == y.operation.kind && x.after == y.after; });
}

// Memory of its own mapping, far above 4 GiB: the heap of a program that is not position-independent lies below, where a float among a
// kernel's arguments looks like an address of it (0.075f is 0x3d99999a). AddressSanitizer's heap lies high, and it watches the byte behind
// what was asked for.
#if defined(__SANITIZE_ADDRESS__)
void* map_memory(size_t bytes) {
  void* pointer = nullptr;
  return posix_memalign(&pointer, 256, bytes) == 0 ? pointer : nullptr;
}
void unmap_memory(void* pointer, size_t) noexcept { std::free(pointer); }
#else
void* map_memory(size_t bytes) {
  void* pointer = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return pointer == MAP_FAILED ? nullptr : pointer;
}
void unmap_memory(void* pointer, size_t bytes) noexcept { munmap(pointer, bytes); }
#endif

void* allocate_memory(size_t bytes, bool pinned) {
  std::lock_guard lock(mutex);
  LGD_CHECK(!captures_here(), "DEVICE_ERROR", "an allocation inside a capture");
  void* pointer = map_memory(std::max<size_t>(bytes, 1));
  LGD_CHECK(pointer, "OUT_OF_MEMORY", "cannot allocate ", bytes, " bytes");
  LGD_CHECK(reinterpret_cast<uintptr_t>(pointer) >> 32, "DEVICE_ERROR", "memory below 4 GiB, where numbers look like addresses");
  if (order() != Order::none) std::memset(pointer, 0xff, bytes);  // NaN: an output that nobody wrote shows
  else if (bytes < 64 << 20) std::memset(pointer, 0, bytes);      // numbers that the host takes for a result; an arena is never touched
  allocations[reinterpret_cast<uintptr_t>(pointer)] = {std::max<size_t>(bytes, 1), pinned, {}, {}};
  return pointer;
}

// As cudaFree does, waits for everything that was launched.
void free_memory(void* pointer) noexcept {
  if (!pointer) return;
  std::lock_guard lock(mutex);
  try {
    LGD_CHECK(!captures_here(), "DEVICE_ERROR", "memory was freed inside a capture");
    for (const CapturePtr& capture : captures)
      for (const Node& node : capture->graph->nodes)
        for (const Access& access : node.operation.accesses)
          LGD_CHECK(allocation_of(access.address) != allocation_of(pointer), "DEVICE_ERROR", "memory of a captured ", node.operation.name, " was freed before it ran");
    run_everything();
  } catch (...) {
    late_error = std::current_exception();
  }
  const auto at = allocations.find(reinterpret_cast<uintptr_t>(pointer));
  unmap_memory(pointer, at->second.bytes);
  allocations.erase(at);
}

}  // namespace

void allow_shared_memory(const void* kernel, size_t bytes) {
  std::lock_guard lock(mutex);
  size_t& allowed = allowed_shared_bytes[kernel];
  allowed = std::max(allowed, bytes);  // more than a block may have is refused by the launch, which has the kernel's name
}

void launch(void* stream, const char* name, const void* address, dim3 grid, dim3 block, size_t shared_bytes, std::vector<Access> accesses, std::function<void()> kernel) {
  const int count = int(block.x * block.y * block.z);
  LGD_CHECK(count >= 1 && count <= 1024, "DEVICE_ERROR", "a block may have 1024 threads, asked for ", count);
  LGD_CHECK(grid.y < 65536 && grid.z < 65536 && grid.x >= 1 && grid.y >= 1 && grid.z >= 1, "DEVICE_ERROR", "grid ", grid.x, "x", grid.y, "x", grid.z);
  std::lock_guard lock(mutex);
  const size_t allowed = std::min(most_shared_bytes(), std::max(unasked_shared_bytes, allowed_shared_bytes[address]));
  LGD_CHECK(shared_bytes <= allowed, "DEVICE_ERROR", name, " launched with ", shared_bytes, " bytes of shared memory, of which it may have ", allowed);
  enqueue(stream_of(stream), {Kind::kernel, name, std::move(accesses), [=, kernel = std::move(kernel)] { run_kernel(name, address, grid, block, shared_bytes, kernel); }});
}

}  // namespace lgd::emulation

// ---- core/device.h and core/cuda_streams.h ------------------------------------------------------------------------------------
namespace lgd::cuda {

using namespace emulation;

bool compiled() { return true; }
int device_count(std::string&) { return 1; }
DeviceProperties properties(int) { return {"emulated GPU", 9, 0, 132, size_t(8) << 30}; }
bool has_warpgroups(int) { return true; }
size_t block_shared_memory(int) { return most_shared_bytes(); }
int driver_version() { return runtime_version(); }
int runtime_version() { return 13000; }
void set_device(int) {}

void* create_stream(int) {
  std::lock_guard lock(mutex);
  auto* stream = new Stream;
  stream->lane = int(counts.size());
  counts.resize(counts.size() + 2);
  streams.push_back(stream);
  return stream;
}
void destroy_stream(void* stream) noexcept {
  std::lock_guard lock(mutex);
  try {
    run_everything();
  } catch (...) {
    late_error = std::current_exception();
  }
  std::erase(streams, static_cast<Stream*>(stream));
  delete static_cast<Stream*>(stream);
}

void* allocate(size_t bytes) { return allocate_memory(bytes, false); }
void release(void* pointer) noexcept { free_memory(pointer); }
void* allocate_pinned(size_t bytes) { return allocate_memory(bytes, true); }
void release_pinned(void* pointer) noexcept { free_memory(pointer); }

void copy_async(void* to, const void* from, size_t bytes, void* stream) {
  std::lock_guard lock(mutex);
  const Allocation *target = allocation_of(to), *source = allocation_of(from);
  LGD_CHECK(!stream_of(stream).capture || (target && source), "DEVICE_ERROR", "a captured copy needs pinned host memory");
  std::vector<char> before;
  if (!source || source->pinned) before.assign(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
  enqueue(stream_of(stream), {Kind::copy, "copy", {{from, false}, {to, true}}, [=, before = std::move(before)] {
                                LGD_CHECK(before.empty() || std::memcmp(before.data(), from, bytes) == 0, "DEVICE_ERROR",
                                          "host memory of a copy to the device was written again before the copy ran");
                                std::memmove(to, from, bytes);
                              }});
}
void zero_async(void* device, size_t bytes, void* stream) {
  std::lock_guard lock(mutex);
  enqueue(stream_of(stream), {Kind::fill, "fill", {{device, true}}, [=] {
                                if (order() != Order::none) std::memset(device, 0, bytes);
                              }});
}

void synchronize(void* handle) {
  std::lock_guard lock(mutex);
  Stream& stream = stream_of(handle);
  LGD_CHECK(!stream.capture, "DEVICE_ERROR", "a wait for a stream inside its capture");
  run_until([&] { return stream.queue.empty(); }, [&] { advance(stream); });
  merge(host_clock, stream.clock);
}

void* create_event() { return new EventPtr(std::make_shared<Event>()); }
void destroy_event(void* event) noexcept { delete static_cast<EventPtr*>(event); }

void enqueue_event(void* handle, void* stream_handle) {
  std::lock_guard lock(mutex);
  Stream& stream = stream_of(stream_handle);
  const EventPtr event = event_of(handle);
  event->capture = stream.capture;
  if (stream.capture) {
    event->nodes = stream.tail;
    return;
  }
  event->clock = stream.clock;
  stream.queue.push_back({nullptr, event, ++event->recorded, false});
}

void stream_wait(void* stream_handle, void* handle) {
  std::lock_guard lock(mutex);
  Stream& stream = stream_of(stream_handle);
  const EventPtr event = event_of(handle);
  if (event->capture) {
    LGD_CHECK(std::find(captures.begin(), captures.end(), event->capture) != captures.end(), "DEVICE_ERROR", "a wait for an event of a capture that is over");
    LGD_CHECK(!stream.capture || stream.capture == event->capture, "DEVICE_ERROR", "a wait for an event of another capture");
    if (!stream.capture) {
      stream.capture = event->capture;
      stream.number = int(stream.capture->streams.size());
      stream.capture->streams.push_back(&stream);
    }
    for (const int node : event->nodes)
      if (std::find(stream.tail.begin(), stream.tail.end(), node) == stream.tail.end()) stream.tail.push_back(node);
    return;
  }
  LGD_CHECK(!stream.capture, "DEVICE_ERROR", "captured work waits for an event outside the capture");
  merge(stream.clock, event->clock);
  stream.queue.push_back({nullptr, event, event->recorded, true});
}

void await_event(void* handle) {
  std::lock_guard lock(mutex);
  const EventPtr event = event_of(handle);
  LGD_CHECK(!event->capture, "DEVICE_ERROR", "the host waits for an event that was recorded in a capture");
  run_until([&] { return event->done >= event->recorded; }, [&] {
    for (Stream* stream : streams)
      for (const Item& item : stream->queue)
        if (item.event == event && !item.waits) return advance(*stream);
    throw Error("DEVICE_ERROR", "the host waits for an event that nobody records");
  });
  merge(host_clock, event->clock);
}

void begin_capture(void* handle) {
  std::lock_guard lock(mutex);
  Stream& stream = stream_of(handle);
  LGD_CHECK(!stream.capture, "DEVICE_ERROR", "a capture within a capture");
  stream.capture = captures.emplace_back(std::make_shared<Capture>());
  stream.capture->streams = {&stream};
  stream.number = 0;
  stream.tail.clear();
}

void* end_capture(void* stream) {
  std::lock_guard lock(mutex);
  GraphPtr graph;
  if (const char* why = close_capture(stream_of(stream), graph)) throw Error("DEVICE_ERROR", why);
  return new GraphPtr(std::move(graph));
}
void discard_capture(void* stream) noexcept {
  std::lock_guard lock(mutex);
  GraphPtr graph;
  close_capture(stream_of(stream), graph);
}

size_t graph_nodes(void* graph) { return (*static_cast<GraphPtr*>(graph))->nodes.size(); }
void destroy_graph(void* graph) noexcept { delete static_cast<GraphPtr*>(graph); }
void* instantiate(void* graph) { return new GraphPtr(*static_cast<GraphPtr*>(graph)); }
void destroy_executable(void* executable) noexcept { delete static_cast<GraphPtr*>(executable); }
bool update(void* executable, void* graph) {
  GraphPtr& old = *static_cast<GraphPtr*>(executable);
  const GraphPtr& now = *static_cast<GraphPtr*>(graph);
  if (!same_shape(*old, *now)) return false;
  old = now;  // a launch before this one keeps its own
  return true;
}

void launch(void* executable, void* handle) {
  std::lock_guard lock(mutex);
  Stream& stream = stream_of(handle);
  LGD_CHECK(!stream.capture, "DEVICE_ERROR", "a graph launched into a capture");
  enqueue(stream, *static_cast<GraphPtr*>(executable));
}

}  // namespace lgd::cuda
