#include "text.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

namespace lgd::emulation::ptx {

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\n\r");
  return first == std::string_view::npos ? std::string_view{}
                                         : text.substr(first, text.find_last_not_of(" \t\n\r") - first + 1);
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  for (text = trimmed(text); !text.empty();) {
    const size_t end = std::min(text.find_first_of(" \t\n"), text.size());
    words.push_back(text.substr(0, end));
    text = trimmed(text.substr(end));
  }
  return words;
}

uint32_t bytes_of_type(std::string_view type) {
  if (type == ".pred") return 0;
  return uint32_t(std::atoi(std::string(type.substr(2)).c_str())) / 8;
}

Variable variable_of(std::string_view text) {
  Variable variable;
  uint32_t element = 1;
  const auto words = words_of(text);
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i] == ".align") variable.alignment = uint32_t(std::atoi(std::string(words[++i]).c_str()));
    else if (words[i][0] != '.') variable.name = words[i];
    else if (words[i].size() <= 4) element = bytes_of_type(words[i]);
  }
  variable.alignment = std::max(variable.alignment, element);
  variable.bytes = element;
  const size_t bracket = variable.name.find('[');
  if (bracket != std::string_view::npos) {
    variable.bytes = element * uint32_t(std::atoi(std::string(variable.name.substr(bracket + 1)).c_str()));
    variable.name = variable.name.substr(0, bracket);
  }
  return variable;
}

std::optional<uint64_t> number_of(const std::string& text) {
  if (!std::isdigit(static_cast<unsigned char>(text[0])) && text[0] != '-') return {};
  if (starts_with(text, "0f") || starts_with(text, "0d")) return std::strtoull(text.c_str() + 2, nullptr, 16);
  return text[0] == '-' ? uint64_t(std::strtoll(text.c_str(), nullptr, 0)) : std::strtoull(text.c_str(), nullptr, 0);
}

Parts parts_of(std::string_view text) {
  Parts parts;
  bool inside = false, begun = false;
  std::string one;
  const auto finish = [&](bool group_ends) {
    const std::string_view part = trimmed(one);
    if (!part.empty()) {
      if (!begun) parts.groups.push_back(0);
      begun = true;
      ++parts.groups.back();
      parts.texts.push_back(std::string(part));
    }
    one.clear();
    if (group_ends) begun = false;
  };
  for (const char c : text) {
    if (c == '{') inside = true;
    else if (c == '}') inside = false;
    else if (c == ',') finish(!inside);
    else if (c == '|') finish(false);
    else one += c;
  }
  finish(true);
  return parts;
}

}  // namespace lgd::emulation::ptx
