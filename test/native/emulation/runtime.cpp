// The CUDA runtime on host memory: memory, streams, events and launches of the emulated GPU. What it is strict about:
//   - a stream runs no sooner than somebody waits for it, and then pulls the other streams along only as far as its own
//     waits ask (forward order); or the other streams run first (reverse); or all of them in turns (random). So a wait
//     that is missing shows;
//   - two uses of an allocation on different streams, one of them writing, must be ordered by events, a graph's edges
//     or a wait of the host: otherwise the later one is refused (vector clocks; a kernel's pointers tell what it uses,
//     see note_accesses());
//   - host memory of a copy to the device must hold the same bytes when the copy runs as when it was enqueued;
//   - memory that is freed must not be in use, as far as the host has waited: nothing but a wait tells it so;
//   - streams, events, memory and what a kernel was allowed belong to the device that was current in the thread when
//     they were made, and work goes to that of its stream;
// It fails as it is told to (faults.h). Graphs are in graphs.cpp.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "core/error.h"
#include "faults.h"
#include "streams.h"

namespace lgd::emulation {

namespace {

constexpr size_t unasked_shared_bytes = 48 << 10;

// What a block may have: as on an H100, or $LGDISTILL_EMULATION_SHARED KiB (an A100 has 163, cards of 8.6, 8.9 and 12.0
// have 99).
size_t most_shared_bytes() {
  const char* kib = std::getenv("LGDISTILL_EMULATION_SHARED");
  return size_t(kib && *kib ? std::atoi(kib) : 227) << 10;
}

// Of each device.
auto& allowed_shared_bytes = *new std::map<std::pair<int, const void*>, size_t>;

// With few of them small sizes go as large ones do with an H100's.
int multiprocessors() {
  const char* count = std::getenv("LGDISTILL_EMULATION_MULTIPROCESSORS");
  return count && *count ? std::max(1, std::atoi(count)) : 132;
}

constexpr size_t reserved_shared_bytes = 1 << 10;  // of each block

// $LGDISTILL_EMULATION_DEVICES, all alike.
constexpr int most_devices = 16;
int count_devices() {
  const char* count = std::getenv("LGDISTILL_EMULATION_DEVICES");
  return count && *count ? std::clamp(std::atoi(count), 1, most_devices) : 1;
}
bool is_device(int device) { return device >= 0 && device % most_devices < count_devices(); }

Clock& unwaited = *new Clock;  // of streams that were destroyed, which waits for nothing

// Memory of its own mapping, far above 4 GiB: the heap of a program that is not position-independent lies below, where
// a float among a kernel's arguments looks like an address of it (0.075f is 0x3d99999a). AddressSanitizer's heap lies
// high, and it watches the byte behind what was asked for.
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

cudaError_t allocate_memory(void** result, size_t bytes, bool pinned) {
  void* pointer = map_memory(std::max<size_t>(bytes, 1));
  if (!pointer) return cudaErrorMemoryAllocation;
  LGD_CHECK(reinterpret_cast<uintptr_t>(pointer) >> 32, "DEVICE_ERROR",
            "memory below 4 GiB, where numbers look like addresses");
  if (order() == Order::none) {
    // numbers that the host takes for a result; an arena is never touched
    if (bytes < 64 << 20) std::memset(pointer, 0, bytes);
  } else if (!chosen_blocks) {
    std::memset(pointer, 0xff, bytes);  // NaN: an output that nobody wrote shows
  }
  const uintptr_t first = reinterpret_cast<uintptr_t>(pointer), end = first + std::max<size_t>(bytes, 1);
  std::erase_if(freed, [&](const auto& range) { return range.first < end && first < range.first + range.second; });
  allocations[first] = {end - first, pinned, current_device, {}, {}};
  *result = pointer;
  return cudaSuccess;
}

// What a call that must not throw came to: the next wait throws it.
void run_everything_quietly() noexcept {
  try {
    run_everything();
  } catch (const Fault&) {
    // what every later call gives
  } catch (...) { late_error = std::current_exception(); }
}

[[noreturn]] void die(const char* why) {
  std::fprintf(stderr, "emulated GPU: %s\n", why);
  std::abort();
}

// "May perform implicit synchronization", says the manual: the host must know that nobody uses the memory any more.
void free_memory(void* pointer, bool pinned) noexcept {
  if (!pointer) return;
  const auto at = allocations.find(reinterpret_cast<uintptr_t>(pointer));
  if (at == allocations.end() || at->second.pinned != pinned) die("what is freed was not allocated, or otherwise");
  for (const std::vector<Use>* uses : {&at->second.writes, &at->second.reads})
    if (!std::all_of(uses->begin(), uses->end(), is_over))
      die("memory is freed that work may still use: nobody waited for it");
  freed[at->first] = at->second.bytes;
  unmap_memory(pointer, at->second.bytes);
  allocations.erase(at);
}

struct Kernel {
  const char* name;
  const Signature* signature;
  std::string symbol;  // mangled, as far as that can be told, from its first launch
};
auto& kernels = *new std::map<const void*, Kernel>;

bool is_one(const char* variable) {
  const char* text = std::getenv(variable);
  return text && std::strcmp(text, "1") == 0;
}

// What a wait of the host comes to.
template <class Body>
cudaError_t wait(Body&& body) {
  try {
    body();
    return cudaSuccess;
  } catch (const Fault& fault) { return fault.status; }
}

}  // namespace

void know_kernel(const void* kernel, const char* name, const Signature* signature) {
  std::lock_guard lock(mutex);
  auto& known = kernels[kernel];
  known.name = name;
  known.signature = signature;
  if (known.symbol.empty()) known.symbol = "_Z" + std::to_string(std::strlen(name)) + name;
}

size_t most_shared_memory(const void* kernel) {
  std::lock_guard lock(mutex);
  const bool asked = std::any_of(allowed_shared_bytes.begin(), allowed_shared_bytes.end(),
                                 [&](const auto& one) { return one.first.second == kernel; });
  return asked ? most_shared_bytes() : unasked_shared_bytes;
}

Operation kernel_operation(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared) {
  const auto& [name, signature, symbol] = kernels.at(kernel);
  const int count = int(block.x * block.y * block.z);
  LGD_CHECK(signature->bytes <= 4096, "DEVICE_ERROR", name, " has ", signature->bytes,
            " bytes of parameters; before CUDA 12.1 there may be 4096");
  LGD_CHECK(count >= 1 && count <= 1024, "DEVICE_ERROR", "a block may have 1024 threads, asked for ", count);
  LGD_CHECK(block.z <= 64, "DEVICE_ERROR", "a block may be 64 deep, asked for ", block.z);
  LGD_CHECK(grid.x <= INT32_MAX && grid.y < 65536 && grid.z < 65536 && grid.x >= 1 && grid.y >= 1 && grid.z >= 1,
            "DEVICE_ERROR", "grid ", grid.x, "x", grid.y, "x", grid.z);
  const auto asked = allowed_shared_bytes.find({current_device, kernel});
  // who asks for less than what comes unasked gets no more
  const size_t allowed =
      std::min(most_shared_bytes(), asked == allowed_shared_bytes.end() ? unasked_shared_bytes : asked->second);
  LGD_CHECK(shared <= allowed, "DEVICE_ERROR", name, " launched with ", shared,
            " bytes of shared memory, of which it may have ", allowed);
  std::vector<char> bytes(signature->bytes);
  for (int i = 0; i < signature->count; ++i) {
    // with what lies behind an argument, which is zero
    const size_t end = i + 1 < signature->count ? signature->offsets[i + 1] : signature->bytes;
    std::memcpy(bytes.data() + signature->offsets[i], arguments[i], end - signature->offsets[i]);
  }
  std::vector<Access> accesses = signature->accesses(bytes.data());
  for (const Access& access : accesses)
    LGD_CHECK(!access.certain || !access.address || allocation_of(access.address), "DEVICE_ERROR", name,
              " gets a pointer to memory that no device has");
  Launch launch{name, kernel, {grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, shared, signature, nullptr};
  return {name, std::move(accesses), [launch, call = signature->call, bytes = std::move(bytes)] {
            Launch own = launch;
            own.arguments = bytes.data();
            run_kernel(own, [&] { call(own.kernel, own.arguments); });
          }};
}

Operation copy_operation(void* to, const void* from, size_t bytes) {
  const Allocation* source = allocation_of(from);
  for (const void* end : {static_cast<const void*>(to), from})
    if (allocation_of(end)) check_range(end, bytes);
  const char *const first = static_cast<const char*>(to), *const other = static_cast<const char*>(from);
  LGD_CHECK(first + bytes <= other || other + bytes <= first, "DEVICE_ERROR", "a copy between areas that overlap");
  std::vector<char> before;
  if (!source || source->pinned) before.assign(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
  return {"copy", {{from, false}, {to, true}}, [=, before = std::move(before)] {
            LGD_CHECK(before.empty() || std::memcmp(before.data(), from, bytes) == 0, "DEVICE_ERROR",
                      "host memory of a copy to the device was written again before the copy ran");
            std::memcpy(to, from, bytes);
          }};
}

Operation zero_operation(void* to, size_t bytes) {
  check_range(to, bytes);
  return {"fill", {{to, true}}, [=] {
            if (order() != Order::none) std::memset(to, 0, bytes);
          }};
}

}  // namespace lgd::emulation

// ---- devices --------------------------------------------------------------------------------------------------------

using namespace lgd::emulation;

cudaError_t cudaGetLastError() { return cudaSuccess; }  // nobody asks what it was

cudaError_t cudaGetDeviceCount(int* count) {
  LGD_BEGIN(begin_question(__func__));
  *count = count_devices();
  return cudaSuccess;
}

// Products by warpgroups and kernels that start early are where tests ask for them: most run as they would on other
// cards.
static bool has_warpgroups() { return is_one("LGDISTILL_WGMMA") || is_one("LGDISTILL_EMULATION_WGMMA"); }
static bool has_programmatic_launches() { return is_one("LGDISTILL_PDL") || is_one("LGDISTILL_EMULATION_PDL"); }

cudaError_t cudaDriverGetVersion(int* version) {
  LGD_BEGIN(begin_question(__func__));
  *version = CUDART_VERSION;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  LGD_BEGIN(begin_question(__func__));
  if (!is_device(device)) return cudaErrorInvalidDevice;
  *properties = {"emulated GPU", 9, 0, multiprocessors(), size_t(8) << 30};
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  LGD_BEGIN(begin_question(__func__));
  if (!is_device(device)) return cudaErrorInvalidDevice;
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = multiprocessors(); break;
    case cudaDevAttrComputeCapabilityMajor: *value = has_warpgroups() || has_programmatic_launches() ? 9 : 8; break;
    case cudaDevAttrComputeCapabilityMinor: *value = has_warpgroups() ? 0 : 9; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = int(most_shared_bytes() + reserved_shared_bytes); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(most_shared_bytes()); break;
  }
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  LGD_BEGIN(begin_call(__func__));
  if (device < 0 || device >= count_devices()) return cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}
// A card of another size, as tests ask for within a process, is another device: of each the product asks once what a
// kernel may have there.
cudaError_t cudaGetDevice(int* device) {
  *device = current_device + most_devices * (int(most_shared_bytes() >> 10) * 1000 + multiprocessors());
  return begin_question(__func__);
}

// ---- memory ---------------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  LGD_BEGIN(begin_call(__func__));
  return allocate_memory(pointer, bytes, false);
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  LGD_BEGIN(begin_call(__func__));
  return allocate_memory(pointer, bytes, true);
}

// What frees something does so whatever else it says: each must be called once.
cudaError_t cudaFree(void* pointer) {
  const std::lock_guard lock(mutex);
  const cudaError_t status = begin_call(__func__);
  free_memory(pointer, false);
  return status;
}
cudaError_t cudaFreeHost(void* pointer) {
  const std::lock_guard lock(mutex);
  const cudaError_t status = begin_call(__func__);
  free_memory(pointer, true);
  return status;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  LGD_BEGIN(begin_call(__func__));
  *total = size_t(8) << 30;
  *free = *total;
  for (const auto& [address, allocation] : allocations)
    if (!allocation.pinned) *free -= std::min(*free, allocation.bytes);
  return cudaSuccess;
}

// ---- streams --------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* result, unsigned) {
  LGD_BEGIN(begin_call(__func__));
  auto* stream = new Stream;
  stream->device = current_device;
  stream->lane = add_lane();
  streams.push_back(stream);
  *result = stream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const std::lock_guard lock(mutex);
  const cudaError_t status = begin_call(__func__);
  run_everything_quietly();
  merge(unwaited, stream->clock);
  if (std::erase(streams, stream) != 1) die("a stream that is none is destroyed");
  delete stream;
  return status;
}

static cudaError_t wait_for(Stream& stream) {
  return wait([&] {
    run_until([&] { return stream.queue.empty(); }, [&] { advance(stream); });
    merge(host_clock, stream.clock);
  });
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  LGD_BEGIN(begin_call(__func__));
  return wait_for(*stream);
}
cudaError_t cudaDeviceSynchronize() {
  LGD_BEGIN(begin_call(__func__));
  merge(host_clock, unwaited);
  for (Stream* stream : streams)
    if (const cudaError_t status = stream->device == current_device ? wait_for(*stream) : cudaSuccess;
        status != cudaSuccess)
      return status;
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t handle, unsigned) {
  LGD_BEGIN(begin_call(__func__));
  const EventPtr& event = handle->event;
  merge(stream->clock, event->clock);
  stream->queue.push_back({nullptr, event, event->recorded, true});
  return cudaSuccess;
}

// ---- events ---------------------------------------------------------------------------------------------------------

static cudaError_t create_event(cudaEvent_t* event, bool timed, const char* function) {
  LGD_BEGIN(begin_call(function));
  *event = new EventHandle{std::make_shared<Event>(), current_device, timed};
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return create_event(event, true, __func__); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return create_event(event, (flags & cudaEventDisableTiming) == 0, __func__);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const cudaError_t status = begin_call(__func__);
  delete event;
  return status;
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream) {
  LGD_BEGIN(begin_call(__func__));
  if (handle->device != stream->device) return cudaErrorInvalidResourceHandle;
  const EventPtr& event = handle->event;
  event->clock = stream->clock;
  stream->queue.push_back({nullptr, event, ++event->recorded, false});
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
  LGD_BEGIN(begin_call(__func__));
  const EventPtr& event = handle->event;
  return wait([&] {
    run_until([&] { return event->done >= event->recorded; },
              [&] {
                for (Stream* stream : streams)
                  for (const Item& item : stream->queue)
                    if (item.event == event && !item.waits) return advance(*stream);
                throw lgd::Error("DEVICE_ERROR", "the host waits for an event that nobody records");
              });
    merge(host_clock, event->clock);
  });
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
  LGD_BEGIN(begin_call(__func__));
  return handle->event->done >= handle->event->recorded ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  LGD_BEGIN(begin_call(__func__));
  for (cudaEvent_t handle : {begin, end})
    if (!handle->timed || handle->event->recorded == 0 || handle->device != begin->device)
      return cudaErrorInvalidResourceHandle;
  for (cudaEvent_t handle : {begin, end})
    if (handle->event->done < handle->event->recorded) return cudaErrorNotReady;
  *milliseconds = float(end->event->milliseconds - begin->event->milliseconds);
  return cudaSuccess;
}

// ---- work -----------------------------------------------------------------------------------------------------------

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  LGD_BEGIN(begin_call(__func__));
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout)
    return value >= -1 && value <= 100 ? cudaSuccess : cudaErrorInvalidValue;
  if (value < 0 || size_t(value) > most_shared_bytes()) return cudaErrorInvalidValue;
  allowed_shared_bytes[{current_device, kernel}] = size_t(value);
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) { return begin_call(__func__); }

// A GPU that is lost may tell no names: "may also return error codes from previous, asynchronous launches".
cudaError_t cudaFuncGetName(const char** name, const void* kernel) {
  LGD_BEGIN(begin_question(__func__));
  const auto known = kernels.find(kernel);
  if (known == kernels.end()) return cudaErrorInvalidResourceHandle;  // nobody has launched it
  if (is_lost()) return cudaErrorLaunchFailure;
  *name = known->second.symbol.c_str();
  return cudaSuccess;
}

// With as many registers as they want.
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int threads, size_t shared) {
  LGD_BEGIN(begin_call(__func__));
  *blocks = int(std::min((most_shared_bytes() + reserved_shared_bytes) / (shared + reserved_shared_bytes),
                         size_t(2048 / threads)));
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                             cudaStream_t stream) {
  LGD_BEGIN(begin_work(__func__, *stream));
  if (stream->device != current_device) return cudaErrorInvalidResourceHandle;
  enqueue(*stream, kernel_operation(kernel, grid, block, arguments, shared));
  return is_one("CUDA_LAUNCH_BLOCKING") ? wait_for(*stream) : cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  LGD_BEGIN(begin_work(__func__, *stream));
  enqueue(*stream, copy_operation(to, from, bytes));
  return allocation_of(to) ? cudaSuccess : wait_for(*stream);  // pageable memory has the bytes when this returns
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  LGD_BEGIN(begin_work(__func__, *stream));
  LGD_CHECK(value == 0, "DEVICE_ERROR", "memory is filled with zeros here");
  enqueue(*stream, zero_operation(to, bytes));
  return cudaSuccess;
}
