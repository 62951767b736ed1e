// A fixed pool of threads for data-parallel loops on the CPU.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace lgd {

class ThreadPool {
 public:
  // threads >= 1; the calling thread counts as one of them. Throws where the system starts no more
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return size_; }

  // Calls body(thread, index) for every index in [0, count), thread in [0, size()); returns when all are done.
  // Indices are handed out in order as threads become free; a result must not depend on which thread took which index.
  // The first exception thrown by a body is rethrown here. Not reentrant.
  template <class Body>
  void for_each(int64_t count, Body&& body) {
    using Fn = std::remove_reference_t<Body>;
    run(
        count, [](void* context, int thread, int64_t index) { (*static_cast<Fn*>(context))(thread, index); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  // Splits [0, count) into contiguous ranges of about equal length, at least `grain` long, and calls body(begin, end).
  // The split depends on count, grain and size() only.
  template <class Body>
  void for_range(int64_t count, int64_t grain, Body&& body) {
    if (count <= 0) return;
    int64_t parts = (count + grain - 1) / grain;
    if (parts > size_) parts = size_;
    for_each(parts, [&](int, int64_t part) { body(count * part / parts, count * (part + 1) / parts); });
  }

 private:
  using Call = void (*)(void* context, int thread, int64_t index);
  void run(int64_t count, Call call, void* context);

  struct State;
  std::unique_ptr<State> state_;
  int size_;
};

}  // namespace lgd
