#include "races.h"

#ifdef LGD_CHECK_RACES

#include <dlfcn.h>
#include <link.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/cuda_device.cuh"
#include "requests.h"
#include "traffic.h"

namespace lgd::emulation::races {

namespace {

// Who used a place, and when.
struct Mark {
  uint32_t block = 0;     // counted over all launches; 0: nobody yet
  uint32_t epoch = 0;     // barriers of the block before
  uint32_t fence = 0;     // barriers of the warp before
  uint16_t thread = 0;
  uint16_t halves : 2 = 0, unordered : 1 = 0;  // which of the two bytes, a bit each; by store_unordered()
  uintptr_t code = 0;     // the instruction behind it
};

// Two bytes of memory; users of one byte each do not meet, and then the last of them is remembered alone. Readers: the last; the last of
// another thread of its warp; the last of another warp or block.
struct Cell {
  Mark written, read[3];
};
constexpr uintptr_t page_bytes = 4096, cell_bytes = 2;
using Page = std::array<Cell, page_bytes / cell_bytes>;
constexpr size_t most_pages = 8192;  // 1.6 GB of cells

struct Race {
  Mark before, now;
  bool written_before, writes_now;
  std::string place;
};

struct State {
  bool running = false;
  const char *stack = nullptr, *stack_end = nullptr, *shared = nullptr, *shared_end = nullptr;
  uint32_t first_block = 1, block = 0, epoch = 0;
  uint16_t thread = 0;
  std::vector<uint32_t> fences;      // of the block's warps
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages;
  struct Near { uintptr_t number = 0; Page* page = nullptr; } near[64];  // pages used lately
  std::vector<Race> races;
  std::set<std::pair<uintptr_t, uintptr_t>> seen;
};
State state;

// The variables of this program or addon: __shared__ ones are among them.
struct Range { const char *begin = nullptr, *end = nullptr; };
const Range variables = [] {
  Range range;
  dl_iterate_phdr([](dl_phdr_info* module, size_t, void* found) {
    const uintptr_t mine = reinterpret_cast<uintptr_t>(&state);
    for (int i = 0; i < module->dlpi_phnum; ++i) {
      const ElfW(Phdr)& part = module->dlpi_phdr[i];
      const uintptr_t begin = module->dlpi_addr + part.p_vaddr, end = begin + part.p_memsz;
      if (part.p_type == PT_LOAD && mine >= begin && mine < end) *static_cast<Range*>(found) = {reinterpret_cast<const char*>(begin), reinterpret_cast<const char*>(end)};
    }
    return 0;
  }, &range);
  return range;
}();

bool is_shared(const char* at) { return (at >= state.shared && at < state.shared_end) || (at >= variables.begin && at < variables.end); }

Page& page_of(uintptr_t number) {
  State::Near& near = state.near[number % 64];
  if (near.number == number && near.page) return *near.page;
  std::unique_ptr<Page>& page = state.pages[number];
  if (!page) page = std::make_unique<Page>();
  near = {number, page.get()};
  return *page;
}

bool ordered(const Mark& before, const Mark& now, bool shared) {
  if (before.block < state.first_block || (before.halves & now.halves) == 0 || (before.unordered && now.unordered)) return true;
  if (before.block != now.block) return shared;
  return before.thread == now.thread || before.epoch != now.epoch || (before.thread / 32 == now.thread / 32 && before.fence != now.fence);
}

void report(const Mark& before, const Mark& now, bool written_before, bool writes_now, const char* at) {
  if (state.races.size() >= 4 || !state.seen.insert({before.code, now.code}).second) return;
  const std::string place = at >= state.shared && at < state.shared_end ? "byte " + std::to_string(at - state.shared) + " of dynamic shared memory"
                            : is_shared(at)                             ? "a __shared__ variable"
                                                                        : "global memory";
  state.races.push_back({before, now, written_before, writes_now, place});
}

void use(const void* address, size_t bytes, bool writes, uintptr_t code, bool unordered = false) {
  const char* const begin = static_cast<const char*>(address);
  if (!state.running || (begin >= state.stack && begin < state.stack_end)) return;
  if (begin >= reinterpret_cast<const char*>(&cursor) && begin < reinterpret_cast<const char*>(&cursor + 1)) return;
  const bool shared = is_shared(begin);
  if (traffic::is_counted() || requests::is_counted()) {
    if (traffic::is_counted() && !shared) traffic::use(address, bytes, writes);
    if (requests::is_counted()) requests::use(address, bytes, writes, shared, code, state.thread);
    return;
  }
  const uint16_t halves = bytes == 1 ? 1 << reinterpret_cast<uintptr_t>(address) % cell_bytes & 3 : 3;
  const Mark now{state.block, state.epoch, state.fences[state.thread / 32], state.thread, halves, unordered, code};
  const uintptr_t first = reinterpret_cast<uintptr_t>(address) / cell_bytes, last = (reinterpret_cast<uintptr_t>(address) + bytes - 1) / cell_bytes;
  for (uintptr_t at = first; at <= last; ++at) {
    Cell& cell = page_of(at * cell_bytes / page_bytes)[at % (page_bytes / cell_bytes)];
    if (!ordered(cell.written, now, shared)) report(cell.written, now, true, writes, begin);
    if (writes) {
      for (const Mark& reader : cell.read)
        if (!ordered(reader, now, shared)) report(reader, now, false, true, begin);
      cell.written = now;
      continue;
    }
    const Mark& latest = cell.read[0];
    if (latest.block != now.block || latest.thread / 32 != now.thread / 32) cell.read[2] = latest;
    else if (latest.thread != now.thread) cell.read[1] = latest;
    cell.read[0] = now;
  }
}

// file:line of an instruction and of the calls that it was inlined from, by binutils; ? without them.
std::string source_of(uintptr_t code) {
  Dl_info info;
  if (!dladdr(reinterpret_cast<void*>(code), &info)) return "?";
  char command[4096], line[512];
  std::snprintf(command, sizeof command, "addr2line -i -s -e '%s' %#zx 2>/dev/null", info.dli_fname, size_t(code - 1 - reinterpret_cast<uintptr_t>(info.dli_fbase)));
  FILE* pipe = popen(command, "r");
  std::string text;
  while (pipe && std::fgets(line, sizeof line, pipe)) text += (text.empty() ? "" : " < ") + std::string(line).substr(0, std::string_view(line).find_first_of("\n ("));
  if (pipe) pclose(pipe);
  return text.empty() ? "?" : text;
}

std::string thread_of(const Mark& mark) { return "thread " + std::to_string(mark.thread) + " of block " + std::to_string(mark.block - state.first_block + 1) + " in turn"; }

}  // namespace

void begin_kernel(const char* shared, size_t shared_bytes) {
  if (state.pages.size() > most_pages) {
    state.pages.clear();
    for (State::Near& near : state.near) near = {};
  }
  state.running = false;  // a kernel before may have failed
  state.races.clear();
  state.shared = shared;
  state.shared_end = shared + shared_bytes;
  state.first_block = state.block + 1;
  state.seen.clear();
  requests::begin_kernel();
}

void begin_block() {
  ++state.block;
  state.epoch = 0;
  state.fences.assign(32, 0);
  state.running = true;
  requests::begin_block();
}

void end_kernel(const char* name) {
  state.running = false;
  if (state.races.empty()) return;
  std::string text = std::string("races in ") + name;
  for (const Race& race : std::exchange(state.races, {}))
    text += "\n  " + race.place + ": " + thread_of(race.now) + (race.writes_now ? " writes (" : " reads (") + source_of(race.now.code) + ") what " + thread_of(race.before) +
            (race.written_before ? " wrote (" : " read (") + source_of(race.before.code) + ")";
  throw Error("DEVICE_ERROR", text);
}

void now_runs(int thread, const char* stack, size_t stack_bytes) {
  state.thread = uint16_t(thread);
  state.stack = stack;
  state.stack_end = stack + stack_bytes;
}

void block_barrier() {
  ++state.epoch;
  requests::block_barrier();
}
void warp_barrier(int warp) { ++state.fences[warp]; }
int64_t epoch() { return state.epoch; }

bool left_out(const char* file, int line) {
  struct Wish {
    std::string_view file;
    int line = 0;
    Wish() {
      const char* text = std::getenv("LGDISTILL_EMULATION_WITHOUT");
      const std::string_view wish = text ? text : "";
      const size_t colon = wish.find(':');
      if (colon == wish.npos) return;
      file = wish.substr(0, colon);
      line = std::atoi(text + colon + 1);
    }
  };
  static const Wish wish;
  return line == wish.line && std::string_view(file).ends_with(wish.file);
}

#define LGD_CODE reinterpret_cast<uintptr_t>(__builtin_return_address(0))

void read(const void* from, size_t bytes, const void* code) { use(from, bytes, false, code ? reinterpret_cast<uintptr_t>(code) : LGD_CODE); }
void write(const void* to, size_t bytes, const void* code) { use(to, bytes, true, code ? reinterpret_cast<uintptr_t>(code) : LGD_CODE); }

void write_unordered(const void* to, size_t bytes) { use(to, bytes, true, LGD_CODE, true); }

void write_since(const void* to, size_t bytes, int64_t since, const void* place) {
  const uintptr_t code = reinterpret_cast<uintptr_t>(place);
  if (requests::is_counted()) return use(to, bytes, true, code);
  const uint32_t now = std::exchange(state.epoch, uint32_t(since));
  for (; state.epoch < now; ++state.epoch) use(to, bytes, true, code);
  use(to, bytes, true, code);
}

// ---- what the compiler calls ------------------------------------------------------------------------------------------------------
extern "C" {
#define LGD_HOOKS(bytes)                                                                                \
  void __tsan_read##bytes(void* p) { use(p, bytes, false, LGD_CODE); }                                  \
  void __tsan_write##bytes(void* p) { use(p, bytes, true, LGD_CODE); }                                  \
  void __tsan_unaligned_read##bytes(void* p) { use(p, bytes, false, LGD_CODE); }                        \
  void __tsan_unaligned_write##bytes(void* p) { use(p, bytes, true, LGD_CODE); }                        \
  void __tsan_volatile_read##bytes(void* p) { use(p, bytes, false, LGD_CODE); }                         \
  void __tsan_volatile_write##bytes(void* p) { use(p, bytes, true, LGD_CODE); }
LGD_HOOKS(1)
LGD_HOOKS(2)
LGD_HOOKS(4)
LGD_HOOKS(8)
LGD_HOOKS(16)
void __tsan_read_range(void* p, size_t bytes) { if (bytes) use(p, bytes, false, LGD_CODE); }
void __tsan_write_range(void* p, size_t bytes) { if (bytes) use(p, bytes, true, LGD_CODE); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
// For the host's side of a kernel file: is a function's static variable made; counts of shared pointers.
unsigned char __tsan_atomic8_load(const volatile unsigned char* p, int) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
int __tsan_atomic32_fetch_add(volatile int* p, int value, int) { return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST); }
}

}  // namespace lgd::emulation::races

#endif
