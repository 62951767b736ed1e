// The parts of cuda_streams (main.cpp).
#pragma once
#include <string>

namespace lgd {

void check(bool good, const std::string& what);  // counts it, and prints `what` where it is not good
void check_tuning();                             // tuning.cpp
void check_refused_graphs();
void check_refused_early_starts();
void check_two_devices();  // contract.cpp
void check_fixed_parts();
std::string error_of_disposal();  // disposal.cpp

}  // namespace lgd
