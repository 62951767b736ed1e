// What a .inl that includes ops/vector_cpu.inl needs in front of core/foreach_isa.h.
#pragma once
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include "core/simd.h"

// Vectors that leave a function only by inlining: their passing convention does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"
