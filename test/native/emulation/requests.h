// Counts how the loads and stores of a warp fall on the banks of shared memory and on sectors of global memory, where every one of them is
// watched (races.h; the check for races rests meanwhile). LGDISTILL_EMULATION_REQUESTS=<file> appends a line for each kernel that ran and one
// for each of its places; scripts/kernels/requests.mjs makes tables of them.
//   - A request is what the lanes of a warp do at the same place for the same time since the last barrier of the block.
//   - In shared memory it takes as many waves as the busiest of 32 banks of 4 bytes has different words; eight lanes at a time where a lane has
//     16 bytes, sixteen where it has 8. The least is as many as its different words would need on banks of their choice.
//   - In global memory it takes as many waves as it touches sectors of 32 bytes. The least is as many as its bytes would fill.
// What it cannot know: how nvcc splits, joins or drops what the host's compiler loads and stores one by one. So numbers of places that use
// 16 bytes, cp.async and ldmatrix hold, and others say where to look.
#pragma once
#include <cstddef>
#include <cstdint>

namespace lgd::emulation::requests {

#ifdef LGD_CHECK_RACES

bool is_counted();
void use(const void* address, size_t bytes, bool writes, bool shared, uintptr_t code, int thread);
void begin_kernel();
void begin_block();
void block_barrier();
void end_kernel(const char* name, const void* kernel);

#else

inline void end_kernel(const char*, const void*) {}

#endif

}  // namespace lgd::emulation::requests
