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

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace lgd::emulation {

constinit thread_local Cursor cursor;
constinit thread_local char* dynamic_shared = nullptr;

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
  std::vector<Copy> copies;                  // not carried out yet
  std::vector<size_t> groups;                // where each committed group of them ends
  bool unfenced = false, begun = false;      // of a warpgroup's products: see core/cuda_warpgroup.cuh
  std::vector<WarpgroupProduct> products;    // committed and not waited for
  size_t committed = 0;
};

struct Warp {
  int arrived = 0, live = 0;
  Exchanged slots[2];
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
constinit thread_local Machine* machine = nullptr;  // of a kernel that runs; a pointer, as an object would be asked on every use whether it is there yet

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
void resume(Fiber& fiber) { lgd_switch_fiber(&machine->scheduler, fiber.stack_pointer); }
void yield() { lgd_switch_fiber(&machine->current->stack_pointer, machine->scheduler); }
#else
void resume(Fiber& fiber) { swapcontext(&machine->scheduler, &fiber.context); }
void yield() { swapcontext(&machine->current->context, &machine->scheduler); }
#endif

void entry() {
  try {
    (*machine->kernel)();
    LGD_CHECK(machine->current->products.empty(), "DEVICE_ERROR", "a thread ended with products of its warpgroup that it did not wait for");
  } catch (...) {
    if (!machine->error) machine->error = std::current_exception();
  }
  machine->current->done = true;
  for (;;) yield();
}

void start(Fiber& fiber) {
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack.get(), stack_bytes);  // the thread before never left its frames
#endif
#if defined(__x86_64__)
  // The stack as lgd_switch_fiber leaves it: six saved registers below the return address; aligned as after a call.
  // Not all at the same place of a page: they would share the same few lines of the cache.
  const uintptr_t top = (reinterpret_cast<uintptr_t>(fiber.stack.get()) + stack_bytes) / 16 * 16 - fiber.index % 32 * 128;
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
    if (machine->fibers[i].wait == kind) machine->fibers[i].wait = Wait::none;
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
  std::memset(dynamic_shared, 0xff, machine->shared_bytes);  // NaN in float32 and in both bfloat16 halves
  machine->warps.resize((count + 31) / 32);
  for (Warp& warp : machine->warps) warp.arrived = warp.live = 0;
  machine->arrived = 0;
  machine->live = count;
  for (int i = 0; i < count; ++i) {
    Fiber& fiber = machine->fibers[i];
    fiber.done = false;
    fiber.wait = Wait::none;
    fiber.index = i;
    fiber.exchanges = 0;
    fiber.copies.clear();
    fiber.groups.clear();
    fiber.unfenced = fiber.begun = false;
    fiber.products.clear();
    fiber.committed = 0;
    fiber.thread = dim3(i % block.x, i / block.x % block.y, i / (block.x * block.y));
    ++machine->warps[i / 32].live;
    start(fiber);
  }
}

// A thread that ends counts at barriers no more, as on the device.
void retire(const Fiber& fiber) {
  Warp& warp = machine->warps[fiber.index / 32];
  --machine->live;
  --warp.live;
  if (machine->live > 0 && machine->arrived == machine->live) {
    machine->arrived = 0;
    release(Wait::block, 0, int(machine->fibers.size()));
  }
  if (warp.live > 0 && warp.arrived == warp.live) {
    warp.arrived = 0;
    release(Wait::warp, fiber.index / 32 * 32, std::min(32, int(machine->fibers.size()) - fiber.index / 32 * 32));
  }
}

void run_block(std::vector<int>& sequence, Order how, std::mt19937& random) {
  while (machine->live > 0) {
    bool moved = false;
    if (how == Order::random) std::shuffle(sequence.begin(), sequence.end(), random);
    for (int i : sequence) {
      Fiber& fiber = machine->fibers[i];
      if (fiber.done || fiber.wait != Wait::none) continue;
      machine->current = &fiber;
      cursor.thread = fiber.thread;
      resume(fiber);
      moved = true;
      if (fiber.done) retire(fiber);
      if (machine->error) std::rethrow_exception(std::exchange(machine->error, nullptr));
    }
    LGD_CHECK(moved, "DEVICE_ERROR", "deadlock: ", machine->live, " threads wait at a barrier that the others left");
  }
}

}  // namespace

int lane() { return machine->current->index % 32; }

void sync_block() {
  if (++machine->arrived == machine->live) {
    machine->arrived = 0;
    release(Wait::block, 0, int(machine->fibers.size()));
  } else {
    machine->current->wait = Wait::block;
    yield();
  }
}

void sync_warp() {
  const int first = machine->current->index / 32 * 32;
  Warp& warp = machine->warps[first / 32];
  if (++warp.arrived == warp.live) {
    warp.arrived = 0;
    release(Wait::warp, first, std::min(32, int(machine->fibers.size()) - first));
  } else {
    machine->current->wait = Wait::warp;
    yield();
  }
}

const Exchanged& exchange(const void* mine, size_t bytes, void (*together)(Exchanged&)) {
  Fiber& fiber = *machine->current;
  Warp& warp = machine->warps[fiber.index / 32];
  Exchanged& slots = warp.slots[fiber.exchanges++ & 1];  // two in turn: a fast lane may start the next exchange while a slow one still reads
  std::memcpy(slots.lane[fiber.index % 32], mine, bytes);
  if (together && warp.arrived + 1 == warp.live) together(slots);
  sync_warp();
  return slots;
}

void defer_copy(void* to, const void* from, bool valid) { machine->current->copies.push_back({to, from, valid}); }
void commit_copies() { machine->current->groups.push_back(machine->current->copies.size()); }
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

// ---- products of a warpgroup: core/cuda_warpgroup.cuh -------------------------------------------------------------------------
void fence_copies() { machine->current->unfenced = false; }

void begin_products() { machine->current->begun = true; }

void add_product(const WarpgroupProduct& product) {
  LGD_CHECK(machine->current->begun, "DEVICE_ERROR", "a warpgroup's product without warpgroup_begin()");
  LGD_CHECK(!machine->current->unfenced, "DEVICE_ERROR", "a warpgroup's product reads copies that no fence_shared_for_warpgroup() followed");
  machine->current->products.push_back(product);
}

void commit_products() { machine->current->committed = machine->current->products.size(); }

namespace {

// Element (row, k) of a matrix that a descriptor tells of.
float element(uint64_t descriptor, bool k_outer, int row, int k) {
  const uint32_t first = uint32_t(descriptor & 0x3fff) << 4, leading = uint32_t(descriptor >> 16 & 0x3fff) << 4, stride = uint32_t(descriptor >> 32 & 0x3fff) << 4;
  const bool wide = Swizzle(descriptor >> 62) == Swizzle::b128;
  const uint32_t width = wide ? 128 : 64;  // bytes of a row of the pattern, which repeats every eight rows
  LGD_CHECK((wide || Swizzle(descriptor >> 62) == Swizzle::b64) && first % (8 * width) < width, "DEVICE_ERROR", "a matrix in shared memory that does not begin where its swizzle does");
  uint32_t address = first;
  if (k_outer) address += row / int(width / 2) * leading + k / 8 * stride + k % 8 * width + row % int(width / 2) * 2;
  else address += row / 8 * stride + row % 8 * width + k * 2;
  address ^= (address >> 7 & (wide ? 7u : 3u)) << 4;
  const size_t at = address - first_shared_address;
  LGD_CHECK(at + 2 <= machine->shared_bytes, "DEVICE_ERROR", "a warpgroup's product reads beyond the block's shared memory");
  uint16_t bits;
  std::memcpy(&bits, dynamic_shared + at, 2);
  return std::bit_cast<float>(uint32_t(bits) << 16);
}

}  // namespace

void finish_products() {
  Fiber& fiber = *machine->current;
  LGD_CHECK(fiber.committed == fiber.products.size(), "DEVICE_ERROR", "a wait for a warpgroup's products that were not committed");
  const int lane = fiber.index % 32, warp = fiber.index / 32 % 4;
  for (const WarpgroupProduct& product : fiber.products) {
    float a[2][16];
    for (int half = 0; half < 2; ++half)
      for (int k = 0; k < 16; ++k) a[half][k] = element(product.a, product.a_outer, warp * 16 + half * 8 + lane / 4, k);
    for (int column = 0; column < product.columns; ++column) {
      if (column % 8 / 2 != lane % 4) continue;
      for (int k = 0; k < 16; ++k) {
        const float b = element(product.b, product.b_outer, column, k);
        for (int half = 0; half < 2; ++half) product.sums[column / 8][half * 2 + column % 2] += a[half][k] * b;
      }
    }
  }
  fiber.products.clear();
  fiber.committed = 0;
  fiber.begun = false;
}

void run_kernel(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  static thread_local Machine of_thread;
  machine = &of_thread;
  const int count = int(block.x * block.y * block.z);
  machine->fibers.resize(count);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(machine->shared.data(), machine->shared.size());
#endif
  machine->shared.resize(std::max(machine->shared.size(), shared_bytes + 256));
  machine->shared_bytes = shared_bytes;
  dynamic_shared = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(machine->shared.data()) + 127) / 128 * 128);
#if defined(__SANITIZE_ADDRESS__)
  char* const behind = dynamic_shared + shared_bytes;  // what the kernel did not ask for
  ASAN_POISON_MEMORY_REGION(behind, machine->shared.data() + machine->shared.size() - behind);
#endif
  machine->kernel = &kernel;
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
