// The parts of cuda_streams (main.cpp).
#pragma once
#include <cstdlib>
#include <optional>
#include <string>

namespace lgd {

void check(bool good, const std::string& what);  // counts it, and prints `what` where it is not good
void check_tuning();                             // tuning.cpp
void check_refused_graphs();
void check_refusals_in_a_row();
void check_refused_early_starts();
void check_two_devices();  // contract.cpp
void check_fixed_parts();
void check_failed_read();
std::string error_of_disposal();  // disposal.cpp

// A variable of the environment, as it was before when this goes.
class Setting {
 public:
  Setting(const char* name, const char* text) : name_(name) {
    if (const char* const before = std::getenv(name)) before_ = before;
    setenv(name, text, 1);
  }
  ~Setting() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  const char* name_;
  std::optional<std::string> before_;
};

}  // namespace lgd
