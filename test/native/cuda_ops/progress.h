// Where a program of many checks stands, so that one check that takes the GPU away costs no other: a kernel that faults
// leaves its process no CUDA, and one that hangs never returns. The program then names the check and ends with status
// 3, and whoever started it (test/gpu/programs.ts) starts it again with the arguments it named: behind that check,
// counts as they were.
#pragma once
#include <sys/time.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "core/device.h"

namespace lgd::testing {

class Progress {
 public:
  int checks = 0, failures = 0;

  // Takes from=N, checks=N and failed=N, where a run before got to; only=N, that check alone; and seconds=N, which a
  // check may take (as long as it wants).
  bool reads(const char* word) {
    if (std::strncmp(word, "seconds=", 8) == 0) return seconds_ = std::atof(word + 8), true;
    const std::pair<const char*, int*> all[] = {
        {"from=", &from_}, {"only=", &only_}, {"checks=", &checks}, {"failed=", &failures}};
    for (const auto& [name, value] : all)
      if (std::strncmp(word, name, std::strlen(name)) == 0) return *value = std::atoi(word + std::strlen(name)), true;
    return false;
  }

  // Whether the next check, one in `every`, is to be run.
  bool is_next(int every = 1) {
    const int number = next_++;
    return number >= from_ && (only_ < 0 || number == only_) && number % every == 0;
  }

  // Starts the time of the check, or of a part of it.
  void watch(const std::string& name) {
    if (seconds_ == 0) return;
    std::fflush(stdout);
    std::snprintf(farewell, sizeof farewell,
                  "LOST %s: it takes longer than %g s; go on with from=%d checks=%d failed=%d\n", name.c_str(),
                  seconds_, next_, checks + 1, failures + 1);
    std::signal(SIGALRM, [](int) {
      [[maybe_unused]] const auto written = write(1, farewell, std::strlen(farewell));
      _exit(lost_status);
    });
    itimerval time{};
    time.it_value.tv_sec = time_t(seconds_);
    time.it_value.tv_usec = suseconds_t((seconds_ - std::floor(seconds_)) * 1e6);
    setitimer(ITIMER_REAL, &time, nullptr);
  }

  // After an error, once it was counted: ends the program if the device answers no more.
  void go_on(const std::string& name, const std::shared_ptr<Device>& device) const {
    try {
      device->run("probe", [&] {
        const Buffer memory(device, 256);
        device->zero(memory.as<>(), 256);
        device->synchronize();
      });
    } catch (const std::exception& e) {
      std::printf("LOST %s: %s; go on with from=%d checks=%d failed=%d\n", name.c_str(), e.what(), next_, checks,
                  failures);
      std::fflush(stdout);
      std::_Exit(lost_status);  // nothing of CUDA can be given back
    }
  }

 private:
  static constexpr int lost_status = 3;
  static inline char farewell[400];
  int from_ = 0, only_ = -1, next_ = 0;
  double seconds_ = 0;
};

}  // namespace lgd::testing
