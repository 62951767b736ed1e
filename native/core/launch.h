// A kernel's launch as data: it can run at once, or be kept, compared with another and given to a graph.
#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <type_traits>

namespace lgd {

struct Extent {
  unsigned x = 1, y = 1, z = 1;
};

// Where a kernel's arguments lie in a launch's bytes; one object for each list of parameter types.
struct Parameters {
  const uint32_t* offsets;
  int count;
  size_t bytes;
};
constexpr int most_parameters = 32;

struct Launch {
  const char* name = nullptr;
  const void* kernel = nullptr;  // the address of the __global__ function, which is the runtime's handle
  Extent grid, block;
  size_t shared_bytes = 0;
  const Parameters* parameters = nullptr;
  const char* arguments = nullptr;  // parameters->bytes; whoever keeps a launch copies them
};

// Arguments converted to a kernel's parameter types and laid side by side.
template <class... P>
struct PackedArguments {
  static_assert((std::is_trivially_copyable_v<P> && ...), "a kernel's arguments are copied byte by byte");
  static_assert(sizeof...(P) >= 1 && sizeof...(P) <= most_parameters);
  static constexpr size_t alignment = std::max({alignof(P)...});

  // Of the i-th argument; of the last index: all bytes.
  static constexpr std::array<uint32_t, sizeof...(P) + 1> offsets = [] {
    constexpr size_t sizes[] = {sizeof(P)...}, alignments[] = {alignof(P)...};
    std::array<uint32_t, sizeof...(P) + 1> at{};
    size_t end = 0;
    for (size_t i = 0; i < sizeof...(P); ++i) {
      end = (end + alignments[i] - 1) / alignments[i] * alignments[i];
      at[i] = uint32_t(end);
      end += sizes[i];
    }
    at[sizeof...(P)] = uint32_t(end);
    return at;
  }();
  static constexpr Parameters parameters = {offsets.data(), int(sizeof...(P)), offsets[sizeof...(P)]};

  explicit PackedArguments(const P&... arguments) {
    size_t i = 0;
    (put(bytes + offsets[i++], arguments), ...);
  }

  // Zeros between them, and where the compiler can tell also within them, so that equal arguments are equal bytes.
  alignas(alignment) char bytes[offsets[sizeof...(P)]] = {};

 private:
  template <class T>
  static void put(char* to, const T& argument) {
    [[maybe_unused]] T* placed = new (to) T(argument);
#if defined(__has_builtin)
#if __has_builtin(__builtin_clear_padding)
    if constexpr (std::is_class_v<T>) __builtin_clear_padding(placed);
#endif
#endif
  }
};

}  // namespace lgd
