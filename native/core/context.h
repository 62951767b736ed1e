// What every operation gets: the device it runs on. Operations run on the device's thread, in stream order, and throw
// lgd::Error. Kernels' files read no more than this of a device (core/device.h has the rest): it takes few headers of
// the standard library, which nvcc reads three times a file.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/check.h"

namespace lgd {

class ThreadPool;  // core/thread_pool.h
struct Kernels;    // ops/kernels.h: the table of operations of one backend
struct Launch;     // core/launch.h: a kernel with its arguments

enum class DeviceKind { cpu, cuda };
enum class DType : uint8_t { f32, bf16 };
inline size_t size_of(DType type) { return type == DType::f32 ? 4 : 2; }
// What holds bfloat16 numbers on a device: the CPU keeps them in float32.
inline DType storage_type(DeviceKind kind, bool bfloat16) {
  return bfloat16 && kind == DeviceKind::cuda ? DType::bf16 : DType::f32;
}

// What launches are laid out for. An H100's, where there is no card to ask.
struct Card {
  int multiprocessors = 132;
  // of a multiprocessor, of which each of its blocks takes 1 KiB more than it asks for: an A100 has 164 KiB, cards of
  // 8.6, 8.9 and 12.0 have 100
  size_t shared_bytes = 228 << 10;
  size_t block_shared_bytes = 227 << 10;  // that a block may ask for
};

// What operations keep on a device until it goes.
struct Kept {
  virtual ~Kept() = default;
};

class Context {
 public:
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  const DeviceKind kind;
  const int index;         // CUDA ordinal; 0 on the CPU
  const Kernels* kernels;  // never null
  ThreadPool& pool;        // host-side parallel loops; use it only from the device's thread
  Kept* sums = nullptr;    // of CUDA, once there were any (ops/partial_sums.h)
  // Dense products of bfloat16 by warpgroups (core/cuda_warpgroup.cuh): where the device has them, unless
  // $LGDISTILL_WGMMA is 0. Changed on the device's thread only.
  bool warpgroups;
  // Kernels of a step's graph are started before those they come after end (programmatic dependent launch;
  // core/timeline.h): likewise, with $LGDISTILL_PDL.
  bool programmatic_launches;
  // Grids are as large as this card runs at once, and so the order of sums is the same on cards of a kind. Checks lower
  // it, so that small products go as large ones do; on the device's thread only.
  Card card;

  // Device memory. allocate() returns 256-byte aligned, uninitialised memory; OUT_OF_MEMORY names the size asked for.
  void* allocate(size_t bytes);
  void release(void* pointer, size_t bytes) noexcept;
  size_t allocated_bytes() const;
  size_t peak_bytes() const;

  // Copies and fills in stream order. from_host() may return before the copy ran only when the bytes were staged;
  // to_host() waits.
  void from_host(void* device, const void* host, size_t bytes);
  void to_host(void* host, const void* device, size_t bytes);
  void copy(void* to, const void* from, size_t bytes);  // within the device; on CUDA also to or from pinned memory
  void zero(void* device, size_t bytes);
  void synchronize();                 // waits until everything enqueued before has run; device thread only
  void launch(const Launch& launch);  // CUDA only, device thread only

  // Scratch memory of at least `bytes`, valid until the next call of scratch() on this stream of the device; device
  // thread only.
  void* scratch(size_t bytes);

  // Device thread only. Kernels that walk over all pixels of a batch do so to and fro, so that each begins where the
  // one before ended and finds in level-2 cache what that has used last: turn() says whether the next goes from the end
  // to the beginning. A pass begins anew, so that every step's kernels go alike.
  bool turn() { return walks_back_ = !walks_back_; }
  void restart_turns() { walks_back_ = false; }

  // CUDA only, device thread only: input that travels while earlier work still runs. stage() gives pinned memory to
  // fill, send() sends its first `bytes` and returns where they arrive. Work enqueued from then on may read them there,
  // until the end of the step, or outside a step until the next stage().
  void* stage(size_t bytes);
  const void* send(size_t bytes);

  // CUDA only, device thread only: the event comes behind all that was enqueued before it; in a step that is held back,
  // behind the step.
  void record_event(void* event);

  // Device thread only; nothing on the CPU. What is enqueued between begin_branch() and end_branch() may run beside
  // what follows, until join_branch() or the end of the step. One branch at a time.
  void begin_branch();
  void end_branch();
  void join_branch();

 protected:
  struct Impl;  // of core/device.cpp
  Context(DeviceKind kind, int index, Impl& impl);
  ~Context() = default;

 private:
  void make_current() const noexcept;

  bool walks_back_ = false;
  Impl& impl_;  // the device's
  friend class Device;
};

// The CUDA runtime behind a device; present in every build, throws DEVICE_UNAVAILABLE in a build without CUDA.
namespace cuda {
void* allocate(size_t bytes);
void release(void* pointer) noexcept;
}  // namespace cuda

}  // namespace lgd
