#include "core/crc32c.h"

#include <array>
#include <cstring>
#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace lgd {

namespace {

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t value = byte;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ (value & 1 ? 0x82f63b78u : 0u);
    table[byte] = value;
  }
  return table;
}
constexpr std::array<uint32_t, 256> table = make_table();

uint32_t by_table(const uint8_t* bytes, size_t count, uint32_t state) {
  for (size_t i = 0; i < count; ++i) state = (state >> 8) ^ table[(state ^ bytes[i]) & 255];
  return state;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t by_instruction(const uint8_t* bytes, size_t count, uint32_t state) {
  uint64_t wide = state;
  for (; count >= 8; bytes += 8, count -= 8) {
    uint64_t word;
    std::memcpy(&word, bytes, 8);
    wide = _mm_crc32_u64(wide, word);
  }
  state = uint32_t(wide);
  for (; count > 0; ++bytes, --count) state = _mm_crc32_u8(state, *bytes);
  return state;
}
#endif

}  // namespace

uint32_t crc32c(const uint8_t* bytes, size_t count, uint32_t before) {
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2");
  if (has_instruction) return ~by_instruction(bytes, count, ~before);
#endif
  return ~by_table(bytes, count, ~before);
}

}  // namespace lgd
