// Stands in for native/core/cuda_device.cuh when the kernel files are compiled for the host (include path before
// native/): the same names, with one fiber per CUDA thread, switched at barriers and warp collectives. What it is
// strict about:
//   - dynamic shared memory starts as NaN in float32 and in bfloat16, so that reading what nobody wrote shows in the
//     result;
//   - cp.async copies happen at the wait, not at the issue, so that a missing wait shows;
//   - threads and blocks run in forward, reverse or random order (LGDISTILL_EMULATION_ORDER), so that a missing barrier
//     shows;
//   - launches and copies wait in lists, one a stream, and run when somebody waits for them (a synchronisation, an
//     event, a free), so that memory that is written again too early shows; what runtime.cpp is strict about stands
//     there;
//   - a barrier that some threads never reach is reported as a deadlock;
//   - a thread that ends without wait_for_inputs() is an error;
//   - a kernel gets the shared memory that was allowed for it, and no grid or block that a GPU would refuse;
// What it cannot see: what nvcc makes of the kernels, races that no order of threads shows, bank conflicts. For these
// ptx/run.h executes nvcc's PTX instead of the fibers.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/launch.h"
#include "core/context.h"
#include "tensor_core.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define __shared__ static
#define LGD_EMULATED 1

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct uchar4 {
  uint8_t x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

// bfloat16 with round to nearest even.
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 b) { return std::bit_cast<float>(uint32_t(b.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float f) {
  const uint32_t word = std::bit_cast<uint32_t>(f);
  if ((word & 0x7fffffff) > 0x7f800000) return {0x7fff};
  return {uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16)};
}
inline __nv_bfloat16 __float2bfloat16(float f) { return __float2bfloat16_rn(f); }
struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}

// float16 (1, 5 and 10 bits) with round to nearest even; every float16 is a float32, so one table holds them.
struct __half {
  uint16_t bits;
};
inline const std::vector<float> half_values = [] {
  std::vector<float> values(65536);
  for (int bits = 0; bits < 65536; ++bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                       : exponent     ? std::ldexp(1.f + fraction / 1024.f, exponent - 15)
                                      : std::ldexp(float(fraction), -24);
    values[bits] = bits & 0x8000 ? -size : size;
  }
  return values;
}();
inline float __half2float(__half h) { return half_values[h.bits]; }
inline __half __float2half_rn(float f) {
  const uint16_t sign = uint16_t(std::bit_cast<uint32_t>(f) >> 16 & 0x8000);
  const float size = std::fabs(f);
  if (!(size < 65520.f)) return {uint16_t(sign | (size != size ? 0x7fff : 0x7c00))};
  // a subnormal, or the least normal
  if (size < 0x1p-14f) return {uint16_t(sign | uint16_t(std::nearbyint(size * 0x1p24f)))};
  const uint32_t word = std::bit_cast<uint32_t>(size), rounded = word + 0xfff + (word >> 13 & 1);
  return {uint16_t(sign | uint16_t((rounded >> 13) - (112 << 10)))};
}

inline float __uint_as_float(uint32_t word) { return std::bit_cast<float>(word); }
inline uint32_t __float_as_uint(float f) { return std::bit_cast<uint32_t>(f); }
inline int __float_as_int(float f) { return std::bit_cast<int>(f); }
inline float __int_as_float(int i) { return std::bit_cast<float>(i); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
inline int __popc(uint32_t word) { return std::popcount(word); }
inline int __ffs(int word) { return word == 0 ? 0 : std::countr_zero(uint32_t(word)) + 1; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float without_subnormal(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.f, x) : x; }
inline float rsqrtf(float x) { return 1.f / std::sqrt(x); }
inline float max_or_nan(float a, float b) {
  return a != a || b != b ? std::numeric_limits<float>::quiet_NaN() : std::max(a, b);
}
inline float min_or_nan(float a, float b) {
  return a != a || b != b ? std::numeric_limits<float>::quiet_NaN() : std::min(a, b);
}
inline float __saturatef(float x) { return x > 0.f ? std::min(x, 1.f) : 0.f; }  // of NaN: 0, as on the device
template <class T>
inline T __ldg(const T* p) {
  return *p;
}
using std::max;
using std::min;

// A function that touches nothing but the emulation's own memory, which AddressSanitizer need not watch: its checks
// would take most of the time.
#define LGD_OWN_MEMORY __attribute__((no_sanitize("address")))

// ---- fibers ---------------------------------------------------------------------------------------------------------
namespace lgd::emulation {

struct Cursor {
  dim3 thread, block, block_size, grid_size;
};
// Of the one kernel that runs in this process.
extern Cursor cursor;  // of the fiber that runs
extern char* dynamic_shared;
enum class Order { forward, reverse, random, none };
Order order();  // LGDISTILL_EMULATION_ORDER; none: launches are checked and counted, and no kernel runs
void run_kernel(const Launch& launch, const std::function<void()>& kernel);  // waits while another thread runs one
// For shapes that nobody could run whole: says which blocks of a launch run. While there is such a function memory that
// is asked for is zeros, which take none until it is touched.
extern std::vector<int64_t> (*chosen_blocks)(const Launch& launch);

// An address among a kernel's arguments, and whether the kernel may write there.
struct Access {
  const void* address;
  bool writes;
  bool certain = true;  // false: a word that may be an address
};
template <class Kernel>
const void* address_of(Kernel* kernel) {
  return reinterpret_cast<const void*>(kernel);
}
// its own and a launch's together: what a block has, if it asked for any, or what comes unasked
size_t most_shared_memory(const void* kernel);

// What the emulation needs to know of a kernel's parameters beyond where they lie.
struct Signature : Parameters {
  void (*call)(const void* kernel, const char* arguments);
  std::vector<Access> (*accesses)(const char* arguments);
};

// What a launch by the kernel's address will need.
void know_kernel(const void* kernel, const char* name, const Signature* signature);

// Pointers are taken at their word: to const is read only. Words of a struct that look like addresses are taken as
// read. `argument`: where it lies among the packed ones, whose padding is zero; that of a copy might hold half an
// address.
template <class T>
void note_accesses(std::vector<Access>& list, const char* argument) {
  const auto word_at = [&](size_t at) {
    void* word;
    std::memcpy(&word, argument + at, sizeof word);
    return word;
  };
  if constexpr (std::is_pointer_v<T>) {
    list.push_back({word_at(0), !std::is_const_v<std::remove_pointer_t<T>>});
  } else if constexpr (std::is_class_v<T> && alignof(T) >= alignof(void*)) {
    for (size_t at = 0; at + sizeof(void*) <= sizeof(T); at += sizeof(void*))
      if (const void* word = word_at(at)) list.push_back({word, false, false});
  }
}

template <class... P>
struct Kernel {
  using Packed = PackedArguments<P...>;
  template <class T>
  static T read(const char* bytes) {
    alignas(T) char copy[sizeof(T)];
    std::memcpy(copy, bytes, sizeof(T));
    return *std::launder(reinterpret_cast<T*>(copy));
  }
  template <size_t... i>
  static void call_with(void (*kernel)(P...), const char* arguments, std::index_sequence<i...>) {
    kernel(read<P>(arguments + Packed::offsets[i])...);
  }
  template <size_t... i>
  static std::vector<Access> accesses_of(const char* arguments, std::index_sequence<i...>) {
    std::vector<Access> list;
    (note_accesses<P>(list, arguments + Packed::offsets[i]), ...);
    return list;
  }
  static constexpr Signature signature = {
      Packed::parameters,
      [](const void* kernel, const char* arguments) {
        call_with(reinterpret_cast<void (*)(P...)>(const_cast<void*>(kernel)), arguments,
                  std::index_sequence_for<P...>());
      },
      [](const char* arguments) { return accesses_of(arguments, std::index_sequence_for<P...>()); },
  };
};

void sync_block();
void sync_warp();
int lane();
// What each lane gives to the others of its warp.
constexpr size_t exchange_bytes = 64;
struct alignas(16) Exchanged {
  char lane[32][exchange_bytes];
};
// Gives so many bytes to the other lanes and returns what all 32 gave, after a warp barrier; valid until the lane's
// second exchange from now. `together`, if not null, is called once when all have given, and may replace what they get.
const Exchanged& exchange(const void* mine, size_t bytes, void (*together)(Exchanged&) = nullptr);
void defer_copy(void* to, const void* from, bool valid);
void commit_copies();
void wait_copies(int pending);
void wait_for_inputs();

}  // namespace lgd::emulation

#define threadIdx (::lgd::emulation::cursor.thread)
#define blockIdx (::lgd::emulation::cursor.block)
#define blockDim (::lgd::emulation::cursor.block_size)
#define gridDim (::lgd::emulation::cursor.grid_size)
#define __syncthreads() (::lgd::emulation::sync_block())
#define __syncwarp(...) (::lgd::emulation::sync_warp())

#define LGD_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(::lgd::emulation::dynamic_shared)

namespace lgd {

using bf16 = __nv_bfloat16;
using f16 = __half;

template <class... P>
void launch_kernel(Context& ctx, const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                   const std::type_identity_t<P>&... arguments) {
  const PackedArguments<P...> packed(arguments...);
  emulation::know_kernel(emulation::address_of(kernel), name, &emulation::Kernel<P...>::signature);
  ctx.launch({name,
              emulation::address_of(kernel),
              {grid.x, grid.y, grid.z},
              {block.x, block.y, block.z},
              shared_bytes,
              &emulation::Kernel<P...>::signature,
              packed.bytes});
}
#define LGD_LAUNCH(ctx, kernel, grid, block, shared, ...) \
  ::lgd::launch_kernel((ctx), #kernel, kernel, (grid), (block), (shared), __VA_ARGS__)

inline void wait_for_inputs() { emulation::wait_for_inputs(); }

namespace cuda {
void allow_shared_memory(const void* kernel, size_t bytes, int blocks);
int resident_blocks(const void* kernel, int threads, size_t shared);
}  // namespace cuda
template <class Kernel>
void allow_shared_memory(Kernel* kernel, size_t bytes, int blocks = 0) {
  cuda::allow_shared_memory(emulation::address_of(kernel), bytes, blocks);
}
template <class Kernel>
int resident_blocks(Kernel* kernel, int threads, size_t shared, int most) {
  return std::clamp(cuda::resident_blocks(emulation::address_of(kernel), threads, shared), 1, most);
}

// One access, as on a GPU, whatever the host's compiler would make of the vector's parts.
template <class V>
inline V load_as(const void* p) {
  LGD_CHECK(reinterpret_cast<uintptr_t>(p) % sizeof(V) == 0, "DEVICE_ERROR", "a misaligned load of ", sizeof(V),
            " bytes");
  V value;
  std::memcpy(&value, p, sizeof value);
  return value;
}
template <class V>
inline void store_as(void* p, const V& value) {
  LGD_CHECK(reinterpret_cast<uintptr_t>(p) % sizeof(V) == 0, "DEVICE_ERROR", "a misaligned store of ", sizeof(V),
            " bytes");
  std::memcpy(p, &value, sizeof value);
}

inline float exp2_approximate(float x) { return without_subnormal(std::exp2(x)); }
inline float reciprocal_approximate(float x) { return without_subnormal(1.f / without_subnormal(x)); }

template <class T>
inline T load_unordered(const T* global) {
  return *global;
}
template <class T>
inline void store_unordered(T* p, T value) {
  *p = value;
}

template <class V>
inline V shfl(V value, int from) {
  const emulation::Exchanged& all = emulation::exchange(&value, sizeof value);
  V other;
  std::memcpy(&other, all.lane[from], sizeof other);
  return other;
}
template <class V>
inline V shfl_xor(V value, int mask) {
  return shfl(value, emulation::lane() ^ mask);
}
inline uint32_t ballot(bool flag) {
  const emulation::Exchanged& all = emulation::exchange(&flag, sizeof flag);
  uint32_t bits = 0;
  for (int lane = 0; lane < 32; ++lane) bits |= uint32_t(all.lane[lane][0] != 0) << lane;
  return bits;
}

constexpr int far_piece = 64;
inline void prefetch_far(const void* global) { (void)*static_cast<const volatile char*>(global); }  // it shall be there

struct SharedPlace {
  char* p;
  SharedPlace(const void* p_) : p(static_cast<char*>(const_cast<void*>(p_))) {}
  SharedPlace operator+(int bytes) const { return p + bytes; }
};
template <bool again = false>
__forceinline__ void cp_async16(SharedPlace to, const void* global, bool valid) {
  char* const shared = to.p;
  LGD_CHECK((reinterpret_cast<uintptr_t>(shared) | (valid ? reinterpret_cast<uintptr_t>(global) : 0)) % 16 == 0,
            "DEVICE_ERROR", "misaligned 16-byte copy");
  emulation::defer_copy(shared, global, valid);
}
inline void cp_commit() { emulation::commit_copies(); }
template <int pending>
inline void cp_wait() {
  emulation::wait_copies(pending);
}

// A collective of a warp: every lane gives In, and `together` makes Out of all of them at once, which saves 31 lanes'
// decoding.
template <class In, class Out, class Together>
inline void collect(const In& mine, Out& out, Together) {
  static_assert(sizeof(In) <= emulation::exchange_bytes && sizeof(Out) <= emulation::exchange_bytes);
  const emulation::Exchanged& all =
      emulation::exchange(&mine, sizeof mine, [](emulation::Exchanged& exchanged) LGD_OWN_MEMORY {
        In in[32];
        Out result[32];
        for (int lane = 0; lane < 32; ++lane) std::memcpy(&in[lane], exchanged.lane[lane], sizeof(In));
        Together()(in, result);
        for (int lane = 0; lane < 32; ++lane) std::memcpy(exchanged.lane[lane], &result[lane], sizeof(Out));
      });
  std::memcpy(&out, all.lane[emulation::lane()], sizeof out);
}

// Lane l gives the address of row l % 8 of matrix l / 8; register i of lane l holds row l / 4, columns 2 (l % 4) and
// the next, of matrix i.
struct Registers {
  uint32_t r[4];
};
template <bool transposed>
inline void load_matrix(uint32_t (&r)[4], const void* shared) {
  Registers mine;
  collect(shared, mine, [](const void* const(&rows)[32], Registers(&out)[32]) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t value[8][8];
      for (int row = 0; row < 8; ++row) std::memcpy(value[row], rows[matrix * 8 + row], 16);
      for (int lane = 0; lane < 32; ++lane) {
        const int row = lane / 4, column = lane % 4 * 2;
        out[lane].r[matrix] = transposed ? value[column][row] | uint32_t(value[column + 1][row]) << 16
                                         : value[row][column] | uint32_t(value[row][column + 1]) << 16;
      }
    }
  });
  for (int i = 0; i < 4; ++i) r[i] = mine.r[i];
}
inline void ldmatrix_x4(uint32_t (&r)[4], SharedPlace shared) { load_matrix<false>(r, shared.p); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], SharedPlace shared) { load_matrix<true>(r, shared.p); }

// Fragment tables of mma.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type");
// Value()(word, half) is one operand, of a format whose least exponent is given.
struct Fragments {
  uint32_t a[4], b[2];
  float d[4];
};
struct Sums {
  float d[4];
};
template <int least_exponent, class Value>
inline void multiply_fragments(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Value) {
  Sums sums;
  collect(Fragments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {d[0], d[1], d[2], d[3]}}, sums,
          [](const Fragments(&in)[32], Sums(&out)[32]) LGD_OWN_MEMORY {
            float left[16][16], right[16][8];  // [row][k], [k][column]
            for (int lane = 0; lane < 32; ++lane)
              for (int half = 0; half < 2; ++half) {
                const int outer = lane / 4, k = lane % 4 * 2 + half;
                for (int i = 0; i < 4; ++i) left[outer + i % 2 * 8][i / 2 * 8 + k] = Value()(in[lane].a[i], half);
                for (int i = 0; i < 2; ++i) right[i * 8 + k][outer] = Value()(in[lane].b[i], half);
              }
            float sum[16][8];
            for (int lane = 0; lane < 32; ++lane)
              for (int i = 0; i < 4; ++i) sum[i / 2 * 8 + lane / 4][lane % 4 * 2 + i % 2] = in[lane].d[i];
            emulation::add_products(emulation::tensor_core, least_exponent, 16, left, right, sum);
            for (int lane = 0; lane < 32; ++lane)
              for (int i = 0; i < 4; ++i) out[lane].d[i] = sum[i / 2 * 8 + lane / 4][lane % 4 * 2 + i % 2];
          });
  for (int i = 0; i < 4; ++i) d[i] = sums.d[i];
}
inline void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  multiply_fragments<emulation::least_bfloat16>(d, a, b, [](uint32_t word, int half) __attribute__((always_inline)) {
    return std::bit_cast<float>(half ? word & 0xffff0000u : word << 16);
  });
}
inline void mma_f16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  multiply_fragments<emulation::least_float16>(
      d, a, b, [](uint32_t word, int half) { return __half2float({uint16_t(half ? word >> 16 : word)}); });
}

}  // namespace lgd

#include "core/cuda_vectors.cuh"
