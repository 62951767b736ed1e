// Counts what a launch does, a line of JSON each in the file of $LGDISTILL_EMULATION_COUNTS:
//   slots: instructions that warps execute, by the unit that they need, in slots of issue as machine code would take
//     them, about;
//   instructions: how often warps execute each;
//   lines: slots by place in the source;
//   code: bytes of machine code that are executed at all, about, by place in the source: what instruction caches have
//     to fetch;
//   read, written: bytes of the sectors of 32 that it reads and writes, each once a launch, as a cache without end
//     would have it;
//   filled, written_back: of these what memory gives and gets, with $LGDISTILL_EMULATION_CACHE bytes of level-2 cache
//     and what the launches before left there (far_cache.h); without it 0;
//   places: uses of memory by place in the source: requests of warps; waves that they take, which are cycles of shared
//     memory or sectors of global memory; the least that they would take, without conflicts of banks, with whole
//     sectors; and the sectors that level-1 cache has not (far);
//   with $LGDISTILL_EMULATION_CLOCK=<file of registers> how long the launch takes by the model of clock.h: cycles,
//     blocks of a multiprocessor and how many of them at once, cycles of warps by what they wait for (waits), and by
//     place in the source (waited). $LGDISTILL_EMULATION_WARM=1: nothing has to come from memory.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <unordered_map>

#include "access.h"
#include "clock.h"
#include "far_cache.h"

namespace lgd::emulation::ptx {

namespace {

constexpr uintptr_t page_bytes = 4096;
constexpr double machine_bytes = 16;  // of an instruction

struct Count {
  int64_t requests = 0, waves = 0, least = 0, far = 0;
};

int number_from(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::atoi(text) : otherwise;
}

int multiprocessors() {
  static const int number = number_from("LGDISTILL_EMULATION_MULTIPROCESSORS", 132);
  return number;
}

// Blocks that run at once, by their threads, with 64 registers each, and shared memory.
size_t blocks_at_once(const Launch& launch, const Kernel& kernel) {
  const size_t threads = launch.block.x * launch.block.y * launch.block.z,
               shared = launch.shared_bytes + kernel.shared_bytes;
  return size_t(multiprocessors()) *
         std::max<size_t>(1, std::min(1024 / threads, (size_t(227) << 10) / (shared + 1024)));
}

void add_global(Count& count, const Access& access, const uintptr_t* addresses, NearCache& near,
                std::optional<FarCache>& far) {
  const auto sectors = sectors_of(access.active, access.bytes, addresses);
  Few<lanes> ranges;
  for (uint32_t active = access.active; active; active &= active - 1) ranges.add(addresses[std::countr_zero(active)]);
  count.waves += sectors.count;
  const bool served = NearCache::serves(*access.instruction);
  for (int i = 0; i < sectors.count; ++i) {
    if (served && near.has(sectors.values[i])) continue;
    ++count.far;
    if (far) far->use(sectors.values[i], access.writes);
  }
  count.least += (ranges.count * int64_t(access.bytes) + sector_bytes - 1) / sector_bytes;
}

class Counts : public Watcher {
 public:
  explicit Counts(const char* path) : file_(std::fopen(path, "a")) {
    LGD_CHECK(file_, "DEVICE_ERROR", "cannot write ", path);
    if (const int bytes = number_from("LGDISTILL_EMULATION_CACHE", 0)) far_.emplace(size_t(bytes));
    if (const char* registers = std::getenv("LGDISTILL_EMULATION_CLOCK")) clock_.emplace(registers, multiprocessors());
  }
  ~Counts() override { std::fclose(file_); }

  void begin_kernel(const Launch& launch, const Kernel& kernel) override {
    kernel_ = &kernel;
    warm_ = number_from("LGDISTILL_EMULATION_WARM", 0);
    if (clock_) clock_->begin_kernel(launch, kernel);
    for (auto& of : counts_) of.assign(kernel.code.size(), {});
    pages_.clear();
    near_ = {};
  }
  void begin_block(const Block&, int64_t number) override {
    cache_.clear();
    notes = clock_ && clock_->begin_block(number);
    if (far_) far_->begin_block();
  }

  void note(const Warp& warp, const Instruction& in, uint32_t active) override {
    clock_->note(warp, in, active, [this](uintptr_t sector, bool writes) {
      if (warm_) return false;
      const auto found = pages_.find(page_of(sector));
      if (found == pages_.end()) return true;
      const auto& [read, written] = found->second;
      return !((written[word_of(sector)] | (writes ? 0 : read[word_of(sector)])) & bit_of(sector));
    });
  }

  void use(const Warp&, const Access& access) override {
    if (access.instruction->operation->unit == Unit::tensor) return;  // a warpgroup's operands, see end_kernel
    if (access.ahead) {                                               // memory gives it, and level-2 cache keeps it
      const uintptr_t begin = reinterpret_cast<uintptr_t>(access.addresses[std::countr_zero(access.active)]);
      if (far_)
        for (uintptr_t sector = begin / sector_bytes; sector < (begin + access.bytes) / sector_bytes; ++sector)
          far_->use(sector, false);
      return mark(begin, access.bytes, false);
    }
    Count& count = counts_[access.shared][size_t(access.instruction - kernel_->code.data())];
    ++count.requests;
    uintptr_t addresses[lanes];
    std::transform(access.addresses, access.addresses + lanes, addresses,
                   [](const char* address) { return reinterpret_cast<uintptr_t>(address); });
    if (access.shared) {
      const SharedWaves waves = waves_of(access.active, access.bytes, addresses);
      count.waves += waves.taken;
      count.least += waves.least;
      return;
    }
    add_global(count, access, addresses, cache_, far_);
    for (uint32_t active = access.active; active; active &= active - 1)
      mark(reinterpret_cast<uintptr_t>(access.addresses[std::countr_zero(active)]), access.bytes, access.writes);
  }

  void end_kernel(const Launch& launch, const Kernel& kernel, const std::vector<int64_t>& executed) override {
    std::array<double, units> slots{};
    for (size_t at = 0; at < executed.size(); ++at) {
      if (const int waves = operand_waves(kernel.code[at])) {
        Count& count = counts_[true][at];
        count.requests = executed[at];
        count.waves = count.least = executed[at] * waves;
      }
      const Operation& operation = *kernel.code[at].operation;
      // the special units do one of several instructions
      const double own = operation.unit == Unit::special ? 1 : operation.slots;
      slots[size_t(operation.unit)] += double(executed[at]) * own;
      slots[size_t(Unit::integer)] += double(executed[at]) * (operation.slots - own);
    }
    int64_t read = 0, written = 0;
    for (const auto& [number, page] : pages_) {
      read += page.bytes(page.read);
      written += page.bytes(page.written);
    }
    const FarCache::Traffic traffic = far_ ? far_->end_kernel(blocks_at_once(launch, kernel)) : FarCache::Traffic{};
    std::fprintf(file_,
                 "{\"kernel\":\"%s\",\"symbol\":\"%s\",\"grid\":[%u,%u,%u],\"threads\":%u,\"shared\":%zu,\"read\":%lld,"
                 "\"written\":%lld,\"filled\":%lld,\"written_back\":%lld,\"slots\":{",
                 launch.name, kernel.symbol.c_str(), launch.grid.x, launch.grid.y, launch.grid.z,
                 launch.block.x * launch.block.y * launch.block.z, launch.shared_bytes + kernel.shared_bytes,
                 static_cast<long long>(read), static_cast<long long>(written), static_cast<long long>(traffic.filled),
                 static_cast<long long>(traffic.written_back));
    for (size_t unit = 1; unit < units; ++unit)
      std::fprintf(file_, "%s\"%s\":%.0f", unit > 1 ? "," : "", unit_names[unit], slots[unit]);
    std::fprintf(file_, "},\"instructions\":{");
    std::map<std::string_view, int64_t> by_name;
    for (size_t at = 0; at < executed.size(); ++at)
      if (executed[at]) by_name[kernel.code[at].name()] += executed[at];
    for (const char* comma = ""; const auto& [name, times] : by_name) {
      std::fprintf(file_, "%s\"%.*s\":%lld", comma, int(name.size()), name.data(), static_cast<long long>(times));
      comma = ",";
    }
    std::fprintf(file_, "}");
    std::map<std::string, double> lines, code;
    for (size_t at = 0; at < executed.size(); ++at) {
      const double of_one = double(kernel.code[at].operation->slots);
      if (!executed[at] || of_one == 0) continue;
      const std::string place = kernel.place_of(kernel.code[at]);
      lines[place] += double(executed[at]) * of_one;
      code[place] += machine_bytes * of_one;
    }
    print("lines", lines);
    print("code", code);
    std::fprintf(file_, ",\"places\":[");
    bool begun = false;
    for (const bool shared : {false, true})
      for (size_t at = 0; at < kernel.code.size(); ++at) {
        const Count& count = counts_[shared][at];
        if (count.requests == 0) continue;
        const std::string_view name = kernel.code[at].name();
        std::fprintf(file_,
                     "%s{\"at\":\"%s\",\"does\":\"%.*s\",\"memory\":\"%s\",\"requests\":%lld,\"waves\":%lld,\"least\":%"
                     "lld,\"far\":%lld}",
                     begun ? "," : "", kernel.place_of(kernel.code[at]).c_str(), int(name.size()), name.data(),
                     shared ? "shared" : "global", static_cast<long long>(count.requests),
                     static_cast<long long>(count.waves), static_cast<long long>(count.least),
                     static_cast<long long>(count.far));
        begun = true;
      }
    std::fprintf(file_, "]");
    if (clock_) print(clock_->end_kernel());
    std::fprintf(file_, "}\n");
    std::fflush(file_);
  }

 private:
  using Sectors = std::array<uint64_t, page_bytes / sector_bytes / 64>;  // a bit each
  struct Page {
    Sectors read{}, written{};
    static int64_t bytes(const Sectors& sectors) {
      int64_t sum = 0;
      for (const uint64_t word : sectors) sum += int64_t(sector_bytes) * std::popcount(word);
      return sum;
    }
  };

  static uintptr_t page_of(uintptr_t sector) { return sector * sector_bytes / page_bytes; }
  static size_t word_of(uintptr_t sector) { return sector % (page_bytes / sector_bytes) / 64; }
  static uint64_t bit_of(uintptr_t sector) { return uint64_t(1) << sector % 64; }
  void mark(uintptr_t begin, uint32_t bytes, bool writes) {
    for (uintptr_t sector = begin / sector_bytes; sector <= (begin + bytes - 1) / sector_bytes; ++sector) {
      const uintptr_t number = page_of(sector);
      if (!near_.second || near_.first != number) near_ = {number, &pages_[number]};
      Page& page = *near_.second;
      (writes ? page.written : page.read)[word_of(sector)] |= bit_of(sector);
    }
  }

  void print(const Timing& timing) {
    std::fprintf(file_, ",\"cycles\":%.0f,\"blocks\":%lld,\"resident\":%lld,\"waits\":{", timing.cycles,
                 static_cast<long long>(timing.blocks), static_cast<long long>(timing.resident));
    for (size_t wait = 1; wait < waits; ++wait)
      std::fprintf(file_, "%s\"%s\":%.0f", wait > 1 ? "," : "", wait_names[wait], timing.waited[wait]);
    std::fprintf(file_, "}");
    std::map<std::string, double> waited;
    for (const auto& [at, cycles] : timing.at) waited[kernel_->place_of(kernel_->code[at])] += cycles;
    print("waited", waited);
  }

  // Another entry of the line: numbers by place in the source.
  void print(const char* name, const std::map<std::string, double>& by_place) {
    std::fprintf(file_, ",\"%s\":{", name);
    for (const char* comma = ""; const auto& [place, number] : by_place) {
      std::fprintf(file_, "%s\"%s\":%.0f", comma, place.c_str(), number);
      comma = ",";
    }
    std::fprintf(file_, "}");
  }

  FILE* file_;
  const Kernel* kernel_ = nullptr;
  std::vector<Count> counts_[2];  // of global and of shared memory, by instruction
  std::unordered_map<uintptr_t, Page> pages_;
  std::pair<uintptr_t, Page*> near_{};
  NearCache cache_;
  std::optional<FarCache> far_;
  std::optional<Clock> clock_;
  bool warm_ = false;
};

}  // namespace

std::unique_ptr<Watcher> count_into(const char* path) { return std::make_unique<Counts>(path); }

}  // namespace lgd::emulation::ptx
