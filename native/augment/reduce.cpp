#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "augment/reduce.h"
#include "augment/resample_cpu.h"
#include "core/simd.h"

namespace lgd {

struct CpuReduce {
  CpuResample from;
  int width, height;  // of the output
  float* row;         // scratch
  uint8_t* out;
};

}  // namespace lgd

#define LGD_ISA_FILE "augment/reduce.inl"
#include "core/foreach_isa.h"

namespace lgd {

void reduce_cpu(const Shrunk& image, int width, int height, uint8_t* out) {
  constexpr int longest_block = 64;  // floats that a row is resampled by
  thread_local Taps x, y;
  thread_local std::vector<float> row;
  // The last shrunk pixel may be of fewer than `divisor` full ones, so places are reckoned in full ones: in / out is
  // the scale between shrunk and reduced pixels.
  x.plan({image.full_width, width * image.divisor, 0}, Filter::cubic, width, 1.0f, image.width());
  y.plan({image.full_height, height * image.divisor, 0}, Filter::cubic, height, 1.0f, image.height());
  const int row_floats = 3 * image.width();
  row.resize(size_t(row_floats) + longest_block);
  LGD_DISPATCH(reduce_image)(
      {{image.pixels, row_floats, row_floats, x.view(), y.view()}, width, height, row.data(), out});
}

}  // namespace lgd
