// Starts a thread, or says why the system does not.
#pragma once
#include <system_error>
#include <thread>
#include <utility>

#include "core/check.h"

namespace lgd {

template <class Body>
std::thread start_thread(Body&& body) {
  try {
    return std::thread(std::forward<Body>(body));
  } catch (const std::system_error& error) {
    throw_error("DEVICE_UNAVAILABLE",
                {"the system starts no further thread (", error.what(),
                 "). Ask for fewer by `threads`, or raise its limit (ulimit -u; the pids limit of a container)"});
  }
}

}  // namespace lgd
