// A reduced image, compiled once per instruction set.
namespace lgd::LGD_ISA {
namespace {

#include "augment/resample_cpu.inl"

// A pixel as three bytes, the fourth of which may be overwritten with rubbish where `spare` says so.
static inline __attribute__((always_inline)) void store_pixel(uint8_t* out, Four pixel, bool spare) {
#if defined(__x86_64__)
  const __m128i words = _mm_packs_epi32(_mm_cvtps_epi32((__m128)pixel), _mm_setzero_si128());
  const int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));  // saturated at both steps
#else
  int32_t bytes = 0;
  for (int c = 0; c < 3; ++c) bytes |= int32_t(pixel[c] <= 0 ? 0 : pixel[c] >= 255 ? 255 : pixel[c] + 0.5f) << (8 * c);
#endif
  __builtin_memcpy(out, &bytes, spare ? 4 : 3);
}

}  // namespace

void reduce_image(const CpuReduce& job) {
  for (int y = 0; y < job.height; ++y) {
    resample_column(job.from, y, job.row);
    uint8_t* out = job.out + int64_t(y) * job.width * 3;
    for (int x = 0; x + 1 < job.width; ++x) store_pixel(out + 3 * x, resample_pixel(job.from, job.row, x), true);
    store_pixel(out + 3 * (job.width - 1), resample_pixel(job.from, job.row, job.width - 1), false);
  }
}

}  // namespace lgd::LGD_ISA
