// Checks that throw lgd::Error (core/error.h). Nearly every file includes this one, so it takes next to nothing of the
// standard library.
#pragma once
#include <cstddef>
#include <initializer_list>
#include <iosfwd>
#include <type_traits>

namespace lgd {

/** A piece of a message: text, which must outlive it, or a number, written here. */
class MessagePart {
 public:
  MessagePart(const char* text);
  MessagePart(const std::string& text);
  MessagePart(char) = delete;  // would be written as a number
  MessagePart(double value);
  template <class T, class = std::enable_if_t<std::is_integral_v<T>>>
  MessagePart(T value) {
    if constexpr (std::is_signed_v<T>) write_signed(value);
    else write_unsigned(value);
  }
  MessagePart(const MessagePart&) = delete;  // begin_ may be of digits_
  MessagePart& operator=(const MessagePart&) = delete;
  const char* begin() const { return begin_; }
  size_t size() const { return size_; }

 private:
  void write_signed(long long value);
  void write_unsigned(unsigned long long value);

  char digits_[24];
  const char* begin_ = digits_;
  size_t size_ = 0;
};

/** Throws an Error whose message is these parts. */
[[noreturn]] void throw_error(const char* code, std::initializer_list<MessagePart> parts);

#ifdef __FILE_NAME__
#define LGD_FILE __FILE_NAME__
#else  // before GCC 12
constexpr const char* file_name(const char* path) {
  const char* name = path;
  for (; *path; ++path)
    if (*path == '/') name = path + 1;
  return name;
}
#define LGD_FILE ::lgd::file_name(__FILE__)
#endif

}  // namespace lgd

// LGD_CHECK(condition, "BAD_SHAPE", "expected ", n, " values, found ", m): throws with the place in the source.
#define LGD_CHECK(condition, code, ...)                                            \
  do {                                                                             \
    if (!(condition)) [[unlikely]]                                                 \
      ::lgd::throw_error(code, {__VA_ARGS__, " [", LGD_FILE, ":", __LINE__, "]"}); \
  } while (0)
