// Finds memory that two threads of a kernel use, one of them writing, with nothing between them that orders the two: what racecheck finds in
// shared memory on a GPU, and the same in global memory, between blocks too. The kernels are compiled with -fsanitize=thread, which calls a
// function before every load and store; those functions are ours (races.cpp), not ThreadSanitizer's, since the threads are fibers. In other
// builds all of this is empty. What orders two uses:
//   - in a block: a barrier of the block between them, or of their warp (__syncwarp; shuffles and ldmatrix promise nothing about memory);
//   - a wait for a copy of the thread's own, while for others a barrier must follow: such a copy counts from its issue to the wait;
//   - between blocks of a launch: nothing. Streams and graphs: see runtime.cpp.
#pragma once
#include <cstddef>
#include <cstdint>

namespace lgd::emulation::races {

#ifdef LGD_CHECK_RACES

void begin_kernel(const char* shared, size_t shared_bytes);
void begin_block();
void end_kernel(const char* name);              // throws DEVICE_ERROR with the places of the first races
void now_runs(int thread, const char* stack, size_t stack_bytes);
void block_barrier();
void warp_barrier(int warp);
void read(const void* from, size_t bytes, const void* code = nullptr);  // code: the place, if not where it is called
void write(const void* to, size_t bytes, const void* code = nullptr);
int64_t epoch();                                // of the block: barriers so far
void write_unordered(const void* to, size_t bytes);             // several threads may, but none may read
void write_since(const void* to, size_t bytes, int64_t epoch, const void* code);  // anywhere between then and now
bool left_out(const char* file, int line);      // the barrier that LGDISTILL_EMULATION_WITHOUT names ("conv.cu:12"), to see that it is missed

#else

inline void begin_kernel(const char*, size_t) {}
inline void begin_block() {}
inline void end_kernel(const char*) {}
inline void now_runs(int, const char*, size_t) {}
inline void block_barrier() {}
inline void warp_barrier(int) {}
inline void read(const void*, size_t, const void* = nullptr) {}
inline void write(const void*, size_t, const void* = nullptr) {}
inline int64_t epoch() { return 0; }
inline void write_unordered(const void*, size_t) {}
inline void write_since(const void*, size_t, int64_t, const void*) {}

#endif

}  // namespace lgd::emulation::races
