// A model of level-2 cache, from kernel to kernel: what of a launch's sectors comes from memory, and what goes there.
//
// The emulated GPU runs one block after the other; a real one runs many at once, and which of them are near each other
// in time decides what is still there. So a block's uses are noted in their order, and a launch's are run through the
// cache when it ends, as if the blocks that fit the card ran in step with each other and the next as many followed.
// Lines of 128 bytes, of which sectors of 32 are filled and written back; the line goes that was used longest ago.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace lgd::emulation::ptx {

class FarCache {
 public:
  explicit FarCache(size_t bytes) : lines_(std::max<size_t>(bytes / line_bytes, 1) + 1) { clear_links(); }

  void begin_block() {
    firsts_.push_back(uses_.size());
    recent_.assign(recent_.size(), {});
  }

  void use(uintptr_t sector, bool writes) {
    const uint64_t key = sector / sectors_of_line << 1 | uint64_t(writes);
    const uint8_t bit = uint8_t(1u << sector % sectors_of_line);
    Recent& recent = recent_[(key ^ key >> 9) % recent_.size()];
    if (recent.key == key && recent.use < uses_.size()) {
      uses_[recent.use].sectors |= bit;
      return;
    }
    recent = {key, uses_.size()};
    uses_.push_back({key, bit});
  }

  struct Traffic {
    int64_t filled = 0, written_back = 0;
  };  // bytes
  Traffic end_kernel(size_t blocks_at_once) {
    struct At {
      double time;
      size_t use;
    };
    std::vector<At> order;
    order.reserve(uses_.size());
    firsts_.push_back(uses_.size());
    for (size_t block = 0; block + 1 < firsts_.size(); ++block)
      for (size_t use = firsts_[block]; use < firsts_[block + 1]; ++use)
        order.push_back({double(block / blocks_at_once) +
                             double(use - firsts_[block]) / double(firsts_[block + 1] - firsts_[block]),
                         use});
    std::stable_sort(order.begin(), order.end(), [](const At& a, const At& b) { return a.time < b.time; });
    Traffic traffic;
    for (const At& at : order) run(uses_[at.use], traffic);
    uses_.clear();
    firsts_.clear();
    return traffic;
  }

 private:
  static constexpr uintptr_t line_bytes = 128, sector_bytes = 32, sectors_of_line = 4;
  struct Use {
    uint64_t key;
    uint8_t sectors;
  };  // key: line, and whether it is written
  struct Recent {
    uint64_t key = ~uint64_t(0);
    size_t use = 0;
  };
  struct Line {
    uint64_t number;
    uint32_t before, after;
    uint8_t valid, dirty;
  };

  // lines_[0] is the end of a ring in order of use.
  void clear_links() { lines_[0] = {0, 0, 0, 0, 0}; }
  void unlink(uint32_t at) {
    lines_[lines_[at].before].after = lines_[at].after;
    lines_[lines_[at].after].before = lines_[at].before;
  }
  void link_last(uint32_t at) {
    lines_[at].before = lines_[0].before;
    lines_[at].after = 0;
    lines_[lines_[0].before].after = at;
    lines_[0].before = at;
  }

  void run(const Use& use, Traffic& traffic) {
    const uint64_t number = use.key >> 1;
    const bool writes = use.key & 1;
    const auto found = places_.find(number);
    uint32_t at;
    if (found != places_.end()) {
      at = found->second;
      unlink(at);
    } else {
      if (taken_ + 1 < lines_.size()) {
        at = uint32_t(++taken_);
      } else {
        at = lines_[0].after;
        unlink(at);
        traffic.written_back += int64_t(sector_bytes) * std::popcount(lines_[at].dirty);
        places_.erase(lines_[at].number);
      }
      lines_[at] = {number, 0, 0, 0, 0};
      places_[number] = at;
    }
    link_last(at);
    Line& line = lines_[at];
    if (writes) line.dirty |= use.sectors;
    else traffic.filled += int64_t(sector_bytes) * std::popcount(uint8_t(use.sectors & ~line.valid));
    line.valid |= use.sectors;
  }

  std::vector<Use> uses_;
  std::vector<size_t> firsts_;  // of each block
  std::vector<Recent> recent_ = std::vector<Recent>(512);
  std::vector<Line> lines_;
  size_t taken_ = 0;
  std::unordered_map<uint64_t, uint32_t> places_;
};

}  // namespace lgd::emulation::ptx
