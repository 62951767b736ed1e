// What warps of a block executed, in order, for clock.cpp.
#pragma once
#include <cstdint>
#include <vector>

#include "module.h"

namespace lgd::emulation::ptx {

struct Event {
  uint32_t instruction;  // in the kernel's code
  uint16_t waves = 0;    // of shared memory, or cycles of level-1 cache
  uint16_t far = 0,
           first = 0;  // sectors that level-2 cache gives or takes; of these those that the launch had not used
};
using Trace = std::vector<Event>;

// What an instruction needs, by register.
struct Needs {
  std::vector<uint32_t> from, to;  // registers, numbered
  enum class Memory : uint8_t {
    none,
    load_shared,
    store_shared,
    load_global,
    load_constant,
    store_global,
    copy,
    commit,
    product,
    prefetch
  } memory = Memory::none;
  bool ends_stretch = false;   // nothing is moved past it
  bool skips = false;          // a branch over a few instructions, which machine code has with a guard
  double slots = 0, pipe = 0;  // of issue; cycles of its unit
  int latency = 0;             // until what it makes can be used; of memory: the least
};
constexpr uint32_t register_stride = 64;  // bytes

std::vector<Needs> needs_of(const Kernel& kernel);

// The order in which machine code would have the instructions of a stretch without jumps: loads early, what needs them
// late. Indices into it.
std::vector<uint16_t> schedule(const std::vector<Needs>& needs, const Event* begin, size_t count);

}  // namespace lgd::emulation::ptx
