#include "clock.h"

#include <algorithm>
#include <deque>
#include <fstream>
#include <limits>
#include <memory>
#include <random>
#include <utility>

namespace lgd::emulation::ptx {

namespace {

constexpr int quarters = 4;
// An H100's, of all multiprocessors: bytes a cycle at 1.755 GHz, and what one alone can get at most. Of level-2 cache
// as measured (docs/kernel-costs.md).
constexpr double whole = 132, memory_rate = 2.7e12 / 1.755e9, cache_rate = 6.6e12 / 1.755e9, most_of_one = 64;
// Cycles (Luo et al., "Dissecting the NVIDIA Hopper Architecture through Microbenchmarking", 2024).
constexpr double near_latency = 38, cache_latency = 265, memory_latency = 600, barrier_latency = 20,
                 product_latency = 30, branch_latency = 8;
constexpr size_t longest_stretch = 1024, most_noted = 4;  // noted: blocks, times those that run at once
constexpr double never = std::numeric_limits<double>::infinity();

using M = Needs::Memory;

struct WarpState {
  const Trace* trace = nullptr;
  size_t begin = 0, count = 0, at = 0;  // the stretch, and how far it is
  const std::vector<uint16_t>* order = nullptr;
  std::vector<double> ready;  // of registers
  std::vector<Wait> why;
  double next = 0, issued = 0;  // the earliest issue; the last
  Wait reason = Wait::none;
  std::deque<double> groups;  // when copies that were committed arrive
  double copies = 0;          // of those that were not, the last
  double products = 0;        // when the warpgroup's are done
  int block = 0, quarter = 0;
  bool ended = false;
};

class Multiprocessor {
 public:
  Multiprocessor(const Kernel& kernel, const std::vector<Needs>& needs, double cache, double memory)
      : kernel_(kernel), needs_(needs), cycles_a_byte_of_cache_(1 / cache), cycles_a_byte_of_memory_(1 / memory) {}

  // Times at which blocks ended, in that order.
  std::vector<double> run(const std::vector<std::vector<Trace>>& blocks, int resident, Timing& timing) {
    timing_ = &timing;
    std::vector<double> ends;
    size_t next = 0;
    warps_.clear();
    live_.assign(blocks.size(), 0);
    waiting_.assign(blocks.size(), {});
    while (next < blocks.size() && next < size_t(resident)) start(blocks[next], int(next), 0), ++next;
    while (ends.size() < blocks.size()) {
      const auto [warp, time] = most_urgent();
      LGD_CHECK(warp, "DEVICE_ERROR", "the clock stands still");
      issue(*warp, time);
      if (!warp->ended) continue;
      if (--live_[size_t(warp->block)] > 0) {
        release(warp->block, time);  // others may have waited for this one alone
        continue;
      }
      ends.push_back(time);
      std::erase_if(warps_, [&](const auto& one) { return one->block == warp->block; });
      if (next < blocks.size()) start(blocks[next], int(next), time), ++next;
    }
    return ends;
  }

 private:
  void start(const std::vector<Trace>& traces, int block, double time) {
    for (const Trace& trace : traces) {
      auto warp = std::make_unique<WarpState>();
      warp->trace = &trace;
      warp->ready.assign(kernel_.register_bytes / register_stride + 1, 0);
      warp->why.assign(warp->ready.size(), Wait::none);
      warp->next = warp->issued = time;
      warp->block = block;
      warp->quarter = started_++ % quarters;
      begin_stretch(*warp);
      prepare(*warp, time);
      warps_.push_back(std::move(warp));
    }
    live_[size_t(block)] = int(traces.size());
  }

  void begin_stretch(WarpState& warp) {
    const Trace& trace = *warp.trace;
    warp.begin += warp.count;
    warp.count = warp.at = 0;
    uint64_t hash = 1469598103934665603u;
    while (warp.begin + warp.count < trace.size() && warp.count < longest_stretch) {
      const uint32_t instruction = trace[warp.begin + warp.count++].instruction;
      hash = (hash ^ instruction) * 1099511628211u;
      if (needs_[instruction].ends_stretch) break;
    }
    auto [found, is_new] = orders_.try_emplace(hash);
    if (is_new) found->second = schedule(needs_, trace.data() + warp.begin, warp.count);
    warp.order = &found->second;
  }

  const Event& event_of(const WarpState& warp) const { return (*warp.trace)[warp.begin + (*warp.order)[warp.at]]; }

  // When the warp's next instruction may be issued, as far as it depends on the warp.
  void prepare(WarpState& warp, double from) {
    const Event& event = event_of(warp);
    const Needs& needs = needs_[event.instruction];
    warp.next = from;
    warp.reason = Wait::none;
    const auto wait_for = [&](double time, Wait why) {
      if (time > warp.next) warp.next = time, warp.reason = why;
    };
    for (const auto* registers : {&needs.from, &needs.to})
      for (const uint32_t one : *registers) wait_for(warp.ready[one], warp.why[one]);
    const Instruction& in = kernel_.code[event.instruction];
    if (in.name().starts_with("wgmma.wait")) wait_for(warp.products, Wait::product);
    if (in.name().starts_with("cp.async.wait")) {
      const size_t pending = *reinterpret_cast<const uint32_t*>(kernel_.constants.data() + in.operands[0].at);
      while (warp.groups.size() > pending) {
        wait_for(warp.groups.front(), Wait::copy);
        warp.groups.pop_front();
      }
    }
  }

  // The warp that can issue first; of those that can at once the one that has waited longest.
  std::pair<WarpState*, double> most_urgent() {
    WarpState* best = nullptr;
    double best_time = never;
    for (const auto& one : warps_) {
      WarpState& warp = *one;
      if (warp.ended || warp.next == never || warp.next > best_time) continue;
      const Needs& needs = needs_[event_of(warp).instruction];
      const int quarter = warp.quarter;
      double time = std::max(warp.next, needs.slots > 0 ? turn_[quarter] : 0);
      const Unit unit = kernel_.code[event_of(warp).instruction].operation->unit;
      if (needs.pipe > 0 && needs.memory != M::product) time = std::max(time, pipes_[quarter][size_t(unit)]);
      // a queue of a few accesses
      if (event_of(warp).waves > 0 && needs.memory != M::product) time = std::max(time, near_ - 16);
      if (time < best_time || (time == best_time && warp.issued < best->issued)) best = &warp, best_time = time;
    }
    return {best, best_time};
  }

  void issue(WarpState& warp, double time) {
    const Event& event = event_of(warp);
    const Needs& needs = needs_[event.instruction];
    const Instruction& in = kernel_.code[event.instruction];
    const int quarter = warp.quarter;
    if (time > warp.next) count(event, Wait::unit, time - warp.next);
    if (warp.next > warp.issued) count(event, warp.reason, warp.next - warp.issued);
    double next = time;
    if (needs.slots > 0) {
      turn_[quarter] = time + std::max(1.f, float(needs.slots));
      next = turn_[quarter];
    }
    if (needs.pipe > 0)
      pipes_[quarter][size_t(in.operation->unit)] =
          std::max(time, pipes_[quarter][size_t(in.operation->unit)]) + needs.pipe;
    const auto [arrives, why] = serve(event, needs, time);
    for (const uint32_t one : needs.to) warp.ready[one] = arrives, warp.why[one] = why;
    if (needs.memory == M::product)
      warp.products = std::max({warp.products, arrives, pipes_[quarter][size_t(in.operation->unit)] + product_latency});
    if (needs.memory == M::copy) warp.copies = std::max(warp.copies, arrives);
    if (needs.memory == M::commit) warp.groups.push_back(warp.copies), warp.copies = 0;
    if (in.kind == Kind::branch && !needs.skips) next += branch_latency;
    warp.issued = next;
    if (in.kind == Kind::barrier) return arrive(warp, next);
    step(warp, next);
  }

  void step(WarpState& warp, double from) {
    if (++warp.at == warp.count) {
      if (warp.begin + warp.count == warp.trace->size()) {
        warp.ended = true;
        return;
      }
      begin_stretch(warp);
    }
    prepare(warp, from);
  }

  void arrive(WarpState& warp, double time) {
    warp.next = never;
    waiting_[size_t(warp.block)].push_back(&warp);
    release(warp.block, time);
  }

  // The warps that wait at the block's barrier, once all that have not ended do.
  void release(int block, double time) {
    auto& waiting = waiting_[size_t(block)];
    if (int(waiting.size()) < live_[size_t(block)]) return;
    for (WarpState* one : std::exchange(waiting, {})) {
      count(event_of(*one), Wait::barrier, time + barrier_latency - one->issued);
      one->issued = time + barrier_latency;
      step(*one, one->issued);
    }
  }

  // When what it makes is there.
  std::pair<double, Wait> serve(const Event& event, const Needs& needs, double time) {
    if (event.waves == 0) return {time + needs.latency, Wait::arithmetic};
    near_ = std::max(near_, time) + event.waves;
    if (needs.memory == M::prefetch) {
      memory_ = std::max(memory_, near_) + event.first * sector_bytes * cycles_a_byte_of_memory_;
      return {near_, Wait::arithmetic};
    }
    if (event.far == 0) {
      const bool global = needs.memory == M::load_global || needs.memory == M::load_constant || needs.memory == M::copy;
      return {near_ + (global ? near_latency : needs.latency), global ? Wait::cache : Wait::shared};
    }
    cache_ = std::max(cache_, near_) + event.far * sector_bytes * cycles_a_byte_of_cache_;
    // Half of the cache is further away, and memory answers out of order.
    const double spread = 0.75 + 0.5 * double(random_() >> 8) / (1 << 23);
    if (event.first == 0) return {cache_ + cache_latency * spread, Wait::cache};
    memory_ = std::max(memory_, near_) + event.first * sector_bytes * cycles_a_byte_of_memory_;
    return {std::max(cache_, memory_) + memory_latency * spread, Wait::memory};
  }

  void count(const Event& event, Wait why, double cycles) {
    timing_->waited[size_t(why)] += cycles;
    timing_->at[event.instruction] += cycles;
  }

  const Kernel& kernel_;
  const std::vector<Needs>& needs_;
  const double cycles_a_byte_of_cache_, cycles_a_byte_of_memory_;
  std::vector<std::unique_ptr<WarpState>> warps_;
  int started_ = 0;
  std::unordered_map<uint64_t, std::vector<uint16_t>> orders_;
  std::vector<int> live_;
  std::vector<std::vector<WarpState*>> waiting_;
  double turn_[quarters] = {}, pipes_[quarters][units] = {};
  double near_ = 0, cache_ = 0, memory_ = 0;  // when each is free
  std::minstd_rand random_{7};
  Timing* timing_ = nullptr;
};

}  // namespace

Clock::Clock(const char* registers, int multiprocessors) : multiprocessors_(multiprocessors) {
  std::ifstream file(registers);
  LGD_CHECK(file, "DEVICE_ERROR", "cannot read ", registers);
  std::string symbol;
  for (int number; file >> symbol >> number;) registers_[symbol] = number;
}

void Clock::begin_kernel(const Launch& launch, const Kernel& kernel) {
  launch_ = &launch;
  kernel_ = &kernel;
  needs_ = needs_of(kernel);
  blocks_.clear();
}

Clock::Shape Clock::shape() const {
  const int64_t blocks = int64_t(launch_->grid.x) * launch_->grid.y * launch_->grid.z;
  const int threads = int(launch_->block.x * launch_->block.y * launch_->block.z),
            warps = (threads + lanes - 1) / lanes;
  const auto found = registers_.find(kernel_->symbol);
  LGD_CHECK(found != registers_.end(), "DEVICE_ERROR", "no registers of ", kernel_->symbol);
  const size_t shared = launch_->shared_bytes + kernel_->shared_bytes;
  const int by_registers = 65536 / ((found->second + 7) / 8 * 8 * lanes * warps),
            by_shared = int((size_t(228) << 10) / (shared + 1024)), by_threads = std::min(32, 2048 / (warps * lanes));
  const double busy = std::min(1.0, double(blocks) / multiprocessors_);
  return {blocks, std::max(1, std::min({by_registers, by_shared, by_threads})), warps,
          std::min(most_of_one, cache_rate / whole / busy), std::min(most_of_one, memory_rate / whole / busy)};
}

bool Clock::begin_block(int64_t number) {
  const Shape of = shape();
  // one of those that have most
  const int64_t over = of.blocks % multiprocessors_, mine = (over ? over : multiprocessors_) / 2;
  if (number % multiprocessors_ != mine || blocks_.size() >= most_noted * size_t(of.resident)) return false;
  blocks_.emplace_back(size_t(of.warps));
  near_.clear();
  return true;
}

Timing Clock::end_kernel() {
  const Shape of = shape();
  Timing timing;
  timing.blocks = (of.blocks + multiprocessors_ - 1) / multiprocessors_;
  timing.resident = std::min<int64_t>(of.resident, timing.blocks);
  const std::vector<double> ends =
      Multiprocessor(*kernel_, needs_, of.cache, of.memory).run(blocks_, of.resident, timing);
  timing.cycles = ends.back();
  // the rest as fast as those between the first that ran together and these
  if (timing.blocks > int64_t(ends.size())) {
    const size_t first = ends.size() - size_t(of.resident) * (most_noted - 1) - 1;
    timing.cycles +=
        (ends.back() - ends[first]) / double(ends.size() - 1 - first) * double(timing.blocks - int64_t(ends.size()));
  }
  return timing;
}

}  // namespace lgd::emulation::ptx
