// Vector code compiled several times in one binary: a kernel file includes its .inl once per instruction set through
// foreach_isa.h, and calls the copy that this processor runs. Vectors are GCC/Clang vector extensions: plain arithmetic
// operators, contracted to fused multiply-adds by the compiler.
//
//   // scale_cpu.cpp
//   #include "core/simd.h"
//   #define LGD_ISA_FILE "ops/scale_cpu.inl"       // defines functions inside namespace lgd::LGD_ISA
//   #include "core/foreach_isa.h"
//   void scale(...) { LGD_DISPATCH(scale_kernel)(...); }
//
// Everything from the standard library that an .inl needs is included before foreach_isa.h, so that no shared inline
// function is compiled for an instruction set that the processor may lack.
#pragma once
#include <cstdint>
#include <cstring>

namespace lgd {

enum class Isa { baseline = 0, avx2 = 1, avx512 = 2 };

// The best instruction set of this processor; LGDISTILL_ISA=baseline|avx2|avx512 lowers it (for tests).
Isa cpu_isa();
const char* isa_name(Isa isa);

}  // namespace lgd

#if defined(__x86_64__)
#define LGD_DISPATCH(name)                                \
  (::lgd::cpu_isa() == ::lgd::Isa::avx512 ? &avx512::name \
   : ::lgd::cpu_isa() == ::lgd::Isa::avx2 ? &avx2::name   \
                                          : &baseline::name)
#else
#define LGD_DISPATCH(name) (&baseline::name)
#endif
