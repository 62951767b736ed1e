#include "traffic.h"

#ifdef LGD_CHECK_RACES

#include <dlfcn.h>

#include <array>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <unordered_map>

#include "streams.h"

namespace lgd::emulation::traffic {

namespace {

constexpr uintptr_t page_bytes = 4096, sector_bytes = 32;
using Sectors = std::array<uint64_t, page_bytes / sector_bytes / 64>;  // a bit each
struct Page { Sectors read{}, written{}; };
std::unordered_map<uintptr_t, Page> pages;

FILE* open_report() {
  const char* path = std::getenv("LGDISTILL_EMULATION_TRAFFIC");
  return path ? std::fopen(path, "a") : nullptr;
}
FILE* const report = open_report();

int64_t bytes_of(const Sectors& sectors) {
  int64_t bytes = 0;
  for (const uint64_t word : sectors) bytes += sector_bytes * std::popcount(word);
  return bytes;
}

}  // namespace

bool is_counted() { return report; }

void use(const void* address, size_t bytes, bool writes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address), last = (begin + bytes - 1) / sector_bytes;
  for (uintptr_t sector = begin / sector_bytes; sector <= last; ++sector) {
    Page& page = pages[sector * sector_bytes / page_bytes];
    const uintptr_t at = sector % (page_bytes / sector_bytes);
    (writes ? page.written : page.read)[at / 64] |= uint64_t(1) << at % 64;
  }
}

void end_kernel(const char* name, const void* kernel) {
  if (!report) return;
  int64_t read = 0, written = 0;
  for (const auto& [number, page] : pages) {
    if (!allocation_of(reinterpret_cast<const void*>(number * page_bytes))) continue;  // arguments, tables of the emulation
    read += bytes_of(page.read);
    written += bytes_of(page.written);
  }
  pages.clear();
  Dl_info module{};
  dladdr(reinterpret_cast<const void*>(&is_counted), &module);
  std::fprintf(report, "%lld %lld %zx %s\n", static_cast<long long>(read), static_cast<long long>(written),
               size_t(static_cast<const char*>(kernel) - static_cast<const char*>(module.dli_fbase)), name);
  std::fflush(report);
}

}  // namespace lgd::emulation::traffic

#endif
