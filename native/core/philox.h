// Philox4x32-10: counter-based random numbers (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
// The same key and counter give the same four words on every backend, so a draw needs no state.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define LGD_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define LGD_HOST_DEVICE inline
#endif

namespace lgd {

struct Philox4 {
  uint32_t word[4];
};

// key: the seed. counter_high, counter_low: what the draw is for (for example epoch and image; or step and element).
LGD_HOST_DEVICE Philox4 philox(uint64_t key, uint64_t counter_high, uint64_t counter_low) {
  uint32_t k0 = uint32_t(key), k1 = uint32_t(key >> 32);
  uint32_t c0 = uint32_t(counter_low), c1 = uint32_t(counter_low >> 32);
  uint32_t c2 = uint32_t(counter_high), c3 = uint32_t(counter_high >> 32);
#ifdef __CUDACC__
#pragma unroll 1  // a draw is one of many things that a kernel does, and its rounds would be a kilobyte and a half of code at each place
#endif
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    const uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1);
    c3 = uint32_t(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// A word as a float in [0, 1): 24 bits, exactly representable.
LGD_HOST_DEVICE float unit_float(uint32_t word) { return float(word >> 8) * (1.0f / 16777216.0f); }

}  // namespace lgd
