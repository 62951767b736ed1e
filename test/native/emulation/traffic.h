// Counts what kernels move between a GPU's memory and its caches, where every load and store is watched (races.h; the check for races rests
// meanwhile). LGDISTILL_EMULATION_TRAFFIC=<file> appends a line for each kernel that ran: bytes read, bytes written, where the kernel lies
// in its program or addon (hexadecimal), and its name as LGD_LAUNCH got it.
// A sector of 32 bytes counts once a kernel, however often it is used: as if a cache held all that one kernel uses, and nothing of the
// kernel before. scripts/kernels/traffic.mjs makes tables of it.
#pragma once
#include <cstddef>

namespace lgd::emulation::traffic {

#ifdef LGD_CHECK_RACES

bool is_counted();
void use(const void* address, size_t bytes, bool writes);
void end_kernel(const char* name, const void* kernel);

#else

inline void end_kernel(const char*, const void*) {}

#endif

}  // namespace lgd::emulation::traffic
