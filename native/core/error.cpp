#include "core/error.h"

#include <cstdio>
#include <cstring>

namespace lgd {

MessagePart::MessagePart(const char* text) : begin_(text), size_(std::strlen(text)) {}
MessagePart::MessagePart(const std::string& text) : begin_(text.data()), size_(text.size()) {}
MessagePart::MessagePart(double value) : size_(size_t(std::snprintf(digits_, sizeof(digits_), "%g", value))) {}
void MessagePart::write_signed(long long value) {
  size_ = size_t(std::snprintf(digits_, sizeof(digits_), "%lld", value));
}
void MessagePart::write_unsigned(unsigned long long value) {
  size_ = size_t(std::snprintf(digits_, sizeof(digits_), "%llu", value));
}

std::string concat(std::initializer_list<MessagePart> parts) {
  std::string text;
  for (const MessagePart& part : parts) text.append(part.begin(), part.size());
  return text;
}

void throw_error(const char* code, std::initializer_list<MessagePart> parts) { throw Error(code, concat(parts)); }

}  // namespace lgd
