// Counts what a launch does, a line of JSON each in the file of $LGDISTILL_EMULATION_COUNTS:
//   slots: instructions that warps execute, by the unit that they need, in slots of issue as machine code would take them, about;
//   instructions: how often warps execute each;
//   lines: slots by place in the source;
//   read, written: bytes of the sectors of 32 that it reads and writes, each once a launch, as a cache without end would have it;
//   filled, written_back: of these what memory gives and gets, with $LGDISTILL_EMULATION_CACHE bytes of level-2 cache and what the launches before left there
//     (far_cache.h); without it 0;
//   places: uses of memory by place in the source: requests of warps; waves that they take, which are cycles of shared memory or sectors of global
//     memory; the least that they would take, without conflicts of banks, with whole sectors; and the sectors that level-1 cache has not (far).
#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <unordered_map>

#include "far_cache.h"
#include "watch.h"

namespace lgd::emulation::ptx {

namespace {

constexpr uint32_t banks = 32, word_bytes = 4, sector_bytes = 32;
constexpr uintptr_t page_bytes = 4096;

struct Count { int64_t requests = 0, waves = 0, least = 0, far = 0; };

// A block's share of level-1 cache: what an H100's 256 KiB leave where three or four blocks with 48 KiB of shared memory each run beside each other. Lines
// of 128 bytes, of which sectors are filled as they are read; of four that share a place the one goes that was used longest ago.
class NearCache {
 public:
  void clear() { sets_ = {}; }
  bool has(uintptr_t sector) {  // from now on, in any case
    constexpr uintptr_t in_line = 4;
    const uintptr_t line = sector / in_line;
    const uint8_t bit = uint8_t(1u << sector % in_line);
    auto& set = sets_[(line ^ line / sets_.size()) % sets_.size()];
    Line* found = &set[0];
    for (Line& way : set) {
      if (way.line == line) {
        found = &way;
        break;
      }
      if (way.used < found->used) found = &way;
    }
    if (found->line != line) *found = {line, 0, 0};
    found->used = ++now_;
    const bool had = found->sectors & bit;
    found->sectors |= bit;
    return had;
  }
  static bool serves(const Instruction& instruction) {
    const std::string& name = instruction.name();
    return name.starts_with("cp.async.ca") || (name.starts_with("ld.") && name.find(".cg") == std::string::npos && name.find("volatile") == std::string::npos);
  }

 private:
  struct Line {
    uintptr_t line = 0;
    uint64_t used = 0;
    uint8_t sectors = 0;
  };
  std::array<std::array<Line, 4>, 64> sets_{};  // 32 KiB
  uint64_t now_ = 0;
};

// Distinct numbers among few.
template <int most> struct Few {
  std::array<uintptr_t, most> values;
  int count = 0;
  bool add(uintptr_t value) {
    if (std::find(values.begin(), values.begin() + count, value) != values.begin() + count) return false;
    values[count++] = value;
    return true;
  }
};

// Lanes are served together as far as their bytes are 128.
void add_shared(Count& count, const Access& access) {
  const int together = lanes * int(word_bytes) / int(std::max(access.bytes, word_bytes));
  for (int first = 0; first < lanes; first += together) {
    std::array<Few<lanes>, banks> words;
    int most = 0, all = 0;
    for (int lane = first; lane < first + together; ++lane) {
      if (!(access.active >> lane & 1)) continue;
      const uintptr_t begin = reinterpret_cast<uintptr_t>(access.addresses[lane]);
      for (uintptr_t word = begin / word_bytes; word <= (begin + access.bytes - 1) / word_bytes; ++word) {
        Few<lanes>& bank = words[word % banks];
        all += bank.add(word);
        most = std::max(most, bank.count);
      }
    }
    count.waves += most;
    count.least += (all + int(banks) - 1) / int(banks);
  }
}

int number_from(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

// Blocks that run at once, by their threads, with 64 registers each, and shared memory.
size_t blocks_at_once(const Launch& launch, const Kernel& kernel) {
  static const int multiprocessors = number_from("LGDISTILL_EMULATION_MULTIPROCESSORS", 132);
  const size_t threads = launch.block.x * launch.block.y * launch.block.z, shared = launch.shared_bytes + kernel.shared_bytes;
  return size_t(multiprocessors) * std::max<size_t>(1, std::min(1024 / threads, (size_t(227) << 10) / (shared + 1024)));
}

void add_global(Count& count, const Access& access, NearCache& near, std::optional<FarCache>& far) {
  Few<2 * lanes> sectors, ranges;
  for (uint32_t active = access.active; active; active &= active - 1) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(access.addresses[std::countr_zero(active)]);
    ranges.add(begin);
    for (uintptr_t sector = begin / sector_bytes; sector <= (begin + access.bytes - 1) / sector_bytes; ++sector) sectors.add(sector);
  }
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
  }
  ~Counts() override { std::fclose(file_); }

  void begin_kernel(const Kernel& kernel) override {
    kernel_ = &kernel;
    for (auto& of : counts_) of.assign(kernel.code.size(), {});
    pages_.clear();
    near_ = {};
  }
  void begin_block(const Block&) override {
    cache_.clear();
    if (far_) far_->begin_block();
  }

  void use(const Warp&, const Access& access) override {
    Count& count = counts_[access.shared][size_t(access.instruction - kernel_->code.data())];
    ++count.requests;
    if (access.shared) return add_shared(count, access);
    add_global(count, access, cache_, far_);
    for (uint32_t active = access.active; active; active &= active - 1) mark(reinterpret_cast<uintptr_t>(access.addresses[std::countr_zero(active)]), access.bytes, access.writes);
  }

  void end_kernel(const Launch& launch, const Kernel& kernel, const std::vector<int64_t>& executed) override {
    std::array<double, units> slots{};
    for (size_t at = 0; at < executed.size(); ++at) {
      const Operation& operation = *kernel.code[at].operation;
      const double own = operation.unit == Unit::special ? 1 : operation.slots;  // the special units do one of several instructions
      slots[size_t(operation.unit)] += double(executed[at]) * own;
      slots[size_t(Unit::integer)] += double(executed[at]) * (operation.slots - own);
    }
    int64_t read = 0, written = 0;
    for (const auto& [number, page] : pages_) {
      read += page.bytes(page.read);
      written += page.bytes(page.written);
    }
    const FarCache::Traffic traffic = far_ ? far_->end_kernel(blocks_at_once(launch, kernel)) : FarCache::Traffic{};
    std::fprintf(file_, "{\"kernel\":\"%s\",\"symbol\":\"%s\",\"grid\":[%u,%u,%u],\"threads\":%u,\"shared\":%zu,\"read\":%lld,\"written\":%lld,\"filled\":%lld,\"written_back\":%lld,\"slots\":{", launch.name, kernel.symbol.c_str(), launch.grid.x, launch.grid.y,
                 launch.grid.z, launch.block.x * launch.block.y * launch.block.z, launch.shared_bytes + kernel.shared_bytes, static_cast<long long>(read), static_cast<long long>(written), static_cast<long long>(traffic.filled), static_cast<long long>(traffic.written_back));
    for (size_t unit = 1; unit < units; ++unit) std::fprintf(file_, "%s\"%s\":%.0f", unit > 1 ? "," : "", unit_names[unit], slots[unit]);
    std::fprintf(file_, "},\"instructions\":{");
    std::map<std::string_view, int64_t> by_name;
    for (size_t at = 0; at < executed.size(); ++at)
      if (executed[at]) by_name[kernel.code[at].name()] += executed[at];
    for (const char* comma = ""; const auto& [name, times] : by_name) {
      std::fprintf(file_, "%s\"%.*s\":%lld", comma, int(name.size()), name.data(), static_cast<long long>(times));
      comma = ",";
    }
    std::fprintf(file_, "},\"lines\":{");
    std::map<std::string, double> by_line;
    for (size_t at = 0; at < executed.size(); ++at)
      if (executed[at] && kernel.code[at].operation->slots > 0) by_line[kernel.place_of(kernel.code[at])] += double(executed[at]) * double(kernel.code[at].operation->slots);
    for (const char* comma = ""; const auto& [line, times] : by_line) {
      std::fprintf(file_, "%s\"%s\":%.0f", comma, line.c_str(), times);
      comma = ",";
    }
    std::fprintf(file_, "},\"places\":[");
    bool begun = false;
    for (const bool shared : {false, true})
      for (size_t at = 0; at < kernel.code.size(); ++at) {
        const Count& count = counts_[shared][at];
        if (count.requests == 0) continue;
        const std::string_view name = kernel.code[at].name();
        std::fprintf(file_, "%s{\"at\":\"%s\",\"does\":\"%.*s\",\"memory\":\"%s\",\"requests\":%lld,\"waves\":%lld,\"least\":%lld,\"far\":%lld}", begun ? "," : "", kernel.place_of(kernel.code[at]).c_str(), int(name.size()), name.data(),
                     shared ? "shared" : "global", static_cast<long long>(count.requests), static_cast<long long>(count.waves), static_cast<long long>(count.least), static_cast<long long>(count.far));
        begun = true;
      }
    std::fprintf(file_, "]}\n");
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

  void mark(uintptr_t begin, uint32_t bytes, bool writes) {
    for (uintptr_t sector = begin / sector_bytes; sector <= (begin + bytes - 1) / sector_bytes; ++sector) {
      const uintptr_t number = sector * sector_bytes / page_bytes, at = sector % (page_bytes / sector_bytes);
      if (!near_.second || near_.first != number) near_ = {number, &pages_[number]};
      Page& page = *near_.second;
      (writes ? page.written : page.read)[at / 64] |= uint64_t(1) << at % 64;
    }
  }

  FILE* file_;
  const Kernel* kernel_ = nullptr;
  std::vector<Count> counts_[2];  // of global and of shared memory, by instruction
  std::unordered_map<uintptr_t, Page> pages_;
  std::pair<uintptr_t, Page*> near_{};
  NearCache cache_;
  std::optional<FarCache> far_;
};

}  // namespace

std::unique_ptr<Watcher> count_into(const char* path) { return std::make_unique<Counts>(path); }

}  // namespace lgd::emulation::ptx
