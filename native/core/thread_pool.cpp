#include "core/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace lgd {

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable wake, finished;
  uint64_t generation = 0;
  int busy = 0;
  bool stop = false;
  Call call = nullptr;
  void* context = nullptr;
  int64_t count = 0;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::vector<std::thread> threads;

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
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()), size_(threads < 1 ? 1 : threads) {
  for (int thread = 1; thread < size_; ++thread) {
    state_->threads.emplace_back([state = state_.get(), thread] {
      uint64_t seen = 0;
      std::unique_lock lock(state->mutex);
      for (;;) {
        state->wake.wait(lock, [&] { return state->stop || state->generation != seen; });
        if (state->stop) return;
        seen = state->generation;
        lock.unlock();
        state->work(thread);
        lock.lock();
        if (--state->busy == 0) state->finished.notify_one();
      }
    });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->wake.notify_all();
  for (auto& thread : state_->threads) thread.join();
}

void ThreadPool::run(int64_t count, Call call, void* context) {
  if (count <= 0) return;
  if (size_ == 1 || count == 1) {
    for (int64_t index = 0; index < count; ++index) call(context, 0, index);
    return;
  }
  State& state = *state_;
  {
    std::lock_guard lock(state.mutex);
    state.call = call;
    state.context = context;
    state.count = count;
    state.next.store(0, std::memory_order_relaxed);
    state.failed.store(false, std::memory_order_relaxed);
    state.error = nullptr;
    state.busy = size_ - 1;
    ++state.generation;
  }
  state.wake.notify_all();
  state.work(0);
  std::unique_lock lock(state.mutex);
  state.finished.wait(lock, [&] { return state.busy == 0; });
  if (state.error) std::rethrow_exception(state.error);
}

}  // namespace lgd
