// Finds memory that two threads of a kernel use, one of them writing, with nothing between them that orders the two:
// what racecheck finds in shared memory on a GPU, and the same in global memory, between blocks too. What orders two
// uses:
//   - in a block: a barrier of the block between them, or of their warp (__syncwarp; shuffles and ldmatrix promise
//     nothing about memory);
//   - a wait for a copy of the thread's own, while for others a barrier must follow: such a copy counts from its issue
//     to the wait;
//   - between blocks of a launch: nothing. Streams and graphs: see runtime.cpp.
// load_unordered() is never in a race (ld.global.cg); two of store_unordered() (st.volatile) are not, either.
#include <algorithm>
#include <array>
#include <bit>
#include <set>
#include <unordered_map>
#include <utility>

#include "watch.h"

namespace lgd::emulation::ptx {

namespace {

// Who used a place, and when.
struct Mark {
  uint32_t block = 0;       // counted over all launches; 0: nobody yet
  uint32_t epoch = 0;       // barriers of the block before
  uint32_t fence : 19 = 0;  // barriers of the warp before: counted to half a million
  uint32_t thread : 10 = 0;
  uint32_t halves : 2 = 0;     // which of the two bytes, a bit each
  uint32_t unordered : 1 = 0;  // by store_unordered()
  uint32_t code = 0;           // the instruction, as the kernel counts them
};

// Two bytes of memory; users of one byte each do not meet, and then the last of them is remembered alone. Readers: the
// last; the last of another thread of its warp; the last of another warp or block. One line of this machine's cache:
// most of the time goes to fetching it.
struct alignas(64) Cell {
  Mark written, read[3];
};
static_assert(sizeof(Cell) == 64);
constexpr uintptr_t page_bytes = 4096, cell_bytes = 2;
using Page = std::array<Cell, page_bytes / cell_bytes>;
constexpr size_t most_pages = 8192;  // 1.1 GB of cells

struct Race {
  Mark before, now;
  bool written_before, writes_now;
  std::string memory;
};

class Races : public Watcher {
 public:
  void begin_kernel(const Launch&, const Kernel& kernel) override {
    code_ = kernel.code.data();
    if (pages_.size() > most_pages) {
      pages_.clear();
      for (Near& near : near_) near = {};
    }
    races_.clear();  // a kernel before may have failed
    seen_.clear();
    first_block_ = block_ + 1;
  }
  void begin_block(const Block& block, int64_t) override {
    ++block_;
    epoch_ = 0;
    fences_.fill(0);
    shared_ = block.shared;
  }
  void block_barrier() override { ++epoch_; }
  void warp_barrier(const Warp& warp) override { ++fences_[warp.number]; }

  void use(const Warp& warp, const Access& access) override {
    const bool unordered = access.instruction->operation->unordered;
    if ((unordered && !access.writes) || access.ahead) return;
    for (uint32_t active = access.active; active; active &= active - 1) {
      const int lane = std::countr_zero(active);
      Mark now{block_,
               epoch_,
               fences_[warp.number],
               uint32_t(warp.number * lanes + lane),
               3,
               unordered,
               uint32_t(access.instruction - code_)};
      if (access.since >= 0)
        for (now.epoch = uint32_t(access.since); now.epoch < epoch_; ++now.epoch)
          use(access.addresses[lane], access, now);
      use(access.addresses[lane], access, now);
    }
  }

  void end_kernel(const Launch& launch, const Kernel& kernel, const std::vector<int64_t>&) override {
    if (races_.empty()) return;
    std::string text = std::string("races in ") + launch.name;
    for (const Race& race : std::exchange(races_, {}))
      text += "\n  " + race.memory + ": " + thread_of(race.now) + (race.writes_now ? " writes (" : " reads (") +
              kernel.place_of(kernel.code[race.now.code]) + ") what " + thread_of(race.before) +
              (race.written_before ? " wrote (" : " read (") + kernel.place_of(kernel.code[race.before.code]) + ")";
    throw Error("DEVICE_ERROR", text);
  }

 private:
  struct Near {
    uintptr_t number = 0;
    Page* page = nullptr;
  };

  Page& page_of(uintptr_t number) {
    Near& near = near_[number % near_.size()];
    if (near.number == number && near.page) return *near.page;
    std::unique_ptr<Page>& page = pages_[number];
    if (!page) page = std::make_unique<Page>();
    near = {number, page.get()};
    return *page;
  }

  bool ordered(const Mark& before, const Mark& now, bool shared) const {
    if (before.block < first_block_ || (before.halves & now.halves) == 0 || (before.unordered && now.unordered))
      return true;
    if (before.block != now.block) return shared;
    return before.thread == now.thread || before.epoch != now.epoch ||
           (before.thread / lanes == now.thread / lanes && before.fence != now.fence);
  }

  void report(const Mark& before, const Mark& now, bool written_before, const Access& access, const char* at) {
    if (races_.size() >= 4 || !seen_.insert({before.code, now.code}).second) return;
    races_.push_back({before, now, written_before, access.writes,
                      access.shared ? "byte " + std::to_string(at - shared_) + " of shared memory" : "global memory"});
  }

  void use(const char* address, const Access& access, Mark now) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
    if (access.bytes == 1) now.halves = 1 << begin % cell_bytes & 3;
    const uintptr_t end = (begin + access.bytes - 1) / cell_bytes + 1;
    for (uintptr_t at = begin / cell_bytes; at < end;) {
      constexpr uintptr_t page_cells = page_bytes / cell_bytes;
      Cell* cell = &page_of(at / page_cells)[at % page_cells];
      for (const uintptr_t stop = std::min(end, (at / page_cells + 1) * page_cells); at < stop; ++at)
        use(*cell++, access, now, address);
    }
  }

  void use(Cell& cell, const Access& access, const Mark& now, const char* address) {
    if (!ordered(cell.written, now, access.shared)) report(cell.written, now, true, access, address);
    if (access.writes) {
      for (const Mark& reader : cell.read)
        if (!ordered(reader, now, access.shared)) report(reader, now, false, access, address);
      cell.written = now;
      return;
    }
    const Mark& latest = cell.read[0];
    if (latest.block != now.block || latest.thread / lanes != now.thread / lanes) cell.read[2] = latest;
    else if (latest.thread != now.thread) cell.read[1] = latest;
    cell.read[0] = now;
  }

  std::string thread_of(const Mark& mark) const {
    return "thread " + std::to_string(mark.thread) + " of block " + std::to_string(mark.block - first_block_ + 1) +
           " in turn";
  }

  uint32_t first_block_ = 1, block_ = 0, epoch_ = 0;
  std::array<uint32_t, 32> fences_{};  // of the block's warps
  const char* shared_ = nullptr;
  const Instruction* code_ = nullptr;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  std::array<Near, 64> near_{};  // pages used lately
  std::vector<Race> races_;
  std::set<std::pair<uint32_t, uint32_t>> seen_;
};

}  // namespace

std::unique_ptr<Watcher> watch_for_races() { return std::make_unique<Races>(); }

}  // namespace lgd::emulation::ptx
