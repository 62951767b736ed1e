// The words of PTX, for module.cpp: parts of a text, types, variables, numbers, operands.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lgd::emulation::ptx {

std::string_view trimmed(std::string_view text);
inline bool starts_with(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }
std::vector<std::string_view> words_of(std::string_view text);

// Bytes of .b8, .u32 and the like.
uint32_t bytes_of_type(std::string_view type);

// ".param .align 8 .b8 name[1288]" and ".shared .align 16 .b8 name[4096]".
struct Variable {
  std::string_view name;
  uint32_t alignment = 1, bytes = 0;
};
Variable variable_of(std::string_view text);

// 12, -1, 0x1f, 0f3F800000 or 0d3FF0000000000000; nothing for another word.
std::optional<uint64_t> number_of(const std::string& text);

// The parts of "{%f1, %f2}, [%rd1+8], %p1|%p2" in order, and how many each group between commas has.
struct Parts {
  std::vector<std::string> texts;
  std::vector<int> groups;
};
Parts parts_of(std::string_view text);

inline uint32_t aligned(uint32_t at, uint32_t alignment) { return (at + alignment - 1) / alignment * alignment; }

}  // namespace lgd::emulation::ptx
