// Colours of an ICC profile of the common kind, three curves and a matrix (Adobe RGB, Display P3, most cameras'), to
// sRGB.
#pragma once
#include <cstddef>
#include <cstdint>

namespace lgd {

// In place, interleaved RGB. Colours that sRGB has not are clipped. Any other kind of profile, one with a raised black,
// or a damaged one: BAD_IMAGE. Thread-safe.
void convert_to_srgb(const uint8_t* profile, size_t bytes, uint8_t* pixels, int64_t count);

}  // namespace lgd
