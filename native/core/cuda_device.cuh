// What a kernel file needs of CUDA: checked launches, warp, copy and matrix primitives. Kernels use these names only,
// so that test/native/emulation can stand in for this file and run them on the host.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/launch.h"
#include "core/context.h"

namespace lgd {

using bf16 = __nv_bfloat16;
using f16 = __half;

template <class... P>
void launch_kernel(Context& ctx, const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                   const std::type_identity_t<P>&... arguments) {
  const PackedArguments<P...> packed(arguments...);
  ctx.launch({name,
              reinterpret_cast<const void*>(kernel),
              {grid.x, grid.y, grid.z},
              {block.x, block.y, block.z},
              shared_bytes,
              &packed.parameters,
              packed.bytes});
}

// LGD_LAUNCH(ctx, kernel<T>, grid, block, shared_bytes, arguments...)
#define LGD_LAUNCH(ctx, kernel, grid, block, shared, ...) \
  ::lgd::launch_kernel((ctx), #kernel, kernel, (grid), (block), (shared), __VA_ARGS__)

// LGD_DYNAMIC_SHARED(float, scores): the block's dynamic shared memory, 128-byte aligned.
#define LGD_DYNAMIC_SHARED(type, name)                      \
  extern __shared__ __align__(128) char lgd_shared_bytes[]; \
  type* name = reinterpret_cast<type*>(lgd_shared_bytes)

// The first statement of every kernel. In a step's graph a kernel may be started while those before it still run, so
// that it is there when they end (programmatic dependent launch, compute capability 9.0; core/timeline.h): here it
// waits until they are done and what they wrote is seen, having first let those behind it start likewise. Nothing comes
// before it, not even a load of what older kernels wrote: these may still run, too.
__device__ __forceinline__ void wait_for_inputs() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
}

// More than 48 KiB of dynamic shared memory must be asked for. What was allowed stays: graphs keep launches of more
// than the next one needs.
namespace cuda {
// On this thread's device.
void allow_shared_memory(const void* kernel, size_t bytes, int blocks);
int resident_blocks(const void* kernel, int threads, size_t shared);
}  // namespace cuda
// blocks: as many are to share a multiprocessor and leave the rest of its memory to level-1 cache; 0: it needs none.
template <class Kernel>
void allow_shared_memory(Kernel* kernel, size_t bytes, int blocks = 0) {
  cuda::allow_shared_memory(reinterpret_cast<const void*>(kernel), bytes, blocks);
}

// How many blocks of a kernel a multiprocessor runs at once, `most` at most: by its registers, threads and shared
// memory, of which that beyond 48 KiB must have been allowed. A grid of a few blocks more can take nearly twice as long
// as one of so many.
template <class Kernel>
int resident_blocks(Kernel* kernel, int threads, size_t shared, int most) {
  return std::clamp(cuda::resident_blocks(reinterpret_cast<const void*>(kernel), threads, shared), 1, most);
}

// ---- warp and matrix primitives (one place, so that an emulation can stand in for them) -----------------------------
template <class V>
__device__ __forceinline__ V shfl(V value, int lane) {
  return __shfl_sync(~0u, value, lane);
}
template <class V>
__device__ __forceinline__ V shfl_xor(V value, int mask) {
  return __shfl_xor_sync(~0u, value, mask);
}
__device__ __forceinline__ uint32_t ballot(bool flag) { return __ballot_sync(~0u, flag); }  // bit l: lane l's flag

// 2^x and 1/x to a few times 1e-7 of the result, an instruction each: __expf and __fdividef have three and four more,
// for subnormal numbers, which count as zero here.
__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// The larger and the smaller, or NaN if either is: of a NaN and a number fmaxf and fminf give the number, and a relu by
// them hides that a network has diverged.
__device__ __forceinline__ float max_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ __forceinline__ float min_or_nan(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

__device__ __forceinline__ uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }
// Loads and stores of up to 16 bytes at once, at addresses that are multiples of as many.
template <class V>
__device__ __forceinline__ V load_as(const void* p) {
  return *static_cast<const V*>(p);
}
template <class V>
__device__ __forceinline__ void store_as(void* p, const V& value) {
  *static_cast<V*>(p) = value;
}
// For memory that other threads use at the same time, one of them writing, where any order of the two gives the same
// result; say so beside the call. Everywhere else that is a fault, and the emulated GPU reports it.
template <class T>
__device__ __forceinline__ T load_unordered(const T* global) {
  return __ldcg(global);
}
template <class T>
__device__ __forceinline__ void store_unordered(T* p, T value) {
  *static_cast<volatile T*>(p) = value;
}

// Sends for memory that will soon be loaded, so that level-2 cache has it by then: by assumption the far_piece bytes
// around the address, half a line. One instruction for the addresses of a warp, where cp.async.bulk.prefetch has its
// address in uniform registers, so that lanes with their own take turns.
constexpr int far_piece = 64;
__device__ __forceinline__ void prefetch_far(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(global)));
}

// A place in shared memory for copies and matrices: half the arithmetic of a pointer.
struct SharedPlace {
  uint32_t address;
  __device__ __forceinline__ SharedPlace(const void* p) : address(shared_address(p)) {}
  __device__ __forceinline__ SharedPlace operator+(int bytes) const {
    SharedPlace sum = *this;
    sum.address += uint32_t(bytes);
    return sum;
  }
};

// 16 bytes from global to shared memory; zeros where !valid, and then nothing is read, whatever the address. `again`:
// by way of level-1 cache, for what this or a neighbouring block will soon read again.
template <bool again = false>
__device__ __forceinline__ void cp_async16(SharedPlace shared, const void* global, bool valid) {
  if constexpr (again)
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared.address), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
  else
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared.address), "l"(global), "r"(valid ? 16 : 0)
                 : "memory");
}
__device__ __forceinline__ void cp_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
__device__ __forceinline__ void cp_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], SharedPlace shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared.address)
               : "memory");
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], SharedPlace shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared.address)
               : "memory");
}
// d[16x8] += a[16x16] b[16x8], bfloat16 operands, float32 accumulation.
__device__ __forceinline__ void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// The same with float16 operands.
__device__ __forceinline__ void mma_f16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace lgd

#include "core/cuda_vectors.cuh"
