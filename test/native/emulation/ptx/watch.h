// What watches the memory that kernels use while they run (run.cpp): for races, or to count.
#pragma once
#include <memory>

#include "core/launch.h"
#include "warp.h"

namespace lgd::emulation::ptx {

// One instruction's use of memory by lanes of a warp.
struct Access {
  const Instruction* instruction;
  bool shared, writes;
  uint32_t active, bytes;        // of each lane
  const char* addresses[lanes];  // of the host, shared memory's too
  bool ahead = false;            // a prefetch: nobody gets what it reads
  int64_t since = -1;            // of a copy that ends now: the block's barriers at its issue; -1: it happens now
};

struct Watcher {
  virtual ~Watcher() = default;
  virtual void begin_kernel(const Launch& launch, const Kernel& kernel) = 0;
  virtual void begin_block(const Block& block, int64_t number) = 0;
  virtual void use(const Warp& warp, const Access& access) = 0;
  bool notes = false;  // wants to hear of every instruction, before it runs
  virtual void note(const Warp&, const Instruction&, uint32_t /*active*/) {}
  virtual void block_barrier() {}
  virtual void warp_barrier(const Warp&) {}
  // `executed`: of each instruction, by warps.
  virtual void end_kernel(const Launch& launch, const Kernel& kernel, const std::vector<int64_t>& executed) = 0;
};

// With $LGDISTILL_EMULATION_RACES; throws DEVICE_ERROR at the end of a kernel with the places of its first races.
std::unique_ptr<Watcher> watch_for_races();
// With $LGDISTILL_EMULATION_COUNTS=<file>.
std::unique_ptr<Watcher> count_into(const char* path);

}  // namespace lgd::emulation::ptx
