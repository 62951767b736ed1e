// A device: where memory lives, where work runs, and the queue that keeps the order of a step.
//
// All work of a device runs in order on one host thread of its own. On the CPU that thread computes (with a thread pool);
// on CUDA it enqueues kernels on a stream, so a closure returns before its kernels ran (core/timeline.h says on which stream,
// and when as a graph). JavaScript only ever submits. The first error of work that nobody waits for is kept: later work is skipped, and the
// error reaches whoever waits next. Whose work that was the device does not know: what several use that train on it, each asks it for what was lost
// meanwhile (lost()). The error of work that somebody waits for is that one's alone.
#pragma once
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>

#include "core/error.h"
#include "core/thread_pool.h"

namespace lgd {

struct Kernels;    // ops/kernels.h: the table of operations of one backend
struct Launch;     // core/launch.h: a kernel with its arguments
class PartialSums; // ops/partial_sums.h: sums that wait
struct StepGraph;  // core/timeline.h: what is kept of a step from one time to the next

enum class DeviceKind { cpu, cuda };
enum class DType : uint8_t { f32, bf16 };
inline size_t size_of(DType type) { return type == DType::f32 ? 4 : 2; }

// What launches are laid out for. An H100's, where there is no card to ask.
struct Card {
  int multiprocessors = 132;
  size_t shared_bytes = 228 << 10;        // of a multiprocessor, of which each of its blocks takes 1 KiB more than it asks for: an A100 has 164 KiB, cards of 8.6, 8.9 and 12.0 have 100
  size_t block_shared_bytes = 227 << 10;  // that a block may ask for
};

class Device {
 public:
  Device(DeviceKind kind, int index, int threads);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const DeviceKind kind;
  const int index;          // CUDA ordinal; 0 on the CPU
  const Kernels* kernels;   // never null
  ThreadPool pool;          // host-side parallel loops; use it only from the device's thread
  std::shared_ptr<PartialSums> sums;  // of CUDA, once there were any
  // Dense products of bfloat16 by warpgroups (ops/warpgroups.h): where the device has them, unless $LGDISTILL_WGMMA is 0. Changed on the device's thread only.
  bool warpgroups;
  // Kernels of a step's graph are started before those they come after end (programmatic dependent launch; core/timeline.h): likewise, with $LGDISTILL_PDL.
  bool programmatic_launches;
  // Grids are as large as this card runs at once, and so the order of sums is the same on cards of a kind. Checks lower it, so that small products go as large ones do; on the device's thread only.
  Card card;

  // Device memory. allocate() returns 256-byte aligned, uninitialised memory; OUT_OF_MEMORY names the size asked for.
  void* allocate(size_t bytes);
  void release(void* pointer, size_t bytes) noexcept;
  size_t allocated_bytes() const;
  size_t peak_bytes() const;

  // Copies and fills in stream order. from_host() may return before the copy ran only when the bytes were staged; to_host() waits.
  void from_host(void* device, const void* host, size_t bytes);
  void to_host(void* host, const void* device, size_t bytes);
  void copy(void* to, const void* from, size_t bytes);  // within the device; on CUDA also to or from pinned memory
  void zero(void* device, size_t bytes);
  void synchronize();  // waits until everything enqueued before has run; device thread only
  void launch(const Launch& launch);  // CUDA only, device thread only

  // Scratch memory of at least `bytes`, valid until the next call of scratch() on this stream of the device; device thread only.
  void* scratch(size_t bytes);

  // Device thread only. Kernels that walk over all pixels of a batch do so to and fro, so that each begins where the one before ended and finds in level-2 cache
  // what that has used last: turn() says whether the next goes from the end to the beginning. A pass begins anew, so that every step's kernels go alike.
  bool turn() { return walks_back_ = !walks_back_; }
  void restart_turns() { walks_back_ = false; }

  // CUDA only, device thread only: input that travels while earlier work still runs. stage() gives pinned memory to fill, send()
  // sends its first `bytes` and returns where they arrive. Work enqueued from then on may read them there, until the end of the
  // step, or outside a step until the next stage().
  void* stage(size_t bytes);
  const void* send(size_t bytes);

  // CUDA only, device thread only: the event comes behind all that was enqueued before it; in a step that is held back, behind the step.
  void record_event(void* event);

  // Device thread only; nothing on the CPU. What is enqueued between begin_branch() and end_branch() may run beside what follows,
  // until join_branch() or the end of the step. One branch at a time.
  void begin_branch();
  void end_branch();
  void join_branch();

  // Device thread only; nothing on the CPU. Work between the two may be held back until end_step() and then starts as a whole, as
  // one CUDA graph. A step may be anything: one that differs from the last, or waits in between, only costs more.
  void begin_step(std::shared_ptr<StepGraph> graph);
  void end_step();
  void repeat_step(StepGraph& graph);  // starts the graph of the last such step once more, as it was; CUDA only

  // Runs `work` on the device's thread after everything submitted before. `done` (optional) is called on that thread after it,
  // with null or the error (this work's own, or the earlier one that made it skip). Thread-safe.
  // `stage` names the work in errors ("student.forward").
  void submit(std::string stage, std::function<void()> work, std::function<void(std::exception_ptr)> done = nullptr);
  // The same for somebody who waits for `done`: a kept error is forgotten with it, and the work's own is not kept.
  void ask(std::string stage, std::function<void()> work, std::function<void(std::exception_ptr)> done);
  // ask() and wait for it on the calling thread; rethrows.
  void run(std::string stage, const std::function<void()>& work);
  // Device thread only: how often work that nobody waits for failed or was skipped, or a step that was held back was dropped; and the error of the last time.
  int64_t lost() const;
  std::exception_ptr last_loss() const;

 private:
  void make_current() const noexcept;

  bool walks_back_ = false;
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

// Are products by warpgroups to be had on a CUDA device, and does $LGDISTILL_WGMMA not say 0?
bool has_wanted_warpgroups(int index);
// The same of programmatic dependent launches and $LGDISTILL_PDL.
bool has_wanted_programmatic_launches(int index);

// Device memory that frees itself.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::shared_ptr<Device> device, size_t bytes);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept { swap(other); return *this; }
  ~Buffer() { if (data_) device_->release(data_, bytes_); }

  template <class T = void> T* as() const { return static_cast<T*>(data_); }
  size_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  void swap(Buffer& other) noexcept;
  std::shared_ptr<Device> device_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// The CUDA runtime behind Device; present in every build, throws DEVICE_UNAVAILABLE in a build without CUDA.
namespace cuda {
struct DeviceProperties {
  std::string name;
  int major = 0, minor = 0, multiprocessors = 0;
  size_t memory_bytes = 0;
};
bool compiled();                      // was this addon built with CUDA?
int device_count(std::string& why);   // 0 and the reason where there is no driver or device; never throws
DeviceProperties properties(int index);
bool has_warpgroups(int index);       // compute capability 9.0, and code for sm_90a in this build
bool has_programmatic_launches(int index);  // compute capability 9.0, code for it in this build, and a driver of 12.3
Card card(int index);
int driver_version();                 // 13000 for 13.0; 0 without a driver
int runtime_version();
void* create_stream(int index);
void destroy_stream(void* stream) noexcept;
void set_device(int index);           // for the calling thread
void* allocate(size_t bytes);
void release(void* pointer) noexcept;
void* allocate_pinned(size_t bytes);
void release_pinned(void* pointer) noexcept;
void* create_event();
void destroy_event(void* event) noexcept;
// The host waits. For an event of a step that this thread holds back, that step is started first.
void wait_event(void* event);
const Kernels* kernels();
}  // namespace cuda

}  // namespace lgd
