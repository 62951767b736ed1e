#include "core/thread_pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/start_thread.h"

namespace lgd {

namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Waking a sleeping thread takes about 25 us, as long as many a loop; whoever waits looks around for that long before
// it sleeps.
template <class Ready>
bool spin(Ready&& ready) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::microseconds(40);
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      relax();
    }
  } while (Clock::now() < end);
  return false;
}

}  // namespace

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake, finished;
  std::atomic<uint64_t> generation{0};  // of the loop that runs or ran last; written under mutex
  std::atomic<int> busy{0};             // threads besides the caller that joined it; joins under mutex
  std::atomic<bool> stop{false};
  // may threads still join? The caller does not wait for those that come too late.
  bool open = false;
  int asleep = 0;
  Call call = nullptr;
  void* context = nullptr;
  int64_t count = 0;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::vector<std::thread> threads;

  ~State() {
    {
      std::lock_guard lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (auto& thread : threads) thread.join();
  }

  void work(int thread) {
    for (;;) {
      const int64_t index = next.fetch_add(1, std::memory_order_relaxed);
      if (index >= count || failed.load(std::memory_order_relaxed)) return;
      try {
        call(context, thread, index);
      } catch (...) {
        std::lock_guard lock(mutex);
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
  }

  // One thread's life: wait for a loop that was not seen yet, join it, work, leave.
  void serve(int thread) {
    uint64_t seen = 0;
    auto ready = [&] {
      return stop.load(std::memory_order_relaxed) || generation.load(std::memory_order_relaxed) != seen;
    };
    for (;;) {
      spin(ready);
      {
        std::unique_lock lock(mutex);
        ++asleep;
        wake.wait(lock, ready);
        --asleep;
        if (stop) return;
        seen = generation;
        if (!open) continue;
        ++busy;
      }
      work(thread);
      if (busy.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard lock(mutex);  // the caller is either before its check of busy, or asleep and hears this
        finished.notify_one();
      }
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()), size_(threads < 1 ? 1 : threads) {
  for (int thread = 1; thread < size_; ++thread)
    state_->threads.push_back(start_thread([state = state_.get(), thread] { state->serve(thread); }));
}

ThreadPool::~ThreadPool() = default;

void ThreadPool::run(int64_t count, Call call, void* context) {
  if (count <= 0) return;
  if (size_ == 1 || count == 1) {
    for (int64_t index = 0; index < count; ++index) call(context, 0, index);
    return;
  }
  State& state = *state_;
  bool sleepers;
  {
    std::lock_guard lock(state.mutex);
    state.call = call;
    state.context = context;
    state.count = count;
    state.next.store(0, std::memory_order_relaxed);
    state.failed.store(false, std::memory_order_relaxed);
    state.error = nullptr;
    state.open = true;
    ++state.generation;
    sleepers = state.asleep > 0;
  }
  if (sleepers) state.wake.notify_all();
  state.work(0);
  {
    std::lock_guard lock(state.mutex);
    state.open = false;
  }
  auto done = [&] { return state.busy.load(std::memory_order_acquire) == 0; };
  if (!spin(done)) {
    std::unique_lock lock(state.mutex);
    state.finished.wait(lock, done);
  }
  if (state.error) std::rethrow_exception(state.error);
}

}  // namespace lgd
