// Errors of the native core: a stable code (the same names as lib/errors.ts) and a message with evidence.
#pragma once
#include <stdexcept>
#include <string>
#include <utility>

#include "core/check.h"

namespace lgd {

struct Error : std::runtime_error {
  std::string code;
  int system_error;  // errno of the call that failed, where a caller goes by it; else 0
  Error(std::string code_, const std::string& message, int system_error_ = 0)
      : std::runtime_error(message), code(std::move(code_)), system_error(system_error_) {}
};

/** The parts, one after the other. */
std::string concat(std::initializer_list<MessagePart> parts);

}  // namespace lgd
