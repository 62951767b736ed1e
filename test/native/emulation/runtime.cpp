// The CUDA runtime calls behind Device, on host memory: streams, events and graphs of the emulated GPU. What it is strict about:
//   - a stream runs no sooner than somebody waits for it, and then pulls the other streams along only as far as its own waits ask
//     (forward order); or the other streams run first (reverse); or all of them in turns (random). So a wait that is missing shows;
//   - the nodes of a graph likewise run in any order that its edges allow; those of one stream must be put one behind the other by them;
//   - two uses of an allocation on different streams, one of them writing, must be ordered by events, a graph's edges or a wait of the
//     host: otherwise the later one is refused (vector clocks; a kernel's pointers tell what it uses, see note_accesses());
//   - host memory of a copy to the device must hold the same bytes when the copy runs as when it was enqueued;
//   - a graph copies from device memory only, to device and pinned memory; memory of its nodes must not have been freed when it is launched; a node
//     that is changed keeps its kernel, and launches before the change keep their arguments.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "core/cuda_streams.h"
#include "core/device.h"
#include "streams.h"

namespace lgd::emulation {

namespace {

constexpr size_t unasked_shared_bytes = 48 << 10;

// What a block may have: as on an H100, or $LGDISTILL_EMULATION_SHARED KiB (an A100 has 163, cards of 8.6, 8.9 and 12.0 have 99).
size_t most_shared_bytes() {
  const char* kib = std::getenv("LGDISTILL_EMULATION_SHARED");
  return size_t(kib && *kib ? std::atoi(kib) : 227) << 10;
}

auto& allowed_shared_bytes = *new std::map<const void*, size_t>;

// With few of them small sizes go as large ones do with an H100's.
int multiprocessors() {
  const char* count = std::getenv("LGDISTILL_EMULATION_MULTIPROCESSORS");
  return count && *count ? std::max(1, std::atoi(count)) : 132;
}

constexpr size_t reserved_shared_bytes = 1 << 10;  // of each block

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

size_t bytes_in_use = 0;

// Of device and pinned memory together: $LGDISTILL_EMULATION_MEMORY. It is read each time, so that a test can refuse one allocation after another.
size_t most_bytes() {
  const char* bytes = std::getenv("LGDISTILL_EMULATION_MEMORY");
  return bytes && *bytes ? size_t(std::atoll(bytes)) : SIZE_MAX;
}

void* allocate_memory(size_t bytes, bool pinned) {
  std::lock_guard lock(mutex);
  LGD_CHECK(bytes_in_use + bytes <= most_bytes(), "OUT_OF_MEMORY", "cannot allocate ", bytes, " bytes beside ", bytes_in_use);
  void* pointer = map_memory(std::max<size_t>(bytes, 1));
  LGD_CHECK(pointer, "OUT_OF_MEMORY", "cannot allocate ", bytes, " bytes");
  LGD_CHECK(reinterpret_cast<uintptr_t>(pointer) >> 32, "DEVICE_ERROR", "memory below 4 GiB, where numbers look like addresses");
  if (order() == Order::none) {
    if (bytes < 64 << 20) std::memset(pointer, 0, bytes);  // numbers that the host takes for a result; an arena is never touched
  } else if (!chosen_blocks) {
    std::memset(pointer, 0xff, bytes);                     // NaN: an output that nobody wrote shows
  }
  const uintptr_t first = reinterpret_cast<uintptr_t>(pointer), end = first + std::max<size_t>(bytes, 1);
  std::erase_if(freed, [&](const auto& range) { return range.first < end && first < range.first + range.second; });
  allocations[first] = {end - first, pinned, {}, {}};
  bytes_in_use += end - first;
  return pointer;
}

// As cudaFree does, waits for everything that was launched.
void free_memory(void* pointer) noexcept {
  if (!pointer) return;
  std::lock_guard lock(mutex);
  try {
    run_everything();
  } catch (...) {
    late_error = std::current_exception();
  }
  const auto at = allocations.find(reinterpret_cast<uintptr_t>(pointer));
  freed[at->first] = at->second.bytes;
  bytes_in_use -= at->second.bytes;
  unmap_memory(pointer, at->second.bytes);
  allocations.erase(at);
}

Operation kernel_operation(const Launch& launch) {
  const dim3 grid{launch.grid.x, launch.grid.y, launch.grid.z}, block{launch.block.x, launch.block.y, launch.block.z};
  const int count = int(block.x * block.y * block.z);
  LGD_CHECK(count >= 1 && count <= 1024, "DEVICE_ERROR", "a block may have 1024 threads, asked for ", count);
  LGD_CHECK(block.z <= 64, "DEVICE_ERROR", "a block may be 64 deep, asked for ", block.z);
  LGD_CHECK(grid.x <= INT32_MAX && grid.y < 65536 && grid.z < 65536 && grid.x >= 1 && grid.y >= 1 && grid.z >= 1, "DEVICE_ERROR", "grid ", grid.x, "x", grid.y, "x", grid.z);
  const auto asked = allowed_shared_bytes.find(launch.kernel);
  const size_t allowed = std::min(most_shared_bytes(), asked == allowed_shared_bytes.end() ? unasked_shared_bytes : std::max(unasked_shared_bytes, asked->second));
  LGD_CHECK(launch.shared_bytes <= allowed, "DEVICE_ERROR", launch.name, " launched with ", launch.shared_bytes, " bytes of shared memory, of which it may have ", allowed);
  const Signature& signature = static_cast<const Signature&>(*launch.parameters);
  std::vector<char> arguments(launch.arguments, launch.arguments + signature.bytes);
  return {launch.name, signature.accesses(launch.arguments), [launch, call = signature.call, arguments = std::move(arguments)] {
            Launch own = launch;
            own.arguments = arguments.data();
            run_kernel(own, [&] { call(own.kernel, own.arguments); });
          }};
}

Operation copy_operation(void* to, const void* from, size_t bytes) {
  const Allocation* source = allocation_of(from);
  std::vector<char> before;
  if (!source || source->pinned) before.assign(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
  return {"copy", {{from, false}, {to, true}}, [=, before = std::move(before)] {
            LGD_CHECK(before.empty() || std::memcmp(before.data(), from, bytes) == 0, "DEVICE_ERROR", "host memory of a copy to the device was written again before the copy ran");
            std::memmove(to, from, bytes);
          }};
}

Operation zero_operation(void* to, size_t bytes) {
  return {"fill", {{to, true}}, [=] {
            if (order() != Order::none) std::memset(to, 0, bytes);
          }};
}

Operation operation_of(const Work& work) {
  switch (work.kind) {
    case Work::Kind::kernel: return kernel_operation(work.launch);
    case Work::Kind::copy: return copy_operation(work.to, work.from, work.bytes);
    case Work::Kind::zero: break;
  }
  return zero_operation(work.to, work.bytes);
}

Operation node_operation(const Work& work) {
  LGD_CHECK(work.kind == Work::Kind::kernel || work.bytes > 0, "DEVICE_ERROR", "a node of a graph that copies or fills nothing");
  if (work.kind == Work::Kind::copy) {
    const Allocation *to = allocation_of(work.to), *from = allocation_of(work.from);
    LGD_CHECK(to && from && !from->pinned, "DEVICE_ERROR", "a graph that copies from the host, or to pageable memory");
  }
  return operation_of(work);
}

}  // namespace

size_t most_shared_memory(const void* kernel) {
  std::lock_guard lock(mutex);
  return allowed_shared_bytes.contains(kernel) ? most_shared_bytes() : unasked_shared_bytes;
}

void allow_shared_memory(const void* kernel, size_t bytes) {
  std::lock_guard lock(mutex);
  size_t& allowed = allowed_shared_bytes[kernel];
  allowed = std::max(allowed, bytes);  // more than a block may have is refused by the launch, which has the kernel's name
}

int resident_blocks(int threads, size_t shared) { return int(std::min((most_shared_bytes() + reserved_shared_bytes) / (shared + reserved_shared_bytes), size_t(2048 / threads))); }

}  // namespace lgd::emulation

// ---- core/device.h and core/cuda_streams.h ------------------------------------------------------------------------------------
namespace lgd::cuda {

using namespace emulation;

bool compiled() { return true; }
int device_count(std::string&) { return 1; }
DeviceProperties properties(int) { return {"emulated GPU", 9, 0, multiprocessors(), size_t(8) << 30}; }
static bool is_one(const char* variable) {
  const char* text = std::getenv(variable);
  return text && std::strcmp(text, "1") == 0;
}
// Where tests ask for them: most run as they would on other cards.
bool has_warpgroups(int) { return is_one("LGDISTILL_WGMMA") || is_one("LGDISTILL_EMULATION_WGMMA"); }
bool has_programmatic_launches(int) { return is_one("LGDISTILL_PDL") || is_one("LGDISTILL_EMULATION_PDL"); }
Card card(int) { return {multiprocessors(), most_shared_bytes() + reserved_shared_bytes, most_shared_bytes()}; }
int driver_version() { return runtime_version(); }
int runtime_version() { return 13000; }
void set_device(int) {}

// A way to run graphs as a variable spells it, a figure for each choice ("011"); null: the variable is not set.
static std::optional<GraphWay> way_of(const char* variable) {
  const char* const text = std::getenv(variable);
  if (!text || std::strlen(text) != 3) return std::nullopt;
  return GraphWay{text[0] == '1', text[1] == '1', text[2] == '1'};
}

// All take the same time; $LGDISTILL_EMULATION_FASTEST_WAY makes one the fastest, and each choice that differs from it costs a tenth.
static double milliseconds_of(const GraphWay& way) {
  const GraphWay fastest = way_of("LGDISTILL_EMULATION_FASTEST_WAY").value_or(way);
  return 1 + 0.1 * ((way.programmatic != fastest.programmatic) + (way.in_order != fastest.in_order) + (way.one_carveout != fastest.one_carveout));
}

void* create_stream(int) {
  std::lock_guard lock(mutex);
  auto* stream = new Stream;
  stream->lane = int(counts.size());
  counts.resize(counts.size() + lanes_of_a_stream);
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

void run(const Work& work, void* stream) {
  std::lock_guard lock(mutex);
  enqueue(stream_of(stream), operation_of(work));
}

void synchronize(void* handle) {
  std::lock_guard lock(mutex);
  Stream& stream = stream_of(handle);
  run_until([&] { return stream.queue.empty(); }, [&] { advance(stream); });
  merge(host_clock, stream.clock);
}

void* create_event() { return new EventPtr(std::make_shared<Event>()); }
void destroy_event(void* event) noexcept { delete static_cast<EventPtr*>(event); }

void enqueue_event(void* handle, void* stream_handle) {
  std::lock_guard lock(mutex);
  Stream& stream = stream_of(stream_handle);
  const EventPtr event = event_of(handle);
  event->clock = stream.clock;
  stream.queue.push_back({nullptr, event, ++event->recorded, false});
}

void stream_wait(void* stream_handle, void* handle) {
  std::lock_guard lock(mutex);
  Stream& stream = stream_of(stream_handle);
  const EventPtr event = event_of(handle);
  merge(stream.clock, event->clock);
  stream.queue.push_back({nullptr, event, event->recorded, true});
}

void await_event(void* handle) {
  std::lock_guard lock(mutex);
  const EventPtr event = event_of(handle);
  run_until([&] { return event->done >= event->recorded; }, [&] {
    for (Stream* stream : streams)
      for (const Item& item : stream->queue)
        if (item.event == event && !item.waits) return advance(*stream);
    throw Error("DEVICE_ERROR", "the host waits for an event that nobody records");
  });
  merge(host_clock, event->clock);
}

void* create_timed_event() { return create_event(); }
bool is_over(void* handle) {
  std::lock_guard lock(mutex);
  const EventPtr event = event_of(handle);
  return event->done >= event->recorded;
}
double milliseconds_between(void* begin, void* end) {
  std::lock_guard lock(mutex);
  for (void* event : {begin, end}) LGD_CHECK(event_of(event)->recorded > 0 && is_over(event), "DEVICE_ERROR", "the time between events that were not reached");
  return event_of(end)->milliseconds - event_of(begin)->milliseconds;
}

// What starts early waits first of all (emulation.cpp), so its edge is as good as any.
void* build_graph(const Tape& tape, const GraphWay& way) {
  std::lock_guard lock(mutex);
  LGD_CHECK(!way_of("LGDISTILL_EMULATION_REFUSED_WAY") || *way_of("LGDISTILL_EMULATION_REFUSED_WAY") != way, "DEVICE_ERROR", "no graph is built in this way");
  auto graph = std::make_shared<Graph>();
  graph->milliseconds = milliseconds_of(way);
  for (size_t i = 0; i < tape.size(); ++i) graph->nodes.push_back({node_operation(tape[i]), tape[i].launch.kernel, tape.before(i, way.in_order), tape.on_branch(i) && !way.in_order});
  return new GraphPtr(std::move(graph));
}

bool change_graph(void* handle, size_t index, const Work& work) {
  if (is_one("LGDISTILL_EMULATION_REFUSE")) return false;
  std::lock_guard lock(mutex);
  GraphPtr& graph = *static_cast<GraphPtr*>(handle);
  if (graph.use_count() > 1) graph = std::make_shared<Graph>(*graph);  // a launch before this one keeps its own
  Node& node = graph->nodes[index];
  LGD_CHECK(node.kernel == work.launch.kernel, "DEVICE_ERROR", "a node of another kernel than ", node.operation.name);
  node.operation = node_operation(work);
  return true;
}

void launch_graph(void* graph, void* stream) {
  std::lock_guard lock(mutex);
  enqueue(stream_of(stream), *static_cast<GraphPtr*>(graph));
}

void destroy_graph(void* graph) noexcept {
  std::lock_guard lock(mutex);
  delete static_cast<GraphPtr*>(graph);
}

}  // namespace lgd::cuda
