// What an access of a warp costs: waves of shared memory, sectors of global memory, and which of these level-1 cache
// has.
#pragma once
#include <algorithm>
#include <array>
#include <bit>

#include "watch.h"

namespace lgd::emulation::ptx {

constexpr uint32_t banks = 32, word_bytes = 4, sector_bytes = 32;

// A block's share of level-1 cache: what an H100's 256 KiB leave where three or four blocks with 48 KiB of shared
// memory each run beside each other. Lines of 128 bytes, of which sectors are filled as they are read; of four that
// share a place the one goes that was used longest ago.
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
    return name.starts_with("cp.async.ca") || (name.starts_with("ld.") && name.find(".cg") == std::string::npos &&
                                               name.find("volatile") == std::string::npos);
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
template <int most>
struct Few {
  std::array<uintptr_t, most> values;
  int count = 0;
  bool add(uintptr_t value) {
    if (std::find(values.begin(), values.begin() + count, value) != values.begin() + count) return false;
    values[count++] = value;
    return true;
  }
};

struct SharedWaves {
  int taken = 0, least = 0;
};
// Lanes are served together as far as their bytes are 128.
inline SharedWaves waves_of(uint32_t active, uint32_t bytes, const uintptr_t* addresses) {
  SharedWaves waves;
  const int together = lanes * int(word_bytes) / int(std::max(bytes, word_bytes));
  for (int first = 0; first < lanes; first += together) {
    std::array<Few<lanes>, banks> words;
    int most = 0, all = 0;
    for (int lane = first; lane < first + together; ++lane) {
      if (!(active >> lane & 1)) continue;
      for (uintptr_t word = addresses[lane] / word_bytes; word <= (addresses[lane] + bytes - 1) / word_bytes; ++word) {
        Few<lanes>& bank = words[word % banks];
        all += bank.add(word);
        most = std::max(most, bank.count);
      }
    }
    waves.taken += most;
    waves.least += (all + int(banks) - 1) / int(banks);
  }
  return waves;
}

inline Few<2 * lanes> sectors_of(uint32_t active, uint32_t bytes, const uintptr_t* addresses) {
  Few<2 * lanes> sectors;
  for (; active; active &= active - 1) {
    const uintptr_t begin = addresses[std::countr_zero(active)];
    for (uintptr_t sector = begin / sector_bytes; sector <= (begin + bytes - 1) / sector_bytes; ++sector)
      sectors.add(sector);
  }
  return sectors;
}

// Waves in which a warpgroup reads the operands of a product, a warp's quarter of them: 64 rows of one and as many as
// there are columns of the other, 32 bytes each. 0: another instruction.
inline int operand_waves(const Instruction& in) {
  return in.name().starts_with("wgmma.mma") ? (64 + 8 * int(in.operation->slots)) * 32 / 128 / 4 : 0;
}

}  // namespace lgd::emulation::ptx
