// Includes LGD_ISA_FILE once per instruction set; see simd.h. No include guard: each kernel file includes it once.
// Inside the file: LGD_ISA is the namespace, LGD_LANES the floats of one vector (4, 8, 16), Vec the vector type.
#define LGD_ISA_PROLOGUE                                                                                              \
  typedef float Vec __attribute__((vector_size(LGD_LANES * 4), aligned(LGD_LANES * 4)));                              \
  typedef float VecU __attribute__((vector_size(LGD_LANES * 4), aligned(4), may_alias));                              \
  static constexpr int lanes = LGD_LANES;                                                                             \
  static inline __attribute__((always_inline)) Vec load(const float* p) { return *reinterpret_cast<const VecU*>(p); } \
  static inline __attribute__((always_inline)) void store(float* p, Vec v) { *reinterpret_cast<VecU*>(p) = v; }       \
  static inline __attribute__((always_inline)) Vec splat(float x) { return Vec{} + x; }

#define LGD_ISA baseline
#define LGD_LANES 4
namespace lgd::baseline {
namespace {
LGD_ISA_PROLOGUE
}
}  // namespace lgd::baseline
#include LGD_ISA_FILE
#undef LGD_ISA
#undef LGD_LANES

#if defined(__x86_64__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2")
#define LGD_ISA avx2
#define LGD_LANES 8
namespace lgd::avx2 {
namespace {
LGD_ISA_PROLOGUE
}
}  // namespace lgd::avx2
#include LGD_ISA_FILE
#undef LGD_ISA
#undef LGD_LANES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c,bmi,bmi2,prefer-vector-width=512")
#define LGD_ISA avx512
#define LGD_LANES 16
namespace lgd::avx512 {
namespace {
LGD_ISA_PROLOGUE
}
}  // namespace lgd::avx512
#include LGD_ISA_FILE
#undef LGD_ISA
#undef LGD_LANES
#pragma GCC pop_options
#endif
