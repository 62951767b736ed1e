#include "requests.h"

#ifdef LGD_CHECK_RACES

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <unordered_map>
#include <vector>

#include "streams.h"

namespace lgd::emulation::requests {

namespace {

constexpr int lanes = 32, banks = 32, widest = 16;
constexpr uintptr_t sector_bytes = 32;

FILE* open_report() {
  const char* path = std::getenv("LGDISTILL_EMULATION_REQUESTS");
  return path ? std::fopen(path, "a") : nullptr;
}
FILE* const report = open_report();

struct Use {
  uintptr_t address;
  unsigned bytes;
  int lane;
};
// What one place of the code did since the last barrier, by thread.
struct Site {
  bool writes, shared;
  std::vector<std::vector<Use>> threads;
};
struct Count { int64_t requests = 0, waves = 0, least = 0; };

std::unordered_map<uintptr_t, Site> sites;
std::map<std::pair<uintptr_t, bool>, std::pair<bool, Count>> counts;  // by code and shared: whether it writes, how much
int block = 0;
bool watched = false;

// Of lanes that are served together.
void add_shared(Count& count, const std::vector<Use>& uses, int first_lane, int last_lane) {
  std::array<std::vector<uintptr_t>, banks> words;
  for (const Use& use : uses)
    for (uintptr_t word = use.address / 4; use.lane >= first_lane && use.lane < last_lane && word <= (use.address + use.bytes - 1) / 4; ++word) {
      std::vector<uintptr_t>& bank = words[word % banks];
      if (std::find(bank.begin(), bank.end(), word) == bank.end()) bank.push_back(word);
    }
  size_t most = 0, all = 0;
  for (const auto& bank : words) {
    most = std::max(most, bank.size());
    all += bank.size();
  }
  count.waves += int64_t(most);
  count.least += int64_t((all + banks - 1) / banks);
}

void add_global(Count& count, const std::vector<Use>& uses) {
  std::vector<uintptr_t> sectors;
  std::vector<std::pair<uintptr_t, uintptr_t>> ranges;
  for (const Use& use : uses) {
    ranges.push_back({use.address, use.address + use.bytes});
    for (uintptr_t sector = use.address / sector_bytes; sector <= (use.address + use.bytes - 1) / sector_bytes; ++sector)
      if (std::find(sectors.begin(), sectors.end(), sector) == sectors.end()) sectors.push_back(sector);
  }
  std::sort(ranges.begin(), ranges.end());
  uintptr_t bytes = 0, end = 0;
  for (const auto& [from, to] : ranges) {
    bytes += to > end ? to - std::max(from, end) : 0;
    end = std::max(end, to);
  }
  count.waves += int64_t(sectors.size());
  count.least += int64_t((bytes + sector_bytes - 1) / sector_bytes);
}

void add(Count& count, bool shared, const std::vector<Use>& uses) {
  ++count.requests;
  if (!shared) return add_global(count, uses);
  unsigned width = 4;
  for (const Use& use : uses) width = std::max(width, use.bytes);
  const int together = lanes * 4 / int(std::bit_ceil(width));
  for (int lane = 0; lane < lanes; lane += together) add_shared(count, uses, lane, lane + together);
}

void flush() {
  for (auto& [code, site] : sites) {
    auto& [writes, count] = counts[{code, site.shared}];
    writes = site.writes;
    for (size_t warp = 0; warp < site.threads.size(); warp += lanes) {
      const size_t end = std::min(site.threads.size(), warp + lanes);
      size_t times = 0;
      for (size_t thread = warp; thread < end; ++thread) times = std::max(times, site.threads[thread].size());
      for (size_t time = 0; time < times; ++time) {
        std::vector<Use> uses;
        for (size_t thread = warp; thread < end; ++thread)
          if (time < site.threads[thread].size()) uses.push_back(site.threads[thread][time]);
        add(count, site.shared, uses);
      }
    }
  }
  sites.clear();
}

}  // namespace

bool is_counted() { return report; }

void use(const void* address, size_t bytes, bool writes, bool shared, uintptr_t code, int thread) {
  if (!watched) return;
  if (!shared && !allocation_of(address)) return;  // arguments, tables of the emulation
  Site& site = sites[code * 2 + shared];
  site.writes = writes;
  site.shared = shared;
  if (int(site.threads.size()) <= thread) site.threads.resize(size_t(thread) + 1);
  for (size_t at = 0; at < bytes; at += widest) site.threads[size_t(thread)].push_back({reinterpret_cast<uintptr_t>(address) + at, unsigned(std::min<size_t>(widest, bytes - at)), thread % lanes});
}

void begin_kernel() {
  block = 0;
  counts.clear();
}

// Few of a launch's blocks tell for all: the first and some further on.
void begin_block() {
  flush();
  watched = report && std::has_single_bit(unsigned(++block));
}

void block_barrier() {
  if (watched) flush();
}

void end_kernel(const char* name, const void* kernel) {
  if (!report) return;
  flush();
  watched = false;
  Dl_info module{};
  dladdr(reinterpret_cast<const void*>(&is_counted), &module);
  const auto offset = [&](uintptr_t address) { return size_t(address - reinterpret_cast<uintptr_t>(module.dli_fbase)); };
  std::fprintf(report, "kernel %zx %d %s\n", offset(reinterpret_cast<uintptr_t>(kernel)), block, name);
  for (const auto& [at, found] : counts)
    std::fprintf(report, "%s %s %zx %lld %lld %lld\n", at.second ? "shared" : "global", found.first ? "writes" : "reads", offset(at.first / 2), static_cast<long long>(found.second.requests),
                 static_cast<long long>(found.second.waves), static_cast<long long>(found.second.least));
  std::fflush(report);
}

}  // namespace lgd::emulation::requests

#endif
