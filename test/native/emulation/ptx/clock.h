// How long a launch takes, by a model of one multiprocessor of an H100: the blocks that it would have are noted as they
// run, warp by warp, and run again beside each other, cycle by cycle, as far as registers and shared memory let them.
//
// Each quarter issues one instruction a cycle, of the warp whose operands are there and that has waited longest.
// Machine code's order is ptxas's, about (schedule.cpp). Units, shared memory, level-1 cache, and this multiprocessor's
// share of level-2 cache and memory take what comes one after the other; what a warp needs of them arrives after their
// latency. Left out: the instruction cache, conflicts of register banks, other multiprocessors' bursts, and how a
// launch begins.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "access.h"
#include "core/cuda_device.cuh"
#include "core/launch.h"
#include "trace.h"

namespace lgd::emulation::ptx {

// What a warp that does not issue waits for.
enum class Wait : uint8_t { none, arithmetic, shared, cache, memory, copy, product, barrier, unit };
constexpr size_t waits = 9;
constexpr const char* wait_names[waits] = {"none", "arithmetic", "shared",  "cache", "memory",
                                           "copy", "product",    "barrier", "unit"};

struct Timing {
  double cycles = 0;                 // of the launch
  int64_t blocks = 0, resident = 0;  // of this multiprocessor; at once
  double waited[waits] = {};         // cycles of warps
  std::map<uint32_t, double> at;     // the same by instruction
};

class Clock {
 public:
  // registers: a file with a line for each kernel, its symbol and registers a thread
  Clock(const char* registers, int multiprocessors);

  void begin_kernel(const Launch& launch, const Kernel& kernel);
  bool begin_block(int64_t number);  // false: another multiprocessor's
  // Before it runs. is_first(sector, writes): memory has to give it, or to take it in the end, and no earlier use of
  // the launch asked for that.
  template <class F>
  void note(const Warp& warp, const Instruction& in, uint32_t active, F&& is_first);
  Timing end_kernel();

 private:
  struct Shape {
    int64_t blocks;
    int resident, warps;
    double cache, memory;
  };  // bytes a cycle
  Shape shape() const;

  const int multiprocessors_;
  std::unordered_map<std::string, int> registers_;
  const Launch* launch_ = nullptr;
  const Kernel* kernel_ = nullptr;
  std::vector<Needs> needs_;
  std::vector<std::vector<Trace>> blocks_;  // of each noted block, by warp
  NearCache near_;
};

template <class F>
void Clock::note(const Warp& warp, const Instruction& in, uint32_t active, F&& is_first) {
  Event event{uint32_t(&in - kernel_->code.data())};
  const Needs& needs = needs_[event.instruction];
  using M = Needs::Memory;
  const auto addresses_of = [&](size_t operand, auto width, uintptr_t (&addresses)[lanes]) {
    for (int lane = 0; lane < lanes; ++lane)
      addresses[lane] = uintptr_t(warp.at<decltype(width)>(in.operands[operand])[lane]) +
                        uintptr_t(intptr_t(in.operands[operand].offset));
  };
  uintptr_t addresses[lanes];
  const auto use_far = [&](uint32_t bytes, bool reads) {
    const auto sectors = sectors_of(active, bytes, addresses);
    event.waves = std::max(event.waves, uint16_t((sectors.count + 3) / 4));
    const bool served = reads && NearCache::serves(in);
    for (int i = 0; i < sectors.count; ++i) {
      if (served && near_.has(sectors.values[i])) continue;
      ++event.far;
      if (is_first(sectors.values[i], !reads)) ++event.first;
    }
  };
  const auto bytes_of = [&] {
    const std::string& name = in.name();
    return uint32_t(in.count) * uint32_t(std::stoi(name.substr(name.rfind('.') + 2))) / 8;
  };
  switch (needs.memory) {
    case M::none:
      if (in.name().starts_with("shfl.")) event.waves = 1;
      break;
    case M::commit: break;
    case M::prefetch: {
      addresses_of(0, uint64_t{}, addresses);
      for (uintptr_t& address : addresses) address = address / far_piece * far_piece;
      const auto sectors = sectors_of(active, far_piece, addresses);
      event.waves = uint16_t((sectors.count + 3) / 4);
      for (int i = 0; i < sectors.count; ++i) event.first = uint16_t(event.first + is_first(sectors.values[i], false));
      break;
    }
    case M::product: event.waves = uint16_t(operand_waves(in)); break;
    case M::load_shared:
    case M::store_shared: {
      const bool matrices = in.name().starts_with("ldmatrix.");
      addresses_of(matrices ? 4 : 0, uint32_t{}, addresses);
      event.waves = uint16_t(waves_of(active, matrices ? 16 : bytes_of(), addresses).taken);
      break;
    }
    case M::copy: {
      addresses_of(0, uint32_t{}, addresses);
      event.waves = uint16_t(waves_of(active, 16, addresses).taken);
      for (uint32_t left = active; left; left &= left - 1)
        if (warp.at<uint32_t>(in.operands[3])[std::countr_zero(left)] == 0) active &= ~(left & (0u - left));
      addresses_of(1, uint64_t{}, addresses);
      use_far(16, true);
      break;
    }
    default: addresses_of(0, uint64_t{}, addresses); use_far(bytes_of(), needs.memory != M::store_global);
  }
  blocks_.back()[size_t(warp.number)].push_back(event);
}

}  // namespace lgd::emulation::ptx
