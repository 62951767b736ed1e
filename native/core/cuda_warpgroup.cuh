// Products of a warpgroup, four warps at once, with both operands in shared memory: wgmma of sm_90a, which no other
// architecture has. An H100's tensor cores reach their full rate with nothing else. test/native/emulation stands in for
// this file too.
//
// The instructions read shared memory through another path than the threads' own writes and cp.async take. So, in this
// order: every thread waits for its copies, calls fence_shared_for_warpgroup(), and meets the others at a barrier; then
// warpgroup_begin(), the products, warpgroup_commit(). What they read may be written again, and the sums touched, after
// warpgroup_wait() (and a barrier for others' data).
#pragma once
#include "core/cuda_device.cuh"

namespace lgd {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool has_warpgroup_products = true;
#define LGD_WARPGROUP_ASM(...) asm volatile(__VA_ARGS__)
#else
constexpr bool has_warpgroup_products = false;  // such kernels are never launched (Context::warpgroups)
#define LGD_WARPGROUP_ASM(...)
#endif

// The swizzle mode of a descriptor: which 16-byte pieces of shared memory are exchanged for others, by address. b64:
// bits 4-5 ^= 7-8; b128: bits 4-6 ^= 7-9.
enum class Swizzle : uint64_t { b128 = 1, b64 = 2 };

// A matrix in shared memory as the instructions take it, with the names of the PTX ISA, "Matrix Descriptor Format":
// bits 0-13 the start address, 16-29 the leading dimension byte offset, 32-45 the stride dimension byte offset, each
// divided by 16; 62-63 the swizzle mode; no base offset (49-51), since tiles begin where the swizzle's pattern does.
// Here groups of eight rows (of eight k, where k is outer) lie the stride offset apart, and pieces of 64 rows, where k
// is outer, the leading one.
__device__ __forceinline__ uint64_t shared_matrix(const void* start, Swizzle swizzle_mode, uint32_t stride_byte_offset,
                                                  uint32_t leading_byte_offset) {
  return uint64_t(swizzle_mode) << 62 | uint64_t(stride_byte_offset >> 4) << 32 |
         uint64_t(leading_byte_offset >> 4) << 16 | (shared_address(start) & 0x3ffff) >> 4;
}

// What is added to a matrix for one that begins so many bytes behind it.
__device__ __forceinline__ constexpr uint64_t shared_matrix_step(uint32_t bytes) { return bytes / 16; }

__device__ __forceinline__ void fence_shared_for_warpgroup() {
  LGD_WARPGROUP_ASM("fence.proxy.async.shared::cta;" :: : "memory");
}
__device__ __forceinline__ void warpgroup_begin() { LGD_WARPGROUP_ASM("wgmma.fence.sync.aligned;" :: : "memory"); }
__device__ __forceinline__ void warpgroup_commit() {
  LGD_WARPGROUP_ASM("wgmma.commit_group.sync.aligned;" :: : "memory");
}
__device__ __forceinline__ void warpgroup_wait() {
  LGD_WARPGROUP_ASM("wgmma.wait_group.sync.aligned 0;" :: : "memory");
}

// Keeps the compiler from moving sums across: between other code and the products that are under way.
template <int count>
__device__ __forceinline__ void hold_sums(float (&d)[count][4]) {
#pragma unroll
  for (int j = 0; j < count; ++j)
#pragma unroll
    for (int q = 0; q < 4; ++q) asm volatile("" : "+f"(d[j][q])::"memory");
}

// Where the 1,024-byte pattern of a swizzle begins next.
__device__ __forceinline__ char* aligned_for_warpgroup(char* shared) {
  return shared + (-shared_address(shared) & 1023u);
}

#define LGD_SUMS4(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define LGD_SUMS32(j)                                                                                     \
  LGD_SUMS4(j), LGD_SUMS4(j + 1), LGD_SUMS4(j + 2), LGD_SUMS4(j + 3), LGD_SUMS4(j + 4), LGD_SUMS4(j + 5), \
      LGD_SUMS4(j + 6), LGD_SUMS4(j + 7)

// d[64 x 8 count] += a[64 x 16] b[8 count x 16], bfloat16 operands. A warp has 16 rows; d[j][q] is its row lane/4 +
// 8*(q/2), column 8*j + (lane%4)*2 + q%2.
template <bool a_outer, bool b_outer>
__device__ __forceinline__ void warpgroup_multiply(float (&d)[8][4], uint64_t a, uint64_t b) {
  LGD_WARPGROUP_ASM(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%"
      "30,%31}, "
      "%32, %33, 1, 1, 1, %34, %35;" : LGD_SUMS32(0) : "l"(a),
      "l"(b), "n"(int(a_outer)), "n"(int(b_outer)));
}
template <bool a_outer, bool b_outer>
__device__ __forceinline__ void warpgroup_multiply(float (&d)[16][4], uint64_t a, uint64_t b) {
  LGD_WARPGROUP_ASM(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%"
      "30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,"
      "%60,%61,%62,%63}, "
      "%64, %65, 1, 1, 1, %66, %67;" : LGD_SUMS32(0),
      LGD_SUMS32(8) : "l"(a), "l"(b), "n"(int(a_outer)), "n"(int(b_outer)));
}

}  // namespace lgd
