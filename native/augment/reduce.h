// Reduces a decoded image before it is kept.
#pragma once
#include <cstdint>

namespace lgd {

// An image of full_width x full_height pixels that a decoder has shrunk to a `divisor`-th, to as many whole pixels as
// that begins: pixels [height()][width()][3].
struct Shrunk {
  const uint8_t* pixels;  // PixelStore::overread bytes are read past the end
  int full_width, full_height, divisor;

  int width() const { return (full_width + divisor - 1) / divisor; }
  int height() const { return (full_height + divisor - 1) / divisor; }
};

// Antialiased cubic (a = -1/2) to [height][width][3], each at least 1; rounded and clamped to 8 bits. One thread.
void reduce_cpu(const Shrunk& image, int width, int height, uint8_t* out);

}  // namespace lgd
