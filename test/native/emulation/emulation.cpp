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
#include "core/cuda_warpgroup.cuh"
#include "descriptor.h"
#include "ptx/run.h"
#include "tensor_core.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace lgd::emulation {

Cursor cursor;
char* dynamic_shared = nullptr;
std::vector<int64_t> (*chosen_blocks)(const Launch& launch) = nullptr;

namespace {

constexpr size_t stack_bytes = 128 << 10;
struct Copy {
  void* to;
  const void* from;
  bool valid;
};

// What a thread runs on, and where it stands when it does not run.
struct Stack {
  std::unique_ptr<char[]> memory{new char[stack_bytes]};
#if defined(__x86_64__)
  void* pointer = nullptr;
#else
  ucontext_t context;
#endif
};

struct Fiber {
  Stack stack;
  int index = 0;
  unsigned exchanges = 0;
  dim3 thread;
  std::vector<Copy> copies;                // not carried out yet
  std::vector<size_t> groups;              // where each committed group of them ends
  bool waited = false;                     // for the kernel's inputs
  bool unfenced = false, begun = false;    // of a warpgroup's products: see core/cuda_warpgroup.cuh
  std::vector<WarpgroupProduct> products;  // committed and not waited for
  size_t committed = 0;
};
enum class State : uint8_t { fresh, ready, at_block_barrier, at_warp_barrier, done };

struct Warp {
  int arrived = 0, live = 0;
  Exchanged slots[2];
};

struct Machine {
  std::vector<Fiber> fibers;
  // of the fibers; apart from them, as they are looked through most of the time
  std::vector<State> states;
  std::vector<Warp> warps;
  std::vector<int> sequence;                // in which the fibers take turns
  const int *at = nullptr, *end = nullptr;  // in the sequence: the next one to ask
  bool moved = false;                       // whether any ran in this pass over the sequence
  Fiber* current = nullptr;
  int arrived = 0, live = 0;
  const std::function<void()>* kernel = nullptr;
  std::exception_ptr error;
  bool failed = false;  // with that error
  std::vector<char> shared;
  size_t shared_bytes = 0;             // of them in use, from dynamic_shared on
  Stack scheduler{.memory = nullptr};  // the caller's own
};
Machine* machine = nullptr;  // a pointer, as an object would be asked on every use whether it is there yet

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
  popq %rcx  # and no ret, which the processor would expect to go back to where this call came from
  jmp *%rcx
)");
void switch_stacks(Stack& from, Stack& to) { lgd_switch_fiber(&from.pointer, to.pointer); }
#else
void switch_stacks(Stack& from, Stack& to) { swapcontext(&from.context, &to.context); }
#endif

void entry();

void prepare(Stack& stack, [[maybe_unused]] int index) {
#if defined(__x86_64__)
#if defined(__SANITIZE_ADDRESS__)
  if (stack.pointer)  // the thread before never left these frames
    ASAN_UNPOISON_MEMORY_REGION(stack.pointer, stack.memory.get() + stack_bytes - static_cast<char*>(stack.pointer));
#endif
  // The stack as lgd_switch_fiber leaves it: six saved registers below the return address; aligned as after a call.
  // Not all at the same place of a page: they would share the same few lines of the cache.
  const uintptr_t top = (reinterpret_cast<uintptr_t>(stack.memory.get()) + stack_bytes) / 16 * 16 - index % 32 * 128;
  void** slot = reinterpret_cast<void**>(top - 8);
  *--slot = reinterpret_cast<void*>(&entry);
  for (int i = 0; i < 6; ++i) *--slot = nullptr;
  stack.pointer = slot;
#else
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(stack.memory.get(), stack_bytes);
#endif
  getcontext(&stack.context);
  stack.context.uc_stack.ss_sp = stack.memory.get();
  stack.context.uc_stack.ss_size = stack_bytes;
  stack.context.uc_link = nullptr;
  makecontext(&stack.context, entry, 0);
#endif
}

void begin(Fiber& fiber) {
  machine->states[fiber.index] = State::ready;
  fiber.exchanges = 0;
  fiber.copies.clear();
  fiber.groups.clear();
  fiber.waited = fiber.unfenced = fiber.begun = false;
  fiber.products.clear();
  fiber.committed = 0;
}

// The next fiber of this pass that can run; null at its end, or when the kernel failed.
LGD_OWN_MEMORY Fiber* next_fiber() {
  if (machine->failed) return nullptr;
  const State* const states = &machine->states[0];
  for (const int *at = machine->at, *const end = machine->end; at != end; ++at) {
    if (states[*at] > State::ready) continue;
    machine->at = at + 1;
    machine->moved = true;
    return &machine->fibers[*at];
  }
  return nullptr;
}

void let_run(Fiber& fiber) {
  machine->current = &fiber;
  cursor.thread = fiber.thread;
}

// From `self`, the scheduler or a fiber that waits or is done, to a fiber; null: to the scheduler.
void leave_for(Stack& self, Fiber* fiber) {
  if (!fiber) return switch_stacks(self, machine->scheduler);
  let_run(*fiber);
  if (machine->states[fiber->index] == State::fresh) {
    begin(*fiber);
    prepare(fiber->stack, fiber->index);
  }
  switch_stacks(self, fiber->stack);
}

void wait_as(State state) {
  Fiber& self = *machine->current;
  machine->states[self.index] = state;
  leave_for(self.stack, next_fiber());
}

LGD_OWN_MEMORY void release(State from, int first, int count) {
  State* const states = machine->states.data() + first;
  for (int i = 0; i < count; ++i)
    if (states[i] == from) states[i] = State::ready;
}
void release_block() {
  machine->arrived = 0;
  release(State::at_block_barrier, 0, int(machine->states.size()));
}
void release_warp(int number) {
  machine->warps[number].arrived = 0;
  release(State::at_warp_barrier, number * 32, std::min(32, int(machine->states.size()) - number * 32));
}

// A thread that ends counts at barriers no more, as on the device.
void retire(const Fiber& fiber) {
  const int number = fiber.index / 32;
  Warp& warp = machine->warps[number];
  machine->states[fiber.index] = State::done;
  --machine->live;
  --warp.live;
  if (machine->live > 0 && machine->arrived == machine->live) release_block();
  if (warp.live > 0 && warp.arrived == warp.live) release_warp(number);
}

void run_thread() {
  try {
    (*machine->kernel)();
    LGD_CHECK(machine->current->copies.empty(), "DEVICE_ERROR",
              "a thread ended with copies to shared memory that it did not wait for");
    LGD_CHECK(machine->current->products.empty(), "DEVICE_ERROR",
              "a thread ended with products of its warpgroup that it did not wait for");
    LGD_CHECK(machine->current->waited, "DEVICE_ERROR", "a thread of a kernel without wait_for_inputs()");
  } catch (...) {
    if (!machine->failed) machine->error = std::current_exception();
    machine->failed = true;
  }
  retire(*machine->current);
}

// Threads one after the other, as long as those that follow have not begun: most kernels have no barrier, and then one
// stack does for a block.
void entry() {
  for (;;) {
    run_thread();
    Fiber& self = *machine->current;
    Fiber* const next = next_fiber();
    if (!next || machine->states[next->index] != State::fresh) leave_for(self.stack, next);
    std::swap(self.stack, next->stack);
    begin(*next);
    let_run(*next);
  }
}

}  // namespace

Order order() {
  const char* wish = std::getenv("LGDISTILL_EMULATION_ORDER");
  if (!wish) return Order::forward;
  if (std::string_view(wish) == "reverse") return Order::reverse;
  if (std::string_view(wish) == "random") return Order::random;
  if (std::string_view(wish) == "none") return Order::none;
  return Order::forward;
}

namespace {

// Numbers for shuffling (splitmix64).
struct Random {
  using result_type = uint64_t;
  uint64_t state = 7;
  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return ~uint64_t(0); }
  uint64_t operator()() {
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
};

void prepare_block(int count) {
  std::memset(dynamic_shared, 0xff, machine->shared_bytes);  // NaN in float32 and in both bfloat16 halves
  std::fill(machine->states.begin(), machine->states.end(), State::fresh);
  for (int number = 0; number < int(machine->warps.size()); ++number) {
    machine->warps[number].arrived = 0;
    machine->warps[number].live = std::min(32, count - number * 32);
  }
  machine->arrived = 0;
  machine->live = count;
}

void run_block(Order how, Random& random) {
  while (machine->live > 0) {
    if (how == Order::random) std::shuffle(machine->sequence.begin(), machine->sequence.end(), random);
    machine->at = machine->sequence.data();
    machine->end = machine->at + machine->sequence.size();
    machine->moved = false;
    while (Fiber* const fiber = next_fiber()) leave_for(machine->scheduler, fiber);
    if (std::exchange(machine->failed, false)) std::rethrow_exception(std::exchange(machine->error, nullptr));
    LGD_CHECK(machine->moved, "DEVICE_ERROR", "deadlock: ", machine->live,
              " threads wait at a barrier that the others left");
  }
}

}  // namespace

int lane() { return machine->current->index % 32; }

void sync_block() {
  if (++machine->arrived == machine->live) release_block();
  else wait_as(State::at_block_barrier);
}

void sync_warp() {
  const int number = machine->current->index / 32;
  Warp& warp = machine->warps[number];
  if (++warp.arrived == warp.live) release_warp(number);
  else wait_as(State::at_warp_barrier);
}

const Exchanged& exchange(const void* mine, size_t bytes, void (*together)(Exchanged&)) {
  Fiber& fiber = *machine->current;
  Warp& warp = machine->warps[fiber.index / 32];
  // two in turn: a fast lane may start the next exchange while a slow one still reads
  Exchanged& slots = warp.slots[fiber.exchanges++ & 1];
  std::memcpy(slots.lane[fiber.index % 32], mine, bytes);
  if (together && warp.arrived + 1 == warp.live) together(slots);
  sync_warp();
  return slots;
}

void defer_copy(void* to, const void* from, bool valid) { machine->current->copies.push_back({to, from, valid}); }
void commit_copies() { machine->current->groups.push_back(machine->current->copies.size()); }
void wait_for_inputs() { machine->current->waited = true; }

void wait_copies(int pending) {
  Fiber& fiber = *machine->current;
  const int over = int(fiber.groups.size()) - pending;
  if (over <= 0) return;
  const size_t end = fiber.groups[over - 1];
  for (size_t i = 0; i < end; ++i) {
    const Copy& copy = fiber.copies[i];
    if (copy.valid) std::memcpy(copy.to, copy.from, 16);
    else std::memset(copy.to, 0, 16);
  }
  fiber.unfenced |= end > 0;
  fiber.copies.erase(fiber.copies.begin(), fiber.copies.begin() + end);
  fiber.groups.erase(fiber.groups.begin(), fiber.groups.begin() + over);
  for (size_t& group : fiber.groups) group -= end;
}

// ---- products of a warpgroup: core/cuda_warpgroup.cuh ---------------------------------------------------------------
void fence_copies() { machine->current->unfenced = false; }

void begin_products() { machine->current->begun = true; }

void add_product(const WarpgroupProduct& product) {
  LGD_CHECK(machine->current->begun, "DEVICE_ERROR", "a warpgroup's product without warpgroup_begin()");
  LGD_CHECK(!machine->current->unfenced, "DEVICE_ERROR",
            "a warpgroup's product reads copies that no fence_shared_for_warpgroup() followed");
  machine->current->products.push_back(product);
}

void commit_products() { machine->current->committed = machine->current->products.size(); }

namespace {

// Element (row, k) of a matrix that a descriptor tells of.
float element(uint64_t descriptor, bool k_outer, int row, int k) {
  const size_t at = element_address(descriptor, k_outer, row, k) - first_shared_address;
  LGD_CHECK(at + 2 <= machine->shared_bytes, "DEVICE_ERROR",
            "a warpgroup's product reads beyond the block's shared memory");
  uint16_t bits;
  std::memcpy(&bits, dynamic_shared + at, 2);
  return std::bit_cast<float>(uint32_t(bits) << 16);
}

}  // namespace

void finish_products() {
  Fiber& fiber = *machine->current;
  LGD_CHECK(fiber.committed == fiber.products.size(), "DEVICE_ERROR",
            "a wait for a warpgroup's products that were not committed");
  const int lane = fiber.index % 32, warp = fiber.index / 32 % 4;
  for (const WarpgroupProduct& product : fiber.products) {
    float a[2][product_depth];
    for (int half = 0; half < 2; ++half)
      for (int k = 0; k < product_depth; ++k)
        a[half][k] = element(product.a, product.a_outer, warp * 16 + half * 8 + lane / 4, k);
    for (int part = 0; part < product.columns / 8; ++part) {
      const int own = lane % 4 * 2;  // this thread's columns: own and the next
      float b[product_depth][product_columns] = {};
      for (int k = 0; k < product_depth; ++k)
        for (int i = 0; i < 2; ++i) b[k][i] = element(product.b, product.b_outer, part * 8 + own + i, k);
      float* const to = product.sums[part];
      float sums[2][product_columns] = {{to[0], to[1]}, {to[2], to[3]}};
      add_products(hopper, least_bfloat16, 2, a, b, sums);
      for (int i = 0; i < 4; ++i) to[i] = sums[i / 2][i % 2];
    }
  }
  fiber.products.clear();
  fiber.committed = 0;
  fiber.begun = false;
}

void run_kernel(const Launch& launch, const std::function<void()>& kernel) {
  const Order how = order();
  if (how == Order::none) return;
  // One kernel at a time: what would be a thread's own is looked for at every turn of a fiber, and an addon finds that
  // slowly.
  static std::mutex& mutex = *new std::mutex;  // like all that is static here never destroyed: see streams.h
  const std::lock_guard lock(mutex);
  Random random;
  const dim3 grid(launch.grid.x, launch.grid.y, launch.grid.z), block(launch.block.x, launch.block.y, launch.block.z);
  std::vector<int64_t> blocks;  // a kernel may count on no order among them
  if (chosen_blocks) {
    blocks = chosen_blocks(launch);
  } else {
    blocks.resize(int64_t(grid.x) * grid.y * grid.z);
    std::iota(blocks.begin(), blocks.end(), int64_t(0));
  }
  if (how == Order::reverse) std::reverse(blocks.begin(), blocks.end());
  if (how == Order::random) std::shuffle(blocks.begin(), blocks.end(), random);
  if (ptx::is_asked_for()) return ptx::run(launch, blocks, how);
  static Machine& the_machine = *new Machine;
  machine = &the_machine;
  const int count = int(block.x * block.y * block.z);
  machine->states.resize(count);
  machine->warps.resize((count + 31) / 32);
  if (int(machine->fibers.size()) < count) machine->fibers.resize(count);
  for (int i = 0; i < count; ++i) {
    machine->fibers[i].index = i;
    machine->fibers[i].thread = dim3(i % block.x, i / block.x % block.y, i / (block.x * block.y));
  }
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(machine->shared.data(), machine->shared.size());
#endif
  machine->shared.resize(std::max(machine->shared.size(), launch.shared_bytes + 256));
  machine->shared_bytes = launch.shared_bytes;
  dynamic_shared = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(machine->shared.data()) + 127) / 128 * 128);
#if defined(__SANITIZE_ADDRESS__)
  char* const behind = dynamic_shared + launch.shared_bytes;  // what the kernel did not ask for
  ASAN_POISON_MEMORY_REGION(behind, machine->shared.data() + machine->shared.size() - behind);
#endif
  machine->kernel = &kernel;
  cursor.block_size = block;
  cursor.grid_size = grid;
  machine->sequence.resize(count);
  std::iota(machine->sequence.begin(), machine->sequence.end(), 0);
  if (how == Order::reverse) std::reverse(machine->sequence.begin(), machine->sequence.end());
  for (const int64_t at : blocks) {
    cursor.block =
        dim3(unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / (int64_t(grid.x) * grid.y)));
    prepare_block(count);
    run_block(how, random);
  }
}

}  // namespace lgd::emulation
