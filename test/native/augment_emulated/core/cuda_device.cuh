// Stands in for native/core/cuda_device.cuh, so that native/augment/augment.cu compiles as ordinary C++ and runs on the host: one fiber per
// CUDA thread, switched at barriers and warp shuffles. Launches and copies are kept in a list, as a stream keeps them, and run
// when somebody waits: memory that is written again too early shows in the result.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "core/device.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define threadIdx (::emulated::current->index)
#define blockIdx (::emulated::block)
#define __syncthreads() ::emulated::barrier(::emulated::block_barrier)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1) : x(x_), y(y_) {}
};

namespace emulated {

constexpr size_t stack_bytes = size_t(64) << 10;

struct Barrier {
  int arrived = 0, expected = 0;
  unsigned generation = 0;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  dim3 index;
  unsigned exchanges = 0;
  const Barrier* waits = nullptr;
  unsigned generation = 0;
  bool done = true;
};

struct Warp {
  Barrier barrier;
  float values[2][32];
};

inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline Fiber* current = nullptr;
inline dim3 block;
inline Barrier block_barrier;
inline ucontext_t scheduler;
inline const std::function<void()>* body = nullptr;
inline bool backwards = false;                       // order in which the threads of a block are taken
inline std::vector<std::function<void()>> stream;    // work not run yet

inline void entry() {
  (*body)();
  current->done = true;
  swapcontext(&current->context, &scheduler);
}

inline void barrier(Barrier& at) {
  if (++at.arrived == at.expected) {
    at.arrived = 0;
    ++at.generation;
    return;
  }
  current->waits = &at;
  current->generation = at.generation;
  swapcontext(&current->context, &scheduler);
}

inline float shuffle_xor(float value, int mask) {
  const unsigned lane = current->index.x % 32, slot = current->exchanges++ % 2;  // two slots in turn: one barrier an exchange
  Warp& warp = warps[current->index.x / 32];
  warp.values[slot][lane] = value;
  barrier(warp.barrier);
  return warp.values[slot][lane ^ unsigned(mask)];
}

inline void run_block(unsigned threads) {
  block_barrier = {0, int(threads), 0};
  for (Warp& warp : warps) warp.barrier = {0, 32, 0};
  for (unsigned i = 0; i < threads; ++i) {
    Fiber& fiber = fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.index = dim3(i);
    fiber.exchanges = 0;
    fiber.waits = nullptr;
    fiber.done = false;
    makecontext(&fiber.context, entry, 0);
  }
  for (unsigned left = threads; left > 0;) {
    unsigned moved = 0;
    for (unsigned i = 0; i < threads; ++i) {
      Fiber& fiber = fibers[backwards ? threads - 1 - i : i];
      if (fiber.done || (fiber.waits && fiber.waits->generation == fiber.generation)) continue;
      fiber.waits = nullptr;
      current = &fiber;
      swapcontext(&scheduler, &fiber.context);
      ++moved;
      if (fiber.done) --left;
    }
    if (moved == 0) throw lgd::Error("DEVICE_ERROR", "deadlock: threads wait at a barrier that others left out");
  }
}

inline void launch(dim3 grid, unsigned threads, const std::function<void()>& kernel) {
  if (grid.x == 0 || grid.y == 0 || grid.y > 65535 || threads > 1024 || threads % 32) throw lgd::Error("DEVICE_ERROR", "invalid configuration");
  fibers.resize(threads);
  warps.resize(threads / 32);
  body = &kernel;
  for (unsigned y = 0; y < grid.y; ++y)
    for (unsigned x = 0; x < grid.x; ++x) {
      block = dim3(x, y);
      run_block(threads);
    }
}

inline void flush() {
  std::vector<std::function<void()>> work;
  work.swap(stream);
  for (auto& item : work) item();
}

}  // namespace emulated

namespace lgd {

struct bf16 { uint16_t bits; };

#define LGD_LAUNCH(ctx, kernel, grid, block, shared, ...) \
  ::emulated::stream.push_back([=] { ::emulated::launch((grid), (block), [=] { kernel(__VA_ARGS__); }); })

template <class Body>
void with_type(DType type, Body&& body) {
  if (type == DType::bf16) body(bf16{});
  else body(float{});
}

using std::min;
inline uint8_t __ldg(const uint8_t* p) { return *p; }
inline float shfl_xor(float value, int mask) { return emulated::shuffle_xor(value, mask); }

struct F8 { float v[8]; };
inline F8 zero8() { return {}; }
inline void store8(float* p, const F8& x) { std::memcpy(p, x.v, sizeof x.v); }
inline void store8(bf16* p, const F8& x) {
  for (int i = 0; i < 8; ++i) {
    uint32_t word;
    std::memcpy(&word, &x.v[i], 4);
    p[i].bits = uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16);
  }
}

}  // namespace lgd
