#include "core/device.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <future>
#include <mutex>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "core/start_thread.h"
#include "core/timeline.h"
#include "ops/kernels.h"

namespace lgd {

namespace {

struct Job {
  std::string stage;
  std::function<void()> work;
  std::function<void(std::exception_ptr)> done;
  bool awaited;  // somebody waits for it
};

}  // namespace

bool has_wanted_warpgroups(int index) { return is_wanted("LGDISTILL_WGMMA") && cuda::has_warpgroups(index); }
bool has_wanted_programmatic_launches(int index) {
  return is_wanted("LGDISTILL_PDL") && is_wanted("LGDISTILL_GRAPHS") && cuda::has_programmatic_launches(index);
}

struct Context::Impl {
  explicit Impl(int threads) : pool(threads) {}

  ThreadPool pool;
  std::mutex mutex;
  std::condition_variable wake, idle;
  std::deque<Job> jobs;
  bool stop = false;
  bool working = false, halted = false;  // guarded by mutex: a job is under way; no other is begun any more
  std::exception_ptr error;              // the kept error; guarded by mutex
  std::atomic<size_t> allocated{0}, peak{0};
  std::unique_ptr<Timeline> timeline;  // null on the CPU
  void* scratch = nullptr;             // of the CPU
  size_t scratch_bytes = 0;
  // of the thread alone, as all of these
  int64_t lost = 0;
  std::exception_ptr last_loss;
  bool passed_over = false;
  std::thread thread;

  void execute(Job& job) {
    std::exception_ptr failure;
    {
      std::lock_guard lock(mutex);
      failure = job.awaited ? std::exchange(error, nullptr) : error;
    }
    const auto before = timeline ? timeline->stand() : Timeline::Stand{};
    if (failure) {
      if (!job.awaited) lose(failure);
    } else if (passed_over && !job.awaited) {
      // nobody hears of it: its step is given up
    } else if ((failure = failure_of(job))) {
      // A step that a question neither opened nor interrupted is that of others, and as whole as it was.
      const bool intact = job.awaited && timeline && timeline->stand() == before;
      const bool dropped = timeline && !intact && timeline->abandon_step();
      if (dropped || !job.awaited) lose(failure);  // of a step that runs piece by piece this may be the only piece
      if (!job.awaited) {
        std::lock_guard lock(mutex);
        error = failure;
      }
    }
    job.work = nullptr;  // drops what the closure held before anybody hears of it
    if (job.done) job.done(failure);
  }

  static std::exception_ptr failure_of(Job& job) {
    try {
      job.work();
      return nullptr;
    } catch (const Error& e) {
      return std::make_exception_ptr(Error(e.code, job.stage + ": " + e.what(), e.system_error));
    } catch (const std::bad_alloc&) {
      return std::make_exception_ptr(Error("OUT_OF_MEMORY", job.stage + ": the host is out of memory"));
    } catch (const std::exception& e) {
      return std::make_exception_ptr(Error("NATIVE_ERROR", job.stage + ": " + e.what()));
    }
  }

  void lose(const std::exception_ptr& failure) {
    ++lost;
    last_loss = failure;
  }

  // CUDA's runtime and driver take themselves down as the process exits, whoever may call them meanwhile: from the
  // first device on, a process first lets the threads of those that are left end what they have begun.
  static void halt_at_exit(const std::shared_ptr<Impl>& impl) {
    static std::mutex& guard = *new std::mutex;  // never destroyed, as what it guards
    static auto& left = *new std::vector<std::weak_ptr<Impl>>;
    const std::lock_guard lock(guard);
    // behind CUDA's own, which are called after this one
    [[maybe_unused]] static const int asked = std::atexit([] {
      const std::lock_guard lock(guard);
      for (const std::weak_ptr<Impl>& one : left)
        if (const auto impl = one.lock()) impl->halt();
    });
    std::erase_if(left, [](const std::weak_ptr<Impl>& one) { return one.expired(); });
    left.push_back(impl);
  }
  void halt() {
    std::unique_lock lock(mutex);
    halted = true;
    // A GPU that hangs keeps no process. By the system's clock: waits by the steady one need glibc 2.30.
    idle.wait_until(lock, std::chrono::system_clock::now() + std::chrono::seconds(10), [this] { return !working; });
  }

  void enqueue(Job job) {
    {
      std::lock_guard lock(mutex);
      jobs.push_back(std::move(job));
    }
    wake.notify_one();
  }
};

Context::Context(DeviceKind kind_, int index_, Impl& impl)
    : kind(kind_),
      index(index_),
      kernels(kind_ == DeviceKind::cuda ? cuda::kernels() : cpu_kernels()),
      pool(impl.pool),
      warpgroups(kind_ == DeviceKind::cuda && has_wanted_warpgroups(index_)),
      programmatic_launches(kind_ == DeviceKind::cuda && has_wanted_programmatic_launches(index_)),
      card(kind_ == DeviceKind::cuda ? cuda::card(index_) : Card{}),
      impl_(impl) {}

Device::Device(DeviceKind kind_, int index_, int threads) : Device(kind_, index_, std::make_shared<Impl>(threads)) {}

Device::Device(DeviceKind kind_, int index_, std::shared_ptr<Impl> impl)
    : Context(kind_, index_, *impl),
      properties(kind_ == DeviceKind::cuda ? cuda::properties(index_) : cuda::DeviceProperties{}),
      shared_(std::move(impl)) {
  if (kind == DeviceKind::cuda) {
    impl_.timeline = std::make_unique<Timeline>(*this);
    Impl::halt_at_exit(shared_);
  }
  // The thread holds Impl, not the device: the device may die in a closure that this very thread runs.
  impl_.thread = start_thread([impl = shared_, kind = kind, index = index] {
    std::unique_lock lock(impl->mutex);
    try {
      if (kind == DeviceKind::cuda && !impl->halted) cuda::set_device(index);
    } catch (const Error&) { impl->error = std::current_exception(); }
    for (;;) {
      impl->wake.wait(lock, [&] { return impl->stop || (!impl->halted && !impl->jobs.empty()); });
      if (impl->halted || impl->jobs.empty()) return;
      Job job = std::move(impl->jobs.front());
      impl->jobs.pop_front();
      impl->working = true;
      lock.unlock();
      impl->execute(job);
      job = {};
      lock.lock();
      impl->working = false;
      impl->idle.notify_all();
    }
  });
}

Device::~Device() {
  {
    std::lock_guard lock(impl_.mutex);
    impl_.stop = true;
  }
  impl_.wake.notify_all();
  if (impl_.thread.get_id() == std::this_thread::get_id()) impl_.thread.detach();
  else impl_.thread.join();
  release(impl_.scratch, impl_.scratch_bytes);
  if (kind == DeviceKind::cuda) make_current();
  impl_.timeline.reset();  // waits for what uses the sums
  delete sums;
}

void* Context::allocate(size_t bytes) {
  if (bytes == 0) bytes = 1;
  void* pointer = nullptr;
  if (kind == DeviceKind::cuda) {
    cuda::set_device(index);
    pointer = cuda::allocate(bytes);
  } else {
    // Large blocks stand on huge pages where the system grants them: streaming activations is about twice as fast as
    // over 4 KiB pages.
    constexpr size_t huge_page = size_t(2) << 20;
    const size_t alignment = bytes >= 4 * huge_page ? huge_page : 256;
    pointer = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
#if defined(__linux__)
    // advice: nothing is lost where it is refused
    if (pointer && alignment == huge_page) madvise(pointer, bytes, MADV_HUGEPAGE);
#endif
    LGD_CHECK(pointer, "OUT_OF_MEMORY", "cannot allocate ", bytes / (1 << 20), " MiB of memory");
  }
  const size_t now = impl_.allocated += bytes;
  size_t peak = impl_.peak.load();
  while (now > peak && !impl_.peak.compare_exchange_weak(peak, now)) {}
  return pointer;
}

void Context::release(void* pointer, size_t bytes) noexcept {
  if (!pointer) return;
  impl_.allocated -= bytes == 0 ? 1 : bytes;
  if (kind == DeviceKind::cpu) return std::free(pointer);
  if (impl_.timeline && impl_.timeline->defer_release(pointer)) return;
  make_current();  // its work is what the release waits for
  cuda::release(pointer);
}

// For the calling thread, as far as a device that failed lets it.
void Context::make_current() const noexcept {
  try {
    cuda::set_device(index);
  } catch (const Error&) {
    // nothing can be done on it any more, and nothing needs to be
  }
}

size_t Context::allocated_bytes() const { return impl_.allocated; }
size_t Context::peak_bytes() const { return impl_.peak; }

void Context::from_host(void* device, const void* host, size_t bytes) {
  if (bytes == 0) return;
  if (kind == DeviceKind::cuda) impl_.timeline->from_host(device, host, bytes);
  else std::memcpy(device, host, bytes);
}

void Context::to_host(void* host, const void* device, size_t bytes) {
  if (bytes == 0) return;
  if (kind == DeviceKind::cuda) impl_.timeline->to_host(host, device, bytes);
  else std::memcpy(host, device, bytes);
}

void Context::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  if (kind == DeviceKind::cuda) impl_.timeline->copy(to, from, bytes);
  else std::memmove(to, from, bytes);
}

void Context::zero(void* device, size_t bytes) {
  if (bytes == 0) return;
  if (kind == DeviceKind::cuda) impl_.timeline->zero(device, bytes);
  else std::memset(device, 0, bytes);
}

void Context::synchronize() {
  if (kind == DeviceKind::cuda) impl_.timeline->synchronize();
}

void Context::launch(const Launch& launch) { impl_.timeline->launch(launch); }

void* Context::scratch(size_t bytes) {
  if (kind == DeviceKind::cuda) return impl_.timeline->scratch(bytes);
  if (bytes > impl_.scratch_bytes) {
    release(impl_.scratch, impl_.scratch_bytes);
    impl_.scratch = nullptr;
    impl_.scratch_bytes = 0;
    impl_.scratch = allocate(bytes);
    impl_.scratch_bytes = bytes;
  }
  return impl_.scratch;
}

void* Context::stage(size_t bytes) { return impl_.timeline->stage(bytes); }
const void* Context::send(size_t bytes) { return impl_.timeline->send(bytes); }
void Context::record_event(void* event) { impl_.timeline->record_event(event); }

void Context::begin_branch() {
  if (kind == DeviceKind::cuda) impl_.timeline->begin_branch();
}
void Context::end_branch() {
  if (kind == DeviceKind::cuda) impl_.timeline->end_branch();
}
void Context::join_branch() {
  if (kind == DeviceKind::cuda) impl_.timeline->join_branch();
}
void Device::begin_step(std::shared_ptr<StepGraph> graph) {
  if (kind == DeviceKind::cuda) impl_.timeline->begin_step(std::move(graph));
}
void Device::end_step() {
  if (kind == DeviceKind::cuda) impl_.timeline->end_step();
}
void Device::undo_if_dropped(std::function<void()> undo) {
  if (kind == DeviceKind::cuda) impl_.timeline->undo_if_dropped(std::move(undo));
}
void Device::pass_over(bool passed_over) { impl_.passed_over = passed_over; }
void Device::repeat_step(StepGraph& graph) { impl_.timeline->repeat_step(graph); }

void Device::submit(std::string stage, std::function<void()> work, std::function<void(std::exception_ptr)> done) {
  impl_.enqueue({std::move(stage), std::move(work), std::move(done), false});
}

void Device::ask(std::string stage, std::function<void()> work, std::function<void(std::exception_ptr)> done) {
  impl_.enqueue({std::move(stage), std::move(work), std::move(done), true});
}

void Device::run(std::string stage, const std::function<void()>& work) {
  std::promise<void> finished;
  ask(std::move(stage), work, [&](std::exception_ptr error) {
    if (error) finished.set_exception(error);
    else finished.set_value();
  });
  finished.get_future().get();
}

int64_t Device::lost() const { return impl_.lost; }
std::exception_ptr Device::last_loss() const { return impl_.last_loss; }

Buffer::Buffer(std::shared_ptr<Device> device, size_t bytes) : device_(std::move(device)), bytes_(bytes) {
  data_ = device_->allocate(bytes);
}

void Buffer::swap(Buffer& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
}

}  // namespace lgd
