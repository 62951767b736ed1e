// Errors of the native core: a stable code (the same names as lib/errors.ts) and a message with evidence.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace lgd {

struct Error : std::runtime_error {
  std::string code;
  Error(std::string code_, const std::string& message) : std::runtime_error(message), code(std::move(code_)) {}
};

namespace detail {
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}
}  // namespace detail

}  // namespace lgd

// LGD_CHECK(condition, "BAD_SHAPE", "expected ", n, " values, found ", m): throws with the place in the source.
#define LGD_CHECK(condition, code, ...)                                                               \
  do {                                                                                                \
    if (!(condition)) [[unlikely]]                                                                    \
      throw ::lgd::Error(code, ::lgd::detail::concat(__VA_ARGS__, " [", __FILE_NAME__, ":", __LINE__, "]")); \
  } while (0)

