// Errors of the native core: a stable code (the same names as lib/errors.ts) and a message with evidence.
// Nearly every file includes this one, so it takes no <sstream>, and what makes messages is in error.cpp.
#pragma once
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace lgd {

struct Error : std::runtime_error {
  std::string code;
  Error(std::string code_, const std::string& message) : std::runtime_error(message), code(std::move(code_)) {}
};

/** A piece of a message: text, which must outlive it, or a number, written here. */
class MessagePart {
 public:
  MessagePart(const char* text) : text_(text) {}
  MessagePart(const std::string& text) : text_(text) {}
  MessagePart(char one) : text_(digits_, 1) { digits_[0] = one; }
  MessagePart(double value);
  template <class T, class = std::enable_if_t<std::is_integral_v<T>>>
  MessagePart(T value) {
    if constexpr (std::is_signed_v<T>) write_signed(value);
    else write_unsigned(value);
  }
  MessagePart(const MessagePart&) = delete;  // text_ may be of digits_
  MessagePart& operator=(const MessagePart&) = delete;
  std::string_view text() const { return text_; }

 private:
  void write_signed(long long value);
  void write_unsigned(unsigned long long value);

  char digits_[24];
  std::string_view text_;
};

/** The parts, one after the other. */
std::string concat(std::initializer_list<MessagePart> parts);

/** Throws an Error whose message is these parts. */
[[noreturn]] void throw_error(const char* code, std::initializer_list<MessagePart> parts);

}  // namespace lgd

// LGD_CHECK(condition, "BAD_SHAPE", "expected ", n, " values, found ", m): throws with the place in the source.
#define LGD_CHECK(condition, code, ...)                                                 \
  do {                                                                                  \
    if (!(condition)) [[unlikely]]                                                      \
      ::lgd::throw_error(code, {__VA_ARGS__, " [", __FILE_NAME__, ":", __LINE__, "]"}); \
  } while (0)
