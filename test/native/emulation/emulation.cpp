// The fibers of the emulated GPU: how the threads of a kernel run. Streams and what stands behind Device: runtime.cpp.
#include <cstdlib>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "core/cuda_device.cuh"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace lgd::emulation {

thread_local Cursor cursor;
thread_local char* dynamic_shared;

namespace {

constexpr size_t stack_bytes = 128 << 10;
enum class Wait { none, block, warp };
struct Copy { void* to; const void* from; bool valid; };

struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  std::unique_ptr<char[]> stack{new char[stack_bytes]};
  bool done = false;
  Wait wait = Wait::none;
  int index = 0;
  unsigned exchanges = 0;
  dim3 thread;
  std::vector<std::vector<Copy>> groups;
  std::vector<Copy> open;
};

struct Warp {
  int arrived = 0, live = 0;
  alignas(16) char slots[2][32][exchange_bytes];
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Fiber* current = nullptr;
  int arrived = 0, live = 0;
  const std::function<void()>* kernel = nullptr;
  std::exception_ptr error;
  std::vector<char> shared;
  size_t shared_bytes = 0;  // of them in use, from dynamic_shared on
#if defined(__x86_64__)
  void* scheduler = nullptr;
#else
  ucontext_t scheduler;
#endif
};
thread_local Machine machine;

#if defined(__x86_64__)
extern "C" void lgd_switch_fiber(void** save, void* to);
asm(R"(
.text
.type lgd_switch_fiber, @function
lgd_switch_fiber:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
void resume(Fiber& fiber) { lgd_switch_fiber(&machine.scheduler, fiber.stack_pointer); }
void yield() { lgd_switch_fiber(&machine.current->stack_pointer, machine.scheduler); }
#else
void resume(Fiber& fiber) { swapcontext(&machine.scheduler, &fiber.context); }
void yield() { swapcontext(&machine.current->context, &machine.scheduler); }
#endif

void entry() {
  try {
    (*machine.kernel)();
  } catch (...) {
    if (!machine.error) machine.error = std::current_exception();
  }
  machine.current->done = true;
  for (;;) yield();
}

void start(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack.get(), stack_bytes);  // the thread before never left its frames
#endif
#if defined(__x86_64__)
  // The stack as lgd_switch_fiber leaves it: six saved registers below the return address; aligned as after a call.
  const uintptr_t top = (reinterpret_cast<uintptr_t>(fiber.stack.get()) + stack_bytes) / 16 * 16;
  void** slot = reinterpret_cast<void**>(top - 8);
  *--slot = reinterpret_cast<void*>(&entry);
  for (int i = 0; i < 6; ++i) *--slot = nullptr;
  fiber.stack_pointer = slot;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = stack_bytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#endif
}

void release(Wait kind, int first, int count) {
  for (int i = first; i < first + count; ++i)
    if (machine.fibers[i].wait == kind) machine.fibers[i].wait = Wait::none;
}

}  // namespace

Order order() {
  const char* wish = std::getenv("LGDISTILL_EMULATION_ORDER");
  if (!wish) return Order::forward;
  if (std::string_view(wish) == "reverse") return Order::reverse;
  if (std::string_view(wish) == "random") return Order::random;
  return Order::forward;
}

namespace {

void prepare_block(dim3 block) {
  const int count = int(block.x * block.y * block.z);
  std::memset(dynamic_shared, 0xff, machine.shared_bytes);  // NaN in float32 and in both bfloat16 halves
  machine.warps.resize((count + 31) / 32);
  for (Warp& warp : machine.warps) warp.arrived = warp.live = 0;
  machine.arrived = 0;
  machine.live = count;
  for (int i = 0; i < count; ++i) {
    Fiber& fiber = machine.fibers[i];
    fiber.done = false;
    fiber.wait = Wait::none;
    fiber.index = i;
    fiber.exchanges = 0;
    fiber.groups.clear();
    fiber.open.clear();
    fiber.thread = dim3(i % block.x, i / block.x % block.y, i / (block.x * block.y));
    ++machine.warps[i / 32].live;
    start(fiber);
  }
}

// A thread that ends counts at barriers no more, as on the device.
void retire(const Fiber& fiber) {
  Warp& warp = machine.warps[fiber.index / 32];
  --machine.live;
  --warp.live;
  if (machine.live > 0 && machine.arrived == machine.live) {
    machine.arrived = 0;
    release(Wait::block, 0, int(machine.fibers.size()));
  }
  if (warp.live > 0 && warp.arrived == warp.live) {
    warp.arrived = 0;
    release(Wait::warp, fiber.index / 32 * 32, std::min(32, int(machine.fibers.size()) - fiber.index / 32 * 32));
  }
}

void run_block(std::vector<int>& sequence, Order how, std::mt19937& random) {
  while (machine.live > 0) {
    bool moved = false;
    if (how == Order::random) std::shuffle(sequence.begin(), sequence.end(), random);
    for (int i : sequence) {
      Fiber& fiber = machine.fibers[i];
      if (fiber.done || fiber.wait != Wait::none) continue;
      machine.current = &fiber;
      cursor.thread = fiber.thread;
      resume(fiber);
      moved = true;
      if (fiber.done) retire(fiber);
      if (machine.error) std::rethrow_exception(std::exchange(machine.error, nullptr));
    }
    LGD_CHECK(moved, "DEVICE_ERROR", "deadlock: ", machine.live, " threads wait at a barrier that the others left");
  }
}

}  // namespace

int lane() { return machine.current->index % 32; }

void sync_block() {
  if (++machine.arrived == machine.live) {
    machine.arrived = 0;
    release(Wait::block, 0, int(machine.fibers.size()));
  } else {
    machine.current->wait = Wait::block;
    yield();
  }
}

void sync_warp() {
  const int first = machine.current->index / 32 * 32;
  Warp& warp = machine.warps[first / 32];
  if (++warp.arrived == warp.live) {
    warp.arrived = 0;
    release(Wait::warp, first, std::min(32, int(machine.fibers.size()) - first));
  } else {
    machine.current->wait = Wait::warp;
    yield();
  }
}

const char* exchange(const void* mine, size_t bytes) {
  Fiber& fiber = *machine.current;
  Warp& warp = machine.warps[fiber.index / 32];
  auto& slots = warp.slots[fiber.exchanges++ & 1];  // two in turn: a fast lane may start the next exchange while a slow one still reads
  std::memcpy(slots[fiber.index % 32], mine, bytes);
  sync_warp();
  return slots[0];
}

void defer_copy(void* to, const void* from, bool valid) { machine.current->open.push_back({to, from, valid}); }
void commit_copies() {
  machine.current->groups.push_back(std::move(machine.current->open));
  machine.current->open.clear();
}
void wait_copies(int pending) {
  auto& groups = machine.current->groups;
  while (int(groups.size()) > pending) {
    for (const Copy& copy : groups.front()) {
      if (copy.valid) std::memcpy(copy.to, copy.from, 16);
      else std::memset(copy.to, 0, 16);
    }
    groups.erase(groups.begin());
  }
}

void run_kernel(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  const int count = int(block.x * block.y * block.z);
  machine.fibers.resize(count);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(machine.shared.data(), machine.shared.size());
#endif
  machine.shared.resize(std::max(machine.shared.size(), shared_bytes + 256));
  machine.shared_bytes = shared_bytes;
  dynamic_shared = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(machine.shared.data()) + 127) / 128 * 128);
#if defined(__SANITIZE_ADDRESS__)
  char* const behind = dynamic_shared + shared_bytes;  // what the kernel did not ask for
  ASAN_POISON_MEMORY_REGION(behind, machine.shared.data() + machine.shared.size() - behind);
#endif
  machine.kernel = &kernel;
  cursor.block_size = block;
  cursor.grid_size = grid;
  const Order how = order();
  std::mt19937 random(7);
  std::vector<int> sequence(count);
  std::iota(sequence.begin(), sequence.end(), 0);
  if (how == Order::reverse) std::reverse(sequence.begin(), sequence.end());
  std::vector<int64_t> blocks(int64_t(grid.x) * grid.y * grid.z);  // a kernel may count on no order among them
  std::iota(blocks.begin(), blocks.end(), int64_t(0));
  if (how == Order::reverse) std::reverse(blocks.begin(), blocks.end());
  if (how == Order::random) std::shuffle(blocks.begin(), blocks.end(), random);
  for (const int64_t at : blocks) {
    cursor.block = dim3(unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / (int64_t(grid.x) * grid.y)));
    prepare_block(block);
    run_block(sequence, how, random);
  }
}

}  // namespace lgd::emulation
