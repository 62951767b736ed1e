// A device: where memory lives and work runs (core/context.h), and the queue that keeps the order of a step.
//
// All work of a device runs in order on one host thread of its own. On the CPU that thread computes (with a thread
// pool); on CUDA it enqueues kernels on a stream, so a closure returns before its kernels ran (core/timeline.h says on
// which stream, and when as a graph). JavaScript only ever submits. The first error of work that nobody waits for is
// kept: later work is skipped, and the error reaches whoever waits next. Whose work that was the device does not know:
// what several use that train on it, each asks it for what was lost meanwhile (lost()). The error of work that somebody
// waits for is that one's alone. As the process exits, the thread of a CUDA device begins no more work.
#pragma once
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>

#include "core/context.h"
#include "core/error.h"
#include "core/thread_pool.h"

namespace lgd {

struct StepGraph;  // core/step_graph.h: what is kept of a step from one time to the next

namespace cuda {
struct DeviceProperties {
  std::string name;
  int major = 0, minor = 0, multiprocessors = 0;
  size_t memory_bytes = 0;
};
DeviceProperties properties(int index);
}  // namespace cuda

class Device : public Context {
 public:
  Device(DeviceKind kind, int index, int threads);
  ~Device();

  // of CUDA, as they were when it was opened: a device that failed may not tell them
  const cuda::DeviceProperties properties;

  // Device thread only; nothing on the CPU. Work between the two may be held back until end_step() and then starts as a
  // whole, as one CUDA graph. A step may be anything: one that differs from the last, or waits in between, only costs
  // more.
  void begin_step(std::shared_ptr<StepGraph> graph);
  void end_step();
  // What the caller takes for done once it is enqueued: `undo` is called if the step that holds it back is dropped.
  void undo_if_dropped(std::function<void()> undo);
  void repeat_step(StepGraph& graph);  // starts the graph of the last such step once more, as it was; CUDA only
  // From now on passes over work that nobody waits for, as if it had not been submitted; or no longer.
  void pass_over(bool passed_over);

  // Runs `work` on the device's thread after everything submitted before. `done` (optional) is called on that thread
  // after it, with null or the error (this work's own, or the earlier one that made it skip). Thread-safe. `stage`
  // names the work in errors ("student.forward").
  void submit(std::string stage, std::function<void()> work, std::function<void(std::exception_ptr)> done = nullptr);
  // The same for somebody who waits for `done`: a kept error is forgotten with it, and the work's own is not kept.
  void ask(std::string stage, std::function<void()> work, std::function<void(std::exception_ptr)> done);
  // ask() and wait for it on the calling thread; rethrows.
  void run(std::string stage, const std::function<void()>& work);
  // Device thread only: how often work that nobody waits for failed or was skipped, or a step that was held back was
  // dropped; and the error of the last time.
  int64_t lost() const;
  std::exception_ptr last_loss() const;

 private:
  Device(DeviceKind kind, int index, std::shared_ptr<Impl> impl);

  std::shared_ptr<Impl> shared_;  // with the thread
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
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() {
    if (data_) device_->release(data_, bytes_);
  }

  template <class T = void>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  void swap(Buffer& other) noexcept;
  std::shared_ptr<Device> device_;
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// More of the CUDA runtime behind a device.
namespace cuda {
bool compiled();                            // was this addon built with CUDA?
int device_count(std::string& why);         // 0 and the reason where there is no driver or device; never throws
bool has_warpgroups(int index);             // compute capability 9.0, and code for sm_90a in this build
bool has_programmatic_launches(int index);  // compute capability 9.0, code for it in this build, and a driver of 12.3
Card card(int index);
int driver_version();  // 13000 for 13.0; 0 without a driver
int runtime_version();
void* create_stream(int index);
void destroy_stream(void* stream) noexcept;
void set_device(int index);  // for the calling thread
void* allocate_pinned(size_t bytes);
void release_pinned(void* pointer) noexcept;
// host_waits: a thread that waits for it sleeps, and wakes some tens of microseconds late. Else it keeps its core busy.
void* create_event(bool host_waits = false);
void destroy_event(void* event) noexcept;
// The host waits. For an event of a step that this thread holds back, that step is started first.
void wait_event(void* event);
const Kernels* kernels();
}  // namespace cuda

}  // namespace lgd
