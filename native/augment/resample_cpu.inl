// One row, and one pixel of it, of a resampled image, compiled once per instruction set (included inside its
// namespace): whole interleaved rows vertically, bytes to floats, then pixel by pixel horizontally.
#define LGD_RESAMPLE static inline __attribute__((always_inline))

typedef float Four __attribute__((vector_size(16)));
typedef float FourU __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t FourIndex __attribute__((vector_size(16)));

LGD_RESAMPLE Four load4(const float* p) { return *reinterpret_cast<const FourU*>(p); }
LGD_RESAMPLE void store4(float* p, Four v) { *reinterpret_cast<FourU*>(p) = v; }

// Bytes to floats: __builtin_convertvector would go byte by byte here. (maskz: the plain forms warn of an uninitialised
// variable in GCC 12.)
#if LGD_LANES == 16
LGD_RESAMPLE Vec widen(const uint8_t* p) {
  return (Vec)_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepu8_epi32(0xffff, _mm_loadu_si128((const __m128i*)p)));
}
#elif LGD_LANES == 8
LGD_RESAMPLE Vec widen(const uint8_t* p) {
  return (Vec)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)));
}
#else
LGD_RESAMPLE Vec widen(const uint8_t* p) { return Vec{float(p[0]), float(p[1]), float(p[2]), float(p[3])}; }
#endif

// row[i] = sum over taps of weight * byte i of the source row; reads up to 4 vectors past the row's end
// (PixelStore::overread).
void resample_column(const CpuResample& from, int y, float* row) {
  const int count = from.y.count[y];
  const float* weight = from.y.weights + int64_t(y) * from.y.stride;
  const uint8_t* source = from.pixels + from.y.begin[y] * from.row_bytes;
  for (int i = 0; i < from.row_floats; i += 4 * lanes) {
    Vec a = {}, b = {}, c = {}, d = {};
    const uint8_t* p = source + i;
    for (int tap = 0; tap < count; ++tap, p += from.row_bytes) {
      const Vec w = splat(weight[tap]);
      a += w * widen(p);
      b += w * widen(p + lanes);
      c += w * widen(p + 2 * lanes);
      d += w * widen(p + 3 * lanes);
    }
    store(row + i, a);
    store(row + i + lanes, b);
    store(row + i + 2 * lanes, c);
    store(row + i + 3 * lanes, d);
  }
}

// One output pixel (r, g, b, rubbish) from an interleaved row.
LGD_RESAMPLE Four resample_pixel(const CpuResample& from, const float* row, int x) {
  const float* p = row + 3 * from.x.begin[x];
  const float* weight = from.x.weights + int64_t(x) * from.x.stride;
  Four sum = load4(p) * weight[0];
  for (int tap = 1; tap < from.x.count[x]; ++tap) sum += load4(p + 3 * tap) * weight[tap];
  return sum;
}

#undef LGD_RESAMPLE
