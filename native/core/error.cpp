#include "core/error.h"

#include <cstdio>

namespace lgd {

MessagePart::MessagePart(double value) : text_(digits_, std::size_t(std::snprintf(digits_, sizeof(digits_), "%g", value))) {}

void MessagePart::write_signed(long long value) { text_ = {digits_, std::size_t(std::snprintf(digits_, sizeof(digits_), "%lld", value))}; }

void MessagePart::write_unsigned(unsigned long long value) { text_ = {digits_, std::size_t(std::snprintf(digits_, sizeof(digits_), "%llu", value))}; }

std::string concat(std::initializer_list<MessagePart> parts) {
  std::string text;
  for (const MessagePart& part : parts) text += part.text();
  return text;
}

void throw_error(const char* code, std::initializer_list<MessagePart> parts) { throw Error(code, concat(parts)); }

}  // namespace lgd
